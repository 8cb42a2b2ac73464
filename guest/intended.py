"""What the guest is intended to map, worked out from its description: the third witness.

No paging structure is walked for it, not even for what the recursive slot shows. The root's entry
at that slot leads to the root. So a walk that goes through it `times` times reads each paging
structure as one that many levels lower: an entry of level L acts as one of level L - times. At
level 1 it is a leaf, whatever it was written for; at 2 and 3 it is one if PS is set. The address
of such a page has the slot `times` times as its leading indices, then those of the entry itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crosswalk.guest.errors import LayoutError
from crosswalk.guest.layout import PAGE, Bit, MemoryMap, Upper, sign_extended, span_of
from crosswalk.guest.status import Table

__all__ = ["Faulting", "Intended", "recursive_views"]

# The guest's machine has 40 physical address bits; a 2-MiB or 1-GiB leaf's low ones are reserved.
ADDRESS = (1 << 40) - PAGE
RESERVED = (1 << 52) - (1 << 40)
LOW_RESERVED = {1: 0, 2: (1 << 21) - (1 << 13), 3: (1 << 30) - (1 << 13)}


@dataclass(frozen=True, slots=True)
class Intended:
    """`count` neighbouring pages of `size` bytes from `va` on, mapped to frames from `pa` on.

    `supervisor` and `user` are rights as "rwx" with dashes under the guest's final CR0.WP,
    EFER.NXE, CR4.SMEP and CR4.SMAP, with RFLAGS.AC clear and PKRU left out.
    """

    name: str
    va: int
    pa: int
    size: int
    count: int
    supervisor: str
    user: str


@dataclass(frozen=True, slots=True)
class Faulting:
    """`size` bytes from `va` on where every access faults; with RSVD set where `reserved`."""

    name: str
    va: int
    size: int
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """A present entry above level 1: where it is used, and what it holds."""

    name: str
    va: int
    level: int
    word: int


def recursive_views(memory_map: MemoryMap, tables: Sequence[Table]) -> Iterator[Intended]:
    """Yield every page below the recursive slot, one by one.

    `tables` is the log of the guest that has built `memory_map`.

    Raises `LayoutError` if the slot isn't for the supervisor's data alone: its flags then don't
    decide the rights as is assumed here.
    """
    if memory_map.recursive_flags & (Bit.US | Bit.NX) != Bit.NX:
        raise LayoutError("the recursive slot must have NX set and U/S clear")
    parents = {
        (table.level, table.va // span_of(table.level + 1)): _upper_at(memory_map, table)
        for table in tables[1:]
    }
    for entry in _entries(memory_map, tables):
        above = (
            parents[level, entry.va // span_of(level + 1)]
            for level in range(entry.level, memory_map.levels)
        )
        writable = all(flags & Bit.RW for flags in (entry.word, memory_map.recursive_flags, *above))
        yield from _views(memory_map, entry, "rw-" if writable else "r--")


def _entries(memory_map: MemoryMap, tables: Sequence[Table]) -> Iterator[_Entry]:
    root, *others = tables
    slot = memory_map.recursive_va
    yield _Entry("root", slot, memory_map.levels, root.pa | memory_map.recursive_flags)
    for table in others:
        level = table.level + 1
        name = f"table of level {table.level} at {table.va:#x}"
        yield _Entry(name, table.va, level, table.pa | _upper_at(memory_map, table))
    for region in memory_map.regions:
        if region.level > 1:
            span = span_of(region.level)
            for at in range(0, region.count * span, span):
                yield _Entry(region.name, region.va + at, region.level, region.entry + at)
    for raw in memory_map.raws:
        if raw.level > 1 and raw.entry & Bit.P:
            yield _Entry(raw.name, raw.va, raw.level, raw.entry)


def _upper_at(memory_map: MemoryMap, table: Table) -> int:
    """Return the flags of the entry for `table`: those of the region it was made for."""
    for region in memory_map.regions:
        if region.va <= table.va < region.va + region.count * span_of(region.level):
            return region.upper.flags(table.level + 1)
    return Upper().flags(table.level + 1)


def _views(memory_map: MemoryMap, entry: _Entry, rights: str) -> Iterator[Intended]:
    highest = min(entry.level - 1, 3) if entry.word & Bit.PS else 1
    for level in range(1, highest + 1):
        if entry.word & (RESERVED | LOW_RESERVED[level]):
            continue
        times = entry.level - level
        yield Intended(
            name=f"{entry.name}, seen at level {level}",
            va=_view_va(memory_map, entry, times),
            pa=entry.word & ADDRESS & -span_of(level),
            size=span_of(level),
            count=1,
            supervisor=rights,
            user="---",
        )


def _view_va(memory_map: MemoryMap, entry: _Entry, times: int) -> int:
    levels = memory_map.levels
    slots = sum(
        memory_map.recursive_slot * span_of(level) for level in range(levels, levels - times, -1)
    )
    path = (entry.va & (span_of(levels + 1) - 1)) >> (9 * times)
    return sign_extended(slots | path & -span_of(entry.level - times), levels)
