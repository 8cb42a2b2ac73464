"""Lists of mappings: the ranges to ask for, the answers checked, and looked up by address."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import fields
from itertools import chain, pairwise
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.targets.answers import Given, Listed, Listing, Ranges
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.bulk import are_canonical, linear_addresses
from crosswalk.walker.columns import Accesses, distinct
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.leaves import Expanded, Tables, expand, walk_leaves
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.rights import ALL_GRANTS, GRANTS, Grant

__all__ = [
    "MAX_LISTED",
    "MAX_MAPPINGS",
    "Lister",
    "ask",
    "differences",
    "gather",
    "look_up",
    "range_of",
    "ranges_of",
    "ranges_with",
    "rights_text",
    "true_listing",
]

MAX_LISTED = 4096
"""The most mappings of a range that is listed as a whole; all such ranges together have up to eight
times as many."""

MAX_MAPPINGS = 1 << 17
"""The most mappings that a walker may list for one question."""

Lister = Callable[[int, int], Any]
"""Lists what touches [va, va_end), as (va, pa, size), (va, pa, size, flags) or (va, pa, size,
flags, rights); pa, flags and rights may be None, which says nothing of them. Rights are
effective rights as `uwx`, a dash for each that is missing. NotImplemented declines the range."""

_TOP = 1 << 64
_MAX_ALL = 8 * MAX_LISTED


def ranges_of(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Ranges:
    """Return the ranges of which a walker is to list the mappings.

    Root entries with at most `MAX_LISTED` mappings are asked for as a whole, together with the
    holes between them, so that any mapping that doesn't exist shows. Elsewhere, as in an address
    space whose tables lead back to themselves, only the pages of the accesses are asked for, one
    at a time, at their linear addresses after LAM and UAI. Addresses that aren't canonical never
    are.
    """
    return ranges_with(context, _whole_ranges(memory, context), accesses)


def ranges_with(
    context: PagingContext, whole: Sequence[tuple[int, int]], accesses: Accesses
) -> Ranges:
    """Return these whole ranges, (first, last) ascending, and beside them the accesses' pages."""
    page = distinct(linear_addresses(context, accesses) & ~np.uint64(FRAME - 1))
    page = page[are_canonical(context, page)]
    starts = np.array([first for first, _ in whole], np.uint64)
    ends = np.array([last for _, last in whole], np.uint64)
    within = np.searchsorted(starts, page, side="right") - 1
    covered = np.zeros(len(page), np.bool_)
    if len(starts):
        covered = (within >= 0) & (page <= ends[np.maximum(within, 0)])
    page = page[~covered]
    first = np.concatenate([starts, page])
    last = np.concatenate([ends, page + np.uint64(FRAME - 1)])
    order = np.argsort(first, kind="stable")
    kind = np.concatenate([np.ones(len(starts), np.bool_), np.zeros(len(page), np.bool_)])
    return Ranges(first[order], last[order], kind[order])


def _whole_ranges(memory: PhysicalMemory, context: PagingContext) -> list[tuple[int, int]]:
    """Return (first, last) of the ranges that can be listed, in IA-32e mode each in one half."""
    root = level_of(context, context.levels)
    span = root.span
    counts = _by_slot(memory, context)
    found: list[tuple[int, int]] = []
    left = _MAX_ALL
    halves = 2 if context.mode.long else 1
    for half in range(halves):
        count = MAX_LISTED + 1  # The first slot of a half begins a range.
        for slot in range(half * root.entries // halves, (half + 1) * root.entries // halves):
            va = slot * span + half * (_TOP - root.entries * span)
            held = counts[slot]
            if held > min(MAX_LISTED, left):
                count = MAX_LISTED + 1
                continue
            left -= held
            if count + held > MAX_LISTED:
                found.append((va, va + span - 1))
                count = held
            else:
                found[-1] = (found[-1][0], va + span - 1)
                count += held
    return found


def _by_slot(memory: PhysicalMemory, context: PagingContext) -> list[int]:
    """Return the number of mappings in and below each root entry, or one above `MAX_LISTED`.

    Tables are counted once a level, however many entries lead there, from the last level up.
    """
    frames = np.array([context.root], np.uint64)
    parts: list[tuple[U64, Expanded]] = []
    for level in range(context.levels, 0, -1):
        nothing = np.zeros(len(frames), np.uint64)
        grants = np.full(len(frames), ALL_GRANTS, np.uint8)
        part = expand(memory, context, level, Tables(nothing, frames, grants))
        parts.append((frames, part))
        frames = distinct(part.children.frame)
    below, counts = frames, np.zeros(0, np.int64)
    for frames, part in reversed(parts):
        under = np.zeros(len(part.children), np.int64)
        if len(below):
            under = counts[np.searchsorted(below, part.children.frame)]
        own = np.bincount(part.leaf_parent, minlength=len(frames))
        counts = own + np.bincount(part.child_parent, under, len(frames)).astype(np.int64)
        counts = np.minimum(counts, MAX_LISTED + 1)
        below = frames
    root = level_of(context, context.levels)
    held = np.concatenate([np.ones(len(part.leaves), np.int64), under])
    slot = np.concatenate([part.leaves.va, part.children.va]) >> np.uint64(root.shift)
    found = np.bincount(slot.astype(np.intp), held, root.entries)
    return [int(count) for count in found]


def true_listing(memory: PhysicalMemory, context: PagingContext, ranges: Ranges) -> Listing:
    """Return the mappings of the ranges that are whole, as the built-in walker lists them."""
    parts = [_listed(())]
    at = [np.zeros(0, np.int64)]
    for row in np.flatnonzero(ranges.whole).tolist():
        end = int(ranges.last[row]) + 1
        for leaves in walk_leaves(memory, context, int(ranges.first[row]), end):
            given = np.full(len(leaves), _EVERY, np.uint8)
            columns = (leaves.va, leaves.pa, leaves.size, leaves.flags, leaves.grant, given)
            parts.append(Listed(*columns))
            at.append(np.full(len(leaves), row, np.int64))
    return Listing(ranges, _joined(parts), np.concatenate(at), ~ranges.whole)


def _joined(parts: Sequence[Listed]) -> Listed:
    names = [field.name for field in fields(Listed)]
    return Listed(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def ask(context: PagingContext, ranges: Ranges, lister: Lister) -> Listing:
    """Return what a function lists for each range; raises `NoAnswer` as `gather`.

    NotImplemented declines a range; so does a generator that returns it and yields nothing.
    """
    bounds = zip(ranges.first.tolist(), ranges.last.tolist(), strict=True)
    said = (lister(first, last + 1) for first, last in bounds)
    return gather(context, ranges, map(_declined_or_not, said))


def _declined_or_not(said: Any) -> Any:
    """Return what a function lists, None where that is NotImplemented.

    A generator may return it as well, instead of yielding anything.
    """
    if said is NotImplemented:
        return None
    if not isinstance(said, Generator):
        return said
    try:
        first = next(said)
    except StopIteration as end:
        return None if end.value is NotImplemented else ()
    return chain([first], said)


def gather(
    context: PagingContext, ranges: Ranges, lists: Iterable[Iterable[Sequence[Any]] | None]
) -> Listing:
    """Return a walker's lists, one for each range, checked; None declines a range.

    What doesn't touch the range that was asked for is left out. Raises `NoAnswer` for too
    many mappings, for what is no mapping, for one at an address that isn't canonical, and for
    two of one address.
    """
    rows: list[Row] = []
    at: list[int] = []
    count = 0
    silent = np.zeros(len(ranges), np.bool_)
    for number, mappings in enumerate(lists):
        if mappings is None:
            silent[number] = True
            continue
        first, last = int(ranges.first[number]), int(ranges.last[number])
        mine = []
        for mapping in mappings:
            count += 1
            if count > MAX_MAPPINGS:
                message = f"more than {MAX_MAPPINGS:,} mappings"
                raise NoAnswer(Failure.FLOOD, "too many mappings", message)
            row = _checked(context, mapping)
            if row[0] <= last and row[0] + row[2] > first:
                mine.append(row)
        mine.sort()
        for one, other in pairwise(mine):
            if one[0] + one[2] > other[0]:
                message = f"two mappings of {other[0]:#x} in one list"
                raise NoAnswer(Failure.NONSENSE, "two mappings of one address", message)
        rows += mine
        at += [number] * len(mine)
    return Listing(ranges, _listed(rows), np.array(at, np.int64), silent)


Row = tuple[int, int, int, int, int, int]


def _listed(rows: Sequence[Row]) -> Listed:
    table = np.array(rows, np.uint64).reshape(-1, 6)
    va, pa, size, flags, rights, given = (np.ascontiguousarray(part) for part in table.T)
    return Listed(va, pa, size, flags, rights.astype(np.uint8), given.astype(np.uint8))


_RIGHTS = {"u": Grant.USER, "w": Grant.WRITE, "x": Grant.EXECUTE}


def rights_text(grant: int) -> str:
    """Return effective rights as `uwx`, a dash for each that is missing."""
    return "".join(name if grant & bit else "-" for name, bit in _RIGHTS.items())


_GRANTS: dict[Any, int] = {None: 0, **{rights_text(grant): grant for grant in range(GRANTS)}}
_FORM = "(va, pa, size, flags, rights)"
_PA, _FLAGS, _OWN_RIGHTS = (int(part) for part in Given)  # A list has many mappings, and an enum's
_EVERY = sum(Given)  # operators are slow.


def _checked(context: PagingContext, mapping: Sequence[Any]) -> Row:
    """Return (va, pa, size, flags, rights, given) of a mapping that a walker lists."""
    given = _EVERY
    try:
        parts = tuple(mapping)
        va, pa, size, flags, rights = parts + (None, None)[len(parts) - 3 :]
        if pa is None:
            pa, given = 0, given & ~_PA
        if flags is None:
            flags, given = 0, given & ~_FLAGS
        if rights is None:
            given &= ~_OWN_RIGHTS
        grant = _GRANTS.get(rights)
        va, pa, size, flags = index(va), index(pa), index(size), index(flags)
    except (TypeError, ValueError) as error:
        raise _no_mapping(f"{mapping!r:.100} is no {_FORM}") from error
    if grant is None:
        message = f"{rights!r:.40} are no effective rights: uwx, a dash for each that is missing"
        raise _no_mapping(message)
    if min(va, pa, size - 1, flags) < 0 or max(va, pa, size, flags) >= _TOP:
        raise _no_mapping(f"{mapping!r:.100} is no {_FORM} of 64 bits")
    if va + size > _TOP:
        raise _no_mapping(f"the mapping of {va:#x} leads over the end of all addresses")
    if not context.canonical(va):
        message = f"a mapping of {va:#x}, which is not canonical"
        raise NoAnswer(Failure.NONSENSE, "a mapping that is not canonical", message)
    return va, pa, size, flags, grant, given


def _no_mapping(message: str) -> NoAnswer:
    return NoAnswer(Failure.NONSENSE, "no mapping", message)


def look_up(listing: Listing, va: U64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return int[n] and bool[n]: the mapping of each address, and whether there is one.

    Of an address only the mappings count that were listed for the range which it lies in.
    """
    mappings, ranges = listing.mappings, listing.ranges
    if not len(mappings):
        return np.zeros(len(va), np.intp), np.zeros(len(va), np.bool_)
    # Ranges are disjoint and each mapping touches its own: cut off there, they are in order.
    begins = np.maximum(mappings.va, ranges.first[listing.at])
    row = np.maximum(np.searchsorted(begins, va, side="right") - 1, 0)
    inside = (va >= begins[row]) & (va - mappings.va[row] < mappings.size[row])
    inside &= va <= ranges.last[listing.at[row]]
    return row, inside


def range_of(ranges: Ranges, va: U64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return int[n] and bool[n]: the range in which each address lies, and whether there is one."""
    if not len(ranges):
        return np.zeros(len(va), np.intp), np.zeros(len(va), np.bool_)
    number = np.maximum(np.searchsorted(ranges.first, va, side="right") - 1, 0)
    return number, (va >= ranges.first[number]) & (va <= ranges.last[number])


def differences(claims: frozenset[Capability], listing: Listing, true: Listing) -> U64:
    """Return the addresses, ascending, at which two lists of the same ranges begin to differ.

    Of whole ranges that `listing` doesn't decline, by what is claimed and given. They are compared
    where a mapping of either begins; with ranges, which have no size to be wrong, also where one
    ends.
    """
    ends = Capability.RANGES in claims
    points = distinct(np.concatenate([_bounds(each, ends=ends) for each in (listing, true)]))
    number, _ = range_of(listing.ranges, points)
    points = points[listing.ranges.whole[number] & ~listing.silent[number]]
    row, found = look_up(listing, points)
    true_row, known = look_up(true, points)
    differ = found != known
    both = np.flatnonzero(found & known)
    one, other = listing.mappings.take(row[both]), true.mappings.take(true_row[both])
    given = one.given & other.given
    unlike = ((given & Given.PA) != 0) & (one.pa - one.va != other.pa - other.va)
    if not ends:
        unlike |= (one.va != other.va) | (one.size != other.size)
    if Capability.FLAGS in claims:
        unlike |= ((given & Given.FLAGS) != 0) & (one.flags != other.flags)
    if Capability.EFFECTIVE in claims:
        unlike |= ((given & Given.RIGHTS) != 0) & (one.rights != other.rights)
    differ[both] = unlike
    found_at: U64 = points[differ]
    return found_at


def _bounds(listing: Listing, *, ends: bool) -> U64:
    """Return where mappings of a list begin, and if `ends` where they end, within their range."""
    mappings = listing.mappings
    begins: U64 = np.maximum(mappings.va, listing.ranges.first[listing.at])
    if not ends:
        return begins
    last = mappings.va + (mappings.size - np.uint64(1))
    within = last < listing.ranges.last[listing.at]
    return np.concatenate([begins, last[within] + np.uint64(1)])
