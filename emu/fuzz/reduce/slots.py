"""What the words of a case are: entries on the way of an address, and beside it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, Level, is_leaf, level_of
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import FRAME

__all__ = [
    "Slot",
    "at_index",
    "entry_at",
    "entry_size",
    "field_of",
    "frame_of",
    "natural_field",
    "plain_entry",
    "pointed_to",
    "slots_of",
    "tables_of",
    "way_of",
    "with_entry",
]

Words = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """An entry at `pa`: `level` is that of its table, None of one that isn't on the way."""

    pa: int
    entry: int
    level: Level | None = None


def frame_of(pa: int) -> int:
    """Return the address of the frame that an entry lies in."""
    return pa // FRAME * FRAME


def entry_size(context: PagingContext) -> int:
    """Return the bytes of an entry."""
    return 4 if context.mode is PagingMode.BIT32 else 8


def entry_at(context: PagingContext, words: Words, pa: int) -> int:
    """Return the entry at `pa`, 0 where there is none."""
    word = words.get(pa & -8, 0)
    return word if entry_size(context) == 8 else word >> pa % 8 * 8 & 0xFFFF_FFFF


def with_entry(context: PagingContext, words: Words, pa: int, entry: int) -> dict[int, int]:
    """Return the words with another entry at `pa`; a word of zeros is none."""
    at, word = pa & -8, entry
    if entry_size(context) == 4:
        shift = pa % 8 * 8
        word = words.get(at, 0) & ~(0xFFFF_FFFF << shift) | entry << shift
    changed = {**words, at: word}
    if not word:
        del changed[at]
    return changed


def field_of(context: PagingContext) -> int:
    """Return the bits of an entry that may be of an address, whatever MAXPHYADDR is."""
    return ADDRESS_FIELD & (0xFFFF_FFFF if entry_size(context) == 4 else -1)


def pointed_to(context: PagingContext, slot: Slot, tables: Mapping[int, object]) -> int | None:
    """Return which of the tables an entry leads to, whether or not it may have its other bits.

    A large page leads there if it begins there.
    """
    field, level = field_of(context), slot.level
    if level is not None and level.number > 1 and is_leaf(context, level.number, slot.entry):
        field &= ~Entry.PAT_LARGE
        if slot.entry & field & level.span - 1:
            return None
    for mask in (context.address_mask, field):
        if slot.entry & mask & field in tables:
            return slot.entry & mask & field
    return None


def way_of(case: Case, va: int) -> tuple[Slot, ...]:
    """Return the entries that an address selects, from the root down.

    Neither what a walk has to stop at ends them, nor that PS makes a page, as long as there are
    entries where they lead to: a walker under test may have gone on.
    """
    context = case.context()
    held = dict.fromkeys(frame_of(pa) for pa in case.entries)
    table, slots = context.root, []
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        pa = table + level.entry_size * level.index(va)
        entry = entry_at(context, case.entries, pa)
        slots.append(Slot(pa, entry, level))
        below = pointed_to(context, slots[-1], held)
        if below is None and entry & Entry.P and not is_leaf(context, number, entry):
            below = entry & context.address_mask
        if below is None or not entry:
            break
        table = below
    return tuple(slots)


def slots_of(case: Case, way: tuple[Slot, ...]) -> Iterator[Slot]:
    """Yield the entries of a case that aren't 0, by address; those of the way's tables by level."""
    context, size = case.context(), entry_size(case.context())
    levels = {slot.pa: slot.level for slot in reversed(way)}
    tables = {frame_of(slot.pa): slot.level for slot in reversed(way)}
    for at in sorted(case.entries):
        for pa in range(at, at + 8, size):
            entry = entry_at(context, case.entries, pa)
            if entry:
                yield Slot(pa, entry, levels.get(pa, tables.get(frame_of(pa))))


def tables_of(case: Case, ways: tuple[tuple[Slot, ...], ...]) -> dict[int, int]:
    """Return the frames of all tables, in the order of the ways, with how many are before each."""
    frames = [frame_of(case.context().root)]
    frames += [frame_of(slot.pa) for way in ways for slot in way]
    frames += sorted({frame_of(pa) for pa in case.entries})
    return {frame: at for at, frame in enumerate(dict.fromkeys(frames))}


def plain_entry(context: PagingContext, slot: Slot) -> int:
    """Return the flags of a plain entry: present, writable, for the user.

    Of a PDPTE of PAE paging, which has no rights: present.
    """
    pdpte = context.mode is PagingMode.PAE and 0 <= slot.pa - context.root < 32
    return int(Entry.P) if pdpte else int(Entry.P | Entry.RW | Entry.US)


def natural_field(context: PagingContext, slot: Slot, tables: int) -> int:
    """Return the address in an entry that leads to no table, where it doesn't matter.

    Of a page: the first of its size that lies behind so many tables; else 0.
    """
    level = slot.level
    if level is None or not slot.entry & Entry.P or not is_leaf(context, level.number, slot.entry):
        return 0
    return max(level.span, FRAME * (tables + 1)) & -level.span


def at_index(context: PagingContext, va: int, level: Level, index: int) -> int:
    """Return the address with another index at a level, canonical if that changes its half."""
    changed = va & ~(level.entries - 1 << level.shift) | index << level.shift
    bits = context.va_bits
    if not context.mode.long or not (changed ^ va) >> bits - 1 & 1:
        return changed
    low = changed & (1 << bits) - 1
    return low | ((1 << 64) - (1 << bits) if low >> bits - 1 else 0)
