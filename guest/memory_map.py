"""The memory map of the built-in guest: regions, malformed entries, holes, symbols."""

from collections.abc import Iterator

from crosswalk.guest import places
from crosswalk.guest.errors import LayoutError
from crosswalk.guest.layout import PAGE, Bit, MemoryMap, Raw, span_of
from crosswalk.guest.regions import regions
from crosswalk.guest.status import ACCOUNT_SLOTS, LOG_OFFSET

__all__ = ["memory_map"]


def memory_map(levels: int) -> MemoryMap:
    """Return the description of the guest with this many paging levels, 4 or 5.

    Raises `LayoutError` for any other number.
    """
    if levels not in places.DIRECT_MAP:
        raise LayoutError(f"no guest has {levels} paging levels: 4 and 5 are possible")
    return MemoryMap(
        levels=levels,
        ram_size=places.RAM_SIZE,
        regions=tuple(regions(levels)),
        raws=tuple(_raws(levels)),
        holes=(
            ("null page", 0, PAGE),
            ("guard after text", places.KERNEL + places.TEXT + 4 * PAGE, PAGE),
            ("guard after rodata", places.KERNEL + places.RODATA + 2 * PAGE, PAGE),
            ("guard below stack", places.KERNEL + places.STACK - PAGE, PAGE),
            ("guard after user text", places.USER + 2 * PAGE, PAGE),
        ),
        recursive_slot=places.RECURSIVE_SLOT,
        recursive_flags=Bit.P | Bit.RW | Bit.NX,
        symbols=symbols_of(levels),
    )


def _raws(levels: int) -> Iterator[Raw]:
    """Yield entries of every level without P, and present ones that no walk can use."""
    for level in range(1, levels + 1):
        for place, junk in enumerate((~Bit.P, 0x8000_DEAD_BEEF_F00E, places.POOL | 0x66)):
            yield Raw(
                name=f"junk {place} at level {level}",
                va=places.JUNK[level] + place * span_of(level),
                level=level,
                entry=junk & (1 << 64) - 1,
            )
    usual = Bit.P | Bit.RW | Bit.US
    frame = places.WRITABLE + 64 * PAGE
    for name, level, place, entry in (
        ("bit 51 in a 4-KiB leaf", 1, 16, usual | frame | 1 << 51),
        ("bit 40 in a 4-KiB leaf", 1, 18, usual | frame | 1 << 40),
        ("bit 13 in a 2-MiB leaf", 2, 16, usual | Bit.PS | places.LARGE_USER | 1 << 13),
        ("bit 20 in a 2-MiB leaf", 2, 18, usual | Bit.PS | places.LARGE_USER | 1 << 20),
        ("bit 51 above a page table", 2, 20, usual | places.POOL | 1 << 51),
        ("bit 13 in a 1-GiB leaf", 3, 16, usual | Bit.PS | 1 << 13),
        ("bit 29 in a 1-GiB leaf", 3, 18, usual | Bit.PS | 1 << 29),
        ("bit 40 above a page directory", 3, 20, usual | places.POOL | 1 << 40),
        # Read-only: the recursive slot shows them as large pages over all of RAM.
        ("PS at level 4", 4, 16, Bit.P | Bit.US | Bit.PS),
        ("PS at level 5", 5, 16, Bit.P | Bit.US | Bit.PS),
    ):
        if level <= levels:
            yield Raw(
                name=name,
                va=places.JUNK[level] + place * span_of(level),
                level=level,
                entry=entry,
                reserved=True,
            )
    yield Raw(
        name="page table outside RAM",
        va=places.JUNK[2] + 24 * span_of(2),
        level=2,
        entry=usual | places.OUTSIDE,
    )


def symbols_of(levels: int) -> dict[str, int]:
    kernel, direct = places.KERNEL, places.DIRECT_MAP[levels]
    return {
        "LEVELS": levels,
        "PROTECTED": places.PROTECTED,
        "LONG": places.LONG,
        "RECORDS": places.RECORDS,
        "STATUS": places.STATUS,
        "VARIABLES": places.VARIABLES,
        "BOOT_STACK_TOP": places.VARIABLES + PAGE,
        "POOL": places.POOL,
        "POOL_FRAMES": places.POOL_FRAMES,
        "KERNEL_TEXT": kernel + places.TEXT,
        "KERNEL_RODATA": kernel + places.RODATA,
        "KERNEL_DATA": kernel + places.DATA,
        "KERNEL_STACK_TOP": kernel + places.STACK + places.STACK_PAGES * PAGE,
        "TRAPS": kernel + places.TRAPS,
        "MAILBOX": kernel + places.MAILBOX,
        "ON_PURPOSE": kernel + places.ON_PURPOSE,
        "DESCRIPTORS": kernel + places.DESCRIPTORS,
        "RSP0_TOP": kernel + places.RSP0_TOP,
        "IST1_TOP": kernel + places.IST1_TOP,
        "IST2_TOP": kernel + places.IST2_TOP,
        "KERNEL_DATA_ALIAS": direct + places.DATA,
        "STATUS_ALIAS": direct + places.STATUS,
        "ACCOUNT_SLOTS": ACCOUNT_SLOTS,
        "LOG_OFFSET": LOG_OFFSET,
        "USER_DATA": places.USER_DATA,
        "USER_TEXT": places.USER,
        "USER_STACK_TOP": places.user_top(levels) - PAGE,
    }
