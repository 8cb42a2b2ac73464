"""Plainer places: tables in a row from 0x1000, first indices, pages right behind, small RAM."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from crosswalk.emu.fuzz.reduce.reducer import Search, Steps, fewer, in_turn
from crosswalk.emu.fuzz.reduce.slots import (
    Slot,
    at_index,
    entry_at,
    field_of,
    frame_of,
    natural_field,
    pointed_to,
    slots_of,
    tables_of,
    way_of,
    with_entry,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import FRAME

__all__ = ["alike", "compacted", "relocations", "way"]

_RAM = 1 << 20
_MOST_RAM = 1 << 37  # The probe takes no more than twice as much.
_INDICES = (0, 1, 256)
_PDPT = 32
"""Bytes of a PDPT of PAE paging, the one table that is no frame."""


def relocations(case: Case) -> Search[Case]:
    """Yield cases with lower tables, indices, pages and RAM; with one probe, on its way."""
    if len(case.probes) == 1:
        case = yield from in_turn(case, (_plainest, _apart, _in_a_row))
        case = yield from _lower_indices(case)
        case = yield from _plainer_address(case)
    else:
        case = yield from in_turn(case, (_in_a_row,))
    case = yield from _plainer_fields(case)
    yield from in_turn(case, (lambda one: _with_ram(one, _RAM), lambda one: _with_ram(one, 0)))


def way(case: Case) -> tuple[Slot, ...]:
    """Return the way of a case's probe; none, if it has several."""
    return way_of(case, case.probes[0].va) if len(case.probes) == 1 else ()


def compacted(case: Case, vas: Sequence[int]) -> Case:
    """Return a case with its tables in a row from 0x1000 up, in the order of these addresses' ways.

    Entries that lead to a table, also as to a page, have its new address.
    """
    context = case.context()
    ways = tuple(way_of(case, va) for va in vas)
    new = {frame: FRAME * (at + 1) for frame, at in tables_of(case, ways).items()}
    root, low = frame_of(context.root), context.root % FRAME
    if any(frame_of(pa) == root and not low <= pa % FRAME < low + _PDPT for pa in case.entries):
        low = 0  # Other entries lie in the frame with the 32 bytes of a PDPT of PAE paging.
    entries: dict[int, int] = {}
    for slot in slots_of(case, tuple(chain.from_iterable(ways))):
        frame = frame_of(slot.pa)
        to = new[frame] + slot.pa % FRAME - (low if frame == root else 0)
        entries = with_entry(context, entries, to, _led(context, slot, new))
    return _placed(case, entries, new[root] + context.root % FRAME - low)


def _led(context: PagingContext, slot: Slot, new: dict[int, int]) -> int:
    """Return an entry that leads to where its table is now."""
    table = pointed_to(context, slot, new)
    return slot.entry if table is None else slot.entry ^ table ^ new[table]


def _placed(case: Case, entries: dict[int, int], root: int) -> Case:
    """Return the case with these entries and this root.

    In a mebibyte of RAM, or more, where its own doesn't have all its tables.
    """
    old = case.context().root
    tables = {frame_of(pa) for pa in (root, *entries)}
    ram = case.ram
    if not all(any(start <= at < start + size for start, size in ram) for at in tables):
        ram = ((0, max(_RAM, max(tables) + FRAME)),)
    return replace(
        case, cpu=replace(case.cpu, cr3=case.cpu.cr3 - old + root), ram=ram, entries=entries
    )


def _in_a_row(case: Case) -> Case:
    return compacted(case, [probe.va for probe in case.probes[:1]])


def _plainest(case: Case) -> Case:
    """Return the case with tables of its own for each level, all indices 0 and the page behind."""
    case = _apart(case) or _in_a_row(case)
    context = case.context()
    for number in range(context.levels):
        case = _reindexed(case, number + 1, 0) or case
    probe = case.probes[0]
    # What lies below the last entry of the way is in no table.
    last = way(case)[-1]
    if last.level is not None:
        case = replace(case, probes=(replace(probe, va=probe.va & -last.level.span),))
    for slot in way(case)[-1:]:
        case = _with_field(case, [slot], natural_field(context, slot, len(_tables(case))))
    return case


def _apart(case: Case) -> Case | None:
    """Return the case with a table of its own for each level of its way, none used twice."""
    context, slots = case.context(), way(case)
    frames = [frame_of(slot.pa) for slot in slots]
    if len({*frames}) == len(frames):
        return None
    entries: dict[int, int] = {}
    for at, slot in enumerate(slots):
        entry = slot.entry
        if at + 1 < len(slots):
            entry = _led(context, slot, {frames[at + 1]: FRAME * (at + 2)})
        if entry:
            entries = with_entry(context, entries, FRAME * (at + 1) + slot.pa % FRAME, entry)
    # Of the last table a list may show more than the entry of the way.
    last = FRAME * len(frames)
    beside = {
        pa - frames[-1] + last: word
        for pa, word in case.entries.items()
        if frame_of(pa) == frames[-1]
    }
    return _placed(case, beside | entries, FRAME + context.root % FRAME)


def _lower_indices(case: Case) -> Steps[Case]:
    for number in range(case.context().levels, 0, -1):
        batch = [_reindexed(case, number, index) for index in _INDICES]
        accepted = yield batch
        chosen = None if accepted is None else batch[accepted]
        case = case if chosen is None else chosen
    return case


def _reindexed(case: Case, number: int, index: int) -> Case | None:
    """Return the case with another index at a level, and its entry there.

    What lies there changes places with it; the indices of other levels that use one of the two
    follow. None for what is so already, and where there is no such index.
    """
    context, probe = case.context(), case.probes[0]
    level = level_of(context, number)
    if index >= level.entries or level.index(probe.va) == index:
        return None
    slots = {slot.level.number: slot for slot in way(case) if slot.level is not None}
    va, entries = at_index(context, probe.va, level, index), case.entries
    if number in slots:
        one = slots[number].pa
        other = one + (index - level.index(probe.va)) * level.entry_size
        both = (one, other), (other, one)
        for to, of in both:
            entries = with_entry(context, entries, to, entry_at(context, case.entries, of))
        for slot in slots.values():
            for to, of in both:
                if slot.pa == of and slot.level is not None:
                    moved = slot.level.index(probe.va) + (to - of) // level.entry_size
                    va = at_index(context, va, slot.level, moved % slot.level.entries)
    return replace(case, entries=entries, probes=(replace(probe, va=va),))


def _plainer_address(case: Case) -> Steps[Case]:
    """Yield the case with no offset into its page, and, where it isn't canonical, fewer bits."""
    case = yield from in_turn(
        case, (lambda one: _offset_lost(one, 0), lambda one: _offset_lost(one, 12))
    )
    va, context = case.probes[0].va, case.context()
    if context.canonical(va) and not context.address_features:
        return case
    bits = [1 << at for at in reversed(range(64)) if va >> at & 1]
    return (yield from fewer(case, bits, lambda one, left: _at(one, sum(left))))


def _at(case: Case, va: int) -> Case:
    return replace(case, probes=(replace(case.probes[0], va=va),))


def _offset_lost(case: Case, bits: int) -> Case | None:
    """Return the case without the low bits of its address, those below the page if 0."""
    level = way(case)[-1].level
    shift = level.shift if not bits and level is not None else bits
    return _at(case, case.probes[0].va >> shift << shift)


def _tables(case: Case) -> dict[int, int]:
    return tables_of(case, (way(case),))


def alike(case: Case) -> Iterator[list[Slot]]:
    """Yield the entries that aren't 0, those together that are equal and of one table and role.

    Tables of equal entries are one thing: a walker may look at just that.
    """
    slots = way(case)
    used = {slot.pa for slot in slots}
    groups: dict[tuple[int, int, bool], list[Slot]] = {}
    for slot in slots_of(case, slots):
        groups.setdefault((frame_of(slot.pa), slot.entry, slot.pa in used), []).append(slot)
    for (frame, entry, on_way), some in groups.items():
        beside = groups.get((frame, entry, False), []) if on_way else []
        if beside:
            yield some + beside
        yield some


def _plainer_fields(case: Case) -> Steps[Case]:
    """Yield the case with plainer addresses in the entries that lead to no table."""
    for group in list(alike(case)):
        if pointed_to(case.context(), group[0], _tables(case)) is None:
            case = yield from _plainer_field(case, group)
    return case


def _plainer_field(case: Case, group: list[Slot]) -> Steps[Case]:
    context = case.context()
    mask = field_of(context)
    natural = natural_field(context, group[0], len(_tables(case)))
    now = group[0].entry & mask
    values = [value for value in dict.fromkeys((natural, 0)) if value != now]
    batch = [_with_field(case, group, value) for value in values]
    accepted = yield batch
    if accepted is not None:
        return batch[accepted]
    bits = [1 << at for at in reversed(range(52)) if now >> at & 1]
    if now == natural or len(bits) < 2:  # One bit can't be fewer, but none.
        return case
    return (
        yield from fewer(case, bits, lambda one, left: _with_field(one, group, sum(left)), least=1)
    )


def _with_field(case: Case, slots: Sequence[Slot], field: int) -> Case:
    context, entries = case.context(), case.entries
    mask = field_of(context)
    for slot in slots:
        entries = with_entry(context, entries, slot.pa, slot.entry & ~mask | field & mask)
    return replace(case, entries=entries)


def _with_ram(case: Case, size: int) -> Case | None:
    """Return the case with RAM from 0 up, to the end of the last table if that is 0 bytes.

    None where that is more than can be tried: a table that has to stay high.
    """
    root = case.context().root
    last = frame_of(max([root, *case.entries])) + FRAME
    if last > _MOST_RAM:
        return None
    return replace(case, ram=((0, size or last),)) if size in (0, max(size, last)) else None
