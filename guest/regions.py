"""Everything the built-in guest maps, and the rights each mapping is meant to give.

No frame is writable and executable over all of its mappings together, those below the recursive
slot included, except for the one of "user jit", which is so on purpose.
"""

from collections.abc import Iterator

from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit, Region, Upper, key, span_of
from crosswalk.walker.architecture import GIB

__all__ = ["regions"]

# Flags of leaves, named after the rights they leave.
RX = Bit.P
R = Bit.P | Bit.NX
RW = Bit.P | Bit.RW | Bit.NX
USER_RX = RX | Bit.US
USER_R = R | Bit.US
USER_RW = RW | Bit.US
USER_RWX = Bit.P | Bit.RW | Bit.US
ALL = Bit.P | Bit.RW | Bit.US


def regions(levels: int) -> Iterator[Region]:
    """Yield what the guest with this many paging levels maps, in the order it is planted."""
    yield from _identity()
    yield from _kernel()
    yield from _direct_map(places.DIRECT_MAP[levels])
    yield from _user(levels)
    yield from _keyed()
    yield from _odd(places.DIRECT_MAP[levels])
    yield from _narrowed(levels)


def _identity() -> Iterator[Region]:
    """Yield what the guest needs when paging comes on under its feet."""
    for name, pa, count, flags, rights in (
        ("boot status", places.STATUS, places.STATUS_PAGES, RW, "rw-"),
        ("boot variables", places.VARIABLES, 1, RW, "rw-"),
        ("boot text", places.BOOT, 1, RX, "r-x"),
        ("boot records", places.RECORDS, places.RECORDS_PAGES, R, "r--"),
    ):
        yield Region(name=name, va=pa, pa=pa, count=count, flags=flags, supervisor=rights)


def _kernel() -> Iterator[Region]:
    for name, pa, level, count, flags, rights in (
        ("text", places.TEXT, 1, 4, RX, "r-x"),
        ("rodata", places.RODATA, 1, 2, R, "r--"),
        ("data", places.DATA, 1, 4, RW, "rw-"),
        ("stack", places.STACK, 1, places.STACK_PAGES, RW, "rw-"),
        ("large text", places.LARGE_TEXT, 2, 1, RX, "r-x"),
        ("large data", places.LARGE_DATA, 2, 1, RW, "rw-"),
    ):
        yield Region(
            name=name,
            va=places.KERNEL + pa,
            pa=pa,
            level=level,
            count=count,
            flags=flags | Bit.G,
            supervisor=rights,
        )
    yield Region(
        name="last page",
        va=places.LAST_PAGE,
        pa=places.LAST_FRAME,
        flags=RW | Bit.G,
        supervisor="rw-",
    )


def _direct_map(direct: int) -> Iterator[Region]:
    """Yield the direct map: 4-KiB pages up to 2 MiB, then 2-MiB pages up to the end of RAM."""
    last = places.RAM_SIZE
    for name, start, end, level, flags, rights in (
        ("direct map: low", 0, places.BOOT, 1, RW, "rw-"),
        ("direct map: boot", places.BOOT, 0xC000, 1, R, "r--"),
        ("direct map: conventional", 0xC000, places.TEXT, 1, RW, "rw-"),
        ("direct map: text and rodata", places.TEXT, 0x10_7000, 1, R, "r--"),
        ("direct map: data", 0x10_7000, places.EXECUTABLE, 1, RW, "rw-"),
        ("direct map: executable", places.EXECUTABLE, places.WRITABLE, 1, R, "r--"),
        ("direct map: writable", places.WRITABLE, places.LARGE_TEXT, 1, RW, "rw-"),
        ("direct map: large text", places.LARGE_TEXT, places.LARGE_DATA, 2, R, "r--"),
        ("direct map: large", places.LARGE_DATA, last, 2, RW, "rw-"),
        ("direct map: outside", places.OUTSIDE, 2 * places.OUTSIDE, 3, RW, "rw-"),
    ):
        yield Region(
            name=name,
            va=direct + start,
            pa=start,
            level=level,
            count=(end - start) // span_of(level),
            flags=flags | Bit.G,
            supervisor=rights,
        )


def _user(levels: int) -> Iterator[Region]:
    top = places.user_top(levels)
    x, w = places.EXECUTABLE, places.WRITABLE
    for name, va, pa, level, count, flags, rights in (
        ("user text", places.USER, x, 1, 2, USER_RX, "r-x"),
        ("user rodata", places.USER_RODATA, w, 1, 2, USER_R, "r--"),
        ("user data", places.USER_DATA, places.USER_DATA_FRAME, 1, 4, USER_RW, "rw-"),
        ("user jit", places.USER + 16 * PAGE, x + 2 * PAGE, 1, 1, USER_RWX, "rwx"),
        ("user large", 0x1000_0000, places.LARGE_USER, 2, 1, USER_RW, "rw-"),
        ("user huge", 0x4000_0000, places.OUTSIDE, 3, 1, USER_R, "r--"),
        ("user stack", top - 2 * PAGE, w + 6 * PAGE, 1, 2, USER_RW, "rw-"),
    ):
        yield Region(
            name=name,
            va=va,
            pa=pa,
            level=level,
            count=count,
            flags=flags,
            supervisor="---",
            user=rights,
        )
    if levels == 5:
        yield Region(
            name="user far",
            va=0x00AB_C000_0000_0000,
            pa=w + 8 * PAGE,
            flags=USER_RW,
            supervisor="---",
            user="rw-",
        )


def _keyed() -> Iterator[Region]:
    """Yield pages with protection keys; the guest's PKRU denies some of it, rights leave it out."""
    frames = places.WRITABLE + 16 * PAGE
    for place, number in enumerate((1, 2, 3, 15)):
        yield Region(
            name=f"user key {number}",
            va=places.KEYED + place * PAGE,
            pa=frames + place * PAGE,
            flags=USER_RW | key(number),
            supervisor="---",
            user="rw-",
        )
    yield Region(
        name="kernel key 1",
        va=places.KEYED + 8 * PAGE,
        pa=frames + 8 * PAGE,
        flags=RW | key(1),
        supervisor="rw-",
    )
    yield Region(
        name="user large key 2",
        va=0x1020_0000,
        pa=places.LARGE_KEYED,
        level=2,
        flags=USER_RW | key(2),
        supervisor="---",
        user="rw-",
    )


def _odd(direct: int) -> Iterator[Region]:
    """Yield leaves that are legal and easily taken for something else."""
    frames = places.WRITABLE + 32 * PAGE
    uncached = RW | Bit.PCD | Bit.PWT
    ignored = ALL | Bit.SOFTWARE | key(15) | Bit.D | Bit.G
    for name, va, pa, level, flags, rights in (
        ("software bits", places.ODD, frames, 1, RW | Bit.SOFTWARE, "rw-"),
        ("4-KiB PAT", places.ODD + PAGE, frames + PAGE, 1, RW | Bit.PAT_4K, "rw-"),
        ("device page", places.ODD + 2 * PAGE, 0xFEE0_0000, 1, uncached, "rw-"),
        ("highest frame", places.ODD + 3 * PAGE, 0xFF_FFFF_F000, 1, uncached, "rw-"),
        ("2-MiB PAT", 0x1040_0000, places.LARGE_PAT, 2, RW | Bit.PAT_LARGE, "rw-"),
        ("2-MiB device", 0x1060_0000, 0xC000_0000, 2, uncached, "rw-"),
        ("1-GiB window", direct + places.WINDOW, 0, 3, R, "r--"),
        ("1-GiB PAT", direct + places.WINDOW + GIB, 0, 3, R | Bit.PAT_LARGE, "r--"),
    ):
        yield Region(name=name, va=va, pa=pa, level=level, flags=flags, supervisor=rights)
    yield Region(
        name="ignored bits above",
        va=0x1080_0000,
        pa=frames + 4 * PAGE,
        flags=RW,
        supervisor="rw-",
        upper=Upper(((2, ignored),)),
    )


def _narrowed(levels: int) -> Iterator[Region]:
    """Yield pages whose leaf allows what one entry above it, made for it alone, takes away."""
    x = places.EXECUTABLE + 8 * PAGE
    w = places.WRITABLE + 48 * PAGE
    for level in range(2, levels + 1):
        for place, (what, pa, leaf, upper, supervisor, user) in enumerate(
            (
                ("read-only", x, USER_RWX, ALL & ~Bit.RW, "---", "r-x"),
                ("supervisor", x + PAGE, USER_RX, ALL & ~Bit.US, "r-x", "---"),
                ("no-execute", w, USER_RWX, ALL | Bit.NX, "---", "rw-"),
                ("kernel read-only", w + PAGE, RW, ALL & ~Bit.RW, "r--", "---"),
            )
        ):
            yield Region(
                name=f"{what} at level {level}",
                va=places.NARROWED[level] + place * span_of(level),
                pa=pa + 2 * PAGE * (level - 2),
                flags=leaf,
                supervisor=supervisor,
                user=user,
                upper=Upper(((level, upper),)),
            )
