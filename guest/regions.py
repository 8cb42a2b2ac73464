"""Everything the built-in guest maps, and the rights each mapping is intended to give.

No frame is writable and executable over all of its mappings together, those below the recursive
slot included, except for the one of "user jit", which is so on purpose.
"""

from collections.abc import Iterable, Iterator

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


_Row = tuple[str, int, int, int, int, int, str]
"""Name, va, pa, level, count, flags, and the rights of those whom the leaf is for."""


def regions(levels: int) -> Iterator[Region]:
    """Yield what the guest with this many paging levels maps, in the order it is planted."""
    direct = places.DIRECT_MAP[levels]
    yield from _leaves(_IDENTITY)
    yield from _leaves(_KERNEL, places.KERNEL, Bit.G)
    yield from _leaves(
        [("last page", places.LAST_PAGE, places.LAST_FRAME, 1, 1, RW, "rw-")], flags=Bit.G
    )
    yield from _leaves(_DIRECT_MAP, direct, Bit.G)
    yield from _leaves(_user(levels))
    yield from _keyed()
    yield from _leaves(_ODD)
    yield from _leaves(_WINDOW, direct)
    yield Region(
        name="ignored bits above",
        va=0x1080_0000,
        pa=_ODD_FRAMES + 4 * PAGE,
        flags=RW,
        supervisor="rw-",
        upper=Upper(((2, ALL | Bit.SOFTWARE | key(15) | Bit.D | Bit.G),)),
    )
    yield from _narrowed(levels)


def _leaves(rows: Iterable[_Row], base: int = 0, flags: int = 0) -> Iterator[Region]:
    """Yield regions at `va` from `base` on, with `flags` beside their own."""
    for name, va, pa, level, count, own, rights in rows:
        yield Region(
            name=name,
            va=base + va,
            pa=pa,
            level=level,
            count=count,
            flags=own | flags,
            supervisor="---" if own & Bit.US else rights,
            user=rights if own & Bit.US else "---",
        )


# What the guest runs on, and with, when it turns paging on.
_IDENTITY: tuple[_Row, ...] = (
    ("boot status", places.STATUS, places.STATUS, 1, places.STATUS_PAGES, RW, "rw-"),
    ("boot variables", places.VARIABLES, places.VARIABLES, 1, 1, RW, "rw-"),
    ("boot text", places.BOOT, places.BOOT, 1, 1, RX, "r-x"),
    ("boot records", places.RECORDS, places.RECORDS, 1, places.RECORDS_PAGES, R, "r--"),
)

_KERNEL: tuple[_Row, ...] = (
    ("text", places.TEXT, places.TEXT, 1, 4, RX, "r-x"),
    ("rodata", places.RODATA, places.RODATA, 1, 2, R, "r--"),
    ("data", places.DATA, places.DATA, 1, 4, RW, "rw-"),
    ("stack", places.STACK, places.STACK, 1, places.STACK_PAGES, RW, "rw-"),
    ("large text", places.LARGE_TEXT, places.LARGE_TEXT, 2, 1, RX, "r-x"),
    ("large data", places.LARGE_DATA, places.LARGE_DATA, 2, 1, RW, "rw-"),
)

# 4-KiB pages up to 2 MiB, then 2-MiB pages up to the end of RAM, and one page outside.
_DIRECT_MAP: tuple[_Row, ...] = tuple(
    (f"direct map: {name}", start, start, level, (end - start) // span_of(level), flags, rights)
    for name, start, end, level, flags, rights in (
        ("low", 0, places.BOOT, 1, RW, "rw-"),
        ("boot", places.BOOT, 0xC000, 1, R, "r--"),
        ("conventional", 0xC000, places.TEXT, 1, RW, "rw-"),
        ("text and rodata", places.TEXT, 0x10_7000, 1, R, "r--"),
        ("data", 0x10_7000, places.EXECUTABLE, 1, RW, "rw-"),
        ("executable", places.EXECUTABLE, places.WRITABLE, 1, R, "r--"),
        ("writable", places.WRITABLE, places.LARGE_TEXT, 1, RW, "rw-"),
        ("large text", places.LARGE_TEXT, places.LARGE_DATA, 2, R, "r--"),
        ("large", places.LARGE_DATA, places.RAM_SIZE, 2, RW, "rw-"),
        ("outside", places.OUTSIDE, 2 * places.OUTSIDE, 3, RW, "rw-"),
    )
)


def _user(levels: int) -> list[_Row]:
    top = places.user_top(levels)
    x, w = places.EXECUTABLE, places.WRITABLE
    far = ("user far", 0x00AB_C000_0000_0000, w + 8 * PAGE, 1, 1, USER_RW, "rw-")
    return [
        ("user text", places.USER, x, 1, 2, USER_RX, "r-x"),
        ("user rodata", places.USER_RODATA, w, 1, 2, USER_R, "r--"),
        ("user data", places.USER_DATA, places.USER_DATA_FRAME, 1, 4, USER_RW, "rw-"),
        ("user jit", places.USER + 16 * PAGE, x + 2 * PAGE, 1, 1, USER_RWX, "rwx"),
        ("user large", 0x1000_0000, places.LARGE_USER, 2, 1, USER_RW, "rw-"),
        ("user huge", 0x4000_0000, places.OUTSIDE, 3, 1, USER_R, "r--"),
        ("user stack", top - 2 * PAGE, w + 6 * PAGE, 1, 2, USER_RW, "rw-"),
        *([far] if levels == 5 else []),
    ]


def _keyed() -> Iterator[Region]:
    """Yield pages with protection keys; the guest's PKRU denies some of it, rights leave it out."""
    frames = places.WRITABLE + 16 * PAGE
    for place, number in enumerate((1, 2, 3, 15)):
        va, pa = places.KEYED + place * PAGE, frames + place * PAGE
        yield from _leaves([(f"user key {number}", va, pa, 1, 1, USER_RW, "rw-")], 0, key(number))
    va, pa = places.KEYED + 8 * PAGE, frames + 8 * PAGE
    yield from _leaves([("kernel key 1", va, pa, 1, 1, RW, "rw-")], 0, key(1))
    large = ("user large key 2", 0x1020_0000, places.LARGE_KEYED, 2, 1, USER_RW, "rw-")
    yield from _leaves([large], 0, key(2))


# Leaves that are legal and easily taken for something else.
_ODD_FRAMES = places.WRITABLE + 32 * PAGE
_UNCACHED = RW | Bit.PCD | Bit.PWT
_ODD: tuple[_Row, ...] = (
    ("software bits", places.ODD, _ODD_FRAMES, 1, 1, RW | Bit.SOFTWARE, "rw-"),
    ("4-KiB PAT", places.ODD + PAGE, _ODD_FRAMES + PAGE, 1, 1, RW | Bit.PAT_4K, "rw-"),
    ("device page", places.ODD + 2 * PAGE, 0xFEE0_0000, 1, 1, _UNCACHED, "rw-"),
    ("highest frame", places.ODD + 3 * PAGE, 0xFF_FFFF_F000, 1, 1, _UNCACHED, "rw-"),
    ("2-MiB PAT", 0x1040_0000, places.LARGE_PAT, 2, 1, RW | Bit.PAT_LARGE, "rw-"),
    ("2-MiB device", 0x1060_0000, 0xC000_0000, 2, 1, _UNCACHED, "rw-"),
)
_WINDOW: tuple[_Row, ...] = (
    ("1-GiB window", places.WINDOW, 0, 3, 1, R, "r--"),
    ("1-GiB PAT", places.WINDOW + GIB, 0, 3, 1, R | Bit.PAT_LARGE, "r--"),
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
