"""Mappings of linear ranges by the rights they leave, found without a list of all mappings.

For each distinct state of the tables (`crosswalk.walker.states`) it is computed once, from the
last level up, which grants the mappings below it have. A question about a range looks at the tables
that its ends cut through, and goes down only where there is something to find: the cost is that of
the distinct tables, however many mappings they make.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import Leaves
from crosswalk.walker.columns import distinct, united_ranges
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.frames import Frames, page_keys, rights_of_pages
from crosswalk.walker.leaves import TOP, Expanded, canonical, root_tables
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import GRANTS, rights_table
from crosswalk.walker.spaces import Contexts, SpaceGroup, groups_of, shared_slots
from crosswalk.walker.states import BLOCK, expand_states, keys_of, states_by_level

__all__ = ["EVERYTHING", "Found", "Rule", "Search", "Span", "indexed"]

Span = tuple[int, int]
"""Linear addresses [start, end)."""

Rule = NDArray[np.bool_]
"""Which effective `Rights` are looked for, bool[64]."""

EVERYTHING: Rule = np.ones(64, np.bool_)
"""All mappings, whatever their rights."""

_OUTSIDE = 1 << GRANTS
"""Stands among the bits of grants for a table that isn't in memory."""
_LOW = np.uint64(FRAME - 1)

Number = TypeVar("Number", np.uint16, np.uint64)


class Found(NamedTuple):
    """Mappings of one address space in address order, which `roots` have by the same entries."""

    context: PagingContext
    roots: int
    pages: Pages


class Search:
    """The mappings of one or more address spaces, to be asked for those in ranges.

    Ranges of one question are in order and don't overlap. A mapping is in a range that it touches.
    What several roots have by the same entry of their tables is found once.
    """

    def __init__(self, memory: PhysicalMemory, contexts: Contexts) -> None:
        self._groups = [_Group(memory, each) for each in groups_of(contexts)]

    def any(self, spans: Sequence[Span], rule: Rule = EVERYTHING) -> bool:
        """Return whether a mapping with such rights is in one of the ranges."""
        return next(self.find(spans, rule), None) is not None

    def count(self, spans: Sequence[Span], rule: Rule = EVERYTHING) -> int:
        """Return how many mappings with such rights are in the ranges."""
        return sum(group.count(spans, rule) for group in self._groups)

    def find(self, spans: Sequence[Span], rule: Rule = EVERYTHING) -> Iterator[Found]:
        """Yield these mappings root by root, a table at a time, and only as they are asked for."""
        for group in self._groups:
            yield from group.find(spans, rule)

    def translates(self, span: Span) -> bool:
        """Return whether a range has an address that tables of this paging could translate.

        Not one without a canonical address, nor one beyond the 32 bits of the older modes.
        """
        return any(group.translates(span) for group in self._groups)

    def outside(self, spans: Sequence[Span]) -> int | None:
        """Return an address in the ranges whose table isn't in memory, the first; None for none."""
        found = (group.outside(spans) for group in self._groups)
        return next((each for each in found if each is not None), None)

    def frames(self, spans: Sequence[Span]) -> Frames:
        """Return the physical ranges that the pages in these ranges are mapped to, without rights.

        Of a page that reaches out of a range only the frames inside.
        """
        return _joined(np.concatenate([group.frames(spans) for group in self._groups], axis=1))

    def hole(self, span: Span) -> int | None:
        """Return the first address in a range that isn't mapped.

        None where one of the address spaces maps all of it; of several that don't, the one that
        maps it furthest from its begin counts.
        """
        furthest = span[0]
        for group in self._groups:
            for hole in group.holes(span):
                if hole is None:
                    return None
                furthest = max(furthest, hole)
        return furthest


def indexed(context: PagingContext, spans: Sequence[Span]) -> list[Span]:
    """Return ranges of linear addresses as those of the index space, in order."""
    bits = context.va_bits
    if not context.mode.long:
        pieces = [(start, min(end, 1 << bits)) for start, end in spans]
    else:
        half = 1 << bits - 1
        above = TOP - 2 * half
        low = [(start, min(end, half)) for start, end in spans]
        high = [(max(start - above, half), end - above) for start, end in spans]
        pieces = low + high
    return [(lo, hi) for lo, hi in pieces if lo < hi]


def _joined(edges: U64) -> Frames:
    """Return ranges [start, end), uint64[2, n], as disjoint ones in order, without rights."""
    start, end = united_ranges(*edges)
    return Frames(start, end - start, np.zeros(len(start), np.uint8))


def _reduced(
    how: np.ufunc, parent: NDArray[np.intp], values: NDArray[Number]
) -> tuple[NDArray[np.intp], NDArray[Number]]:
    """Return the parents, which come in order, each once, and what their values come to."""
    if not len(parent):
        return parent, values
    first = np.flatnonzero(np.diff(parent, prepend=-1))
    return parent[first], how.reduceat(values, first)


class _Table(NamedTuple):
    """A table on the way down: its level, its state, and the address of its first byte."""

    level: int
    key: int
    base: int


class _Below(NamedTuple):
    """What is in a range of one table: where leaves and tables below begin, and their keys."""

    leaves: Leaves
    tables: U64
    keys: U64
    backed: NDArray[np.bool_]


class _Group:
    """The same for address spaces whose contexts differ in their roots alone.

    Addresses inside are those of the index space, where no hole is between the halves.
    """

    def __init__(self, memory: PhysicalMemory, space: SpaceGroup) -> None:
        self._memory, self._space, self._context = memory, space, space.context
        self._top = level_of(space.context, space.context.levels)
        self._keys = states_by_level(memory, space.contexts)
        self._roots = [
            _Table(self._top.number, key, 0)
            for key in keys_of(root_tables(space.context, space.roots)).tolist()
        ]
        self._bits = self._gathered()
        # The upper tables on the way to one range are those on the way to the next.
        self._alone = lru_cache(maxsize=64)(self._expanded_alone)
        self._counts: dict[int, dict[int, U64]] = {}

    @cached_property
    def _shared(self) -> NDArray[np.uint32]:
        """How many roots have the entry of each slot of each root; 0 where one before has it."""
        if len(self._roots) == 1:
            return np.ones((1, self._top.entries), np.uint32)
        return shared_slots(self._memory, self._space)

    def find(self, spans: Sequence[Span], rule: Rule) -> Iterator[Found]:
        """Yield the mappings with such rights in the ranges."""
        bits = self._grants(rule)
        for row, lo, hi, after in self._asked(spans, bits):
            slots, context = self._shared[row], self._space.contexts[row]
            for roots, leaves in self._down(self._roots[row], lo, hi, after, bits, slots):
                va, rights = canonical(context, leaves.va), leaves.rights(context)
                pages = Pages(va, leaves.pa, leaves.flags, rights, leaves.shift)
                yield Found(context, roots, pages)

    def count(self, spans: Sequence[Span], rule: Rule) -> int:
        """Return how many there are."""
        bits = self._grants(rule)
        return sum(
            self._counted(self._roots[row], lo, hi, after, bits, self._shared[row])
            for row, lo, hi, after in self._asked(spans, bits)
        )

    def _asked(self, spans: Sequence[Span], bits: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield what to look at: the row of a root, a range, and where the one before it ends.

        Not where the root leads to no such grant, or has nothing there that none before it has.
        """
        ranges = indexed(self._context, spans)
        for row, root in enumerate(self._roots):
            if not self._below(root) & bits:
                continue
            after = 0
            for lo, hi in ranges:
                if self._shared[row, lo >> self._top.shift : (hi - 1 >> self._top.shift) + 1].any():
                    yield row, lo, hi, after
                after = hi

    def outside(self, spans: Sequence[Span]) -> int | None:
        """Return an address in the ranges whose table isn't in memory."""
        for row, lo, hi, _ in self._asked(spans, _OUTSIDE):
            found = self._outside(self._roots[row], lo, hi)
            if found is not None:
                return int(canonical(self._context, np.array([found], np.uint64))[0])
        return None

    def frames(self, spans: Sequence[Span]) -> U64:
        """Return the physical ranges [start, end) that pages in the ranges are mapped to.

        uint64[2, n], in any order; they may overlap.
        """
        whole: dict[int, list[U64]] = {level: [] for level in self._keys}
        cut = [np.zeros((2, 0), np.uint64)]
        for row, lo, hi, _ in self._asked(spans, _OUTSIDE - 1):
            self._cut(self._roots[row], lo, hi, whole, cut, self._shared[row])
        pages = [np.zeros(0, np.uint64)]
        for level in sorted(whole, reverse=True):
            keys = distinct(np.concatenate([np.zeros(0, np.uint64), *whole[level]]))
            for at in range(0, len(keys), BLOCK):
                held = self._expanded(level, keys[at : at + BLOCK])
                pages.append(distinct(page_keys(held.leaves)))
                if len(held.children):
                    whole[level - 1].append(distinct(keys_of(held.children)))
        found = rights_of_pages(self._context, np.concatenate(pages))
        cut.append(np.stack([found.start, found.start + found.size]))
        return np.concatenate(cut, axis=1)

    def translates(self, span: Span) -> bool:
        """Return whether a range has an address that a table could translate."""
        return bool(indexed(self._context, [span]))

    def holes(self, span: Span) -> Iterator[int | None]:
        """Yield for each root the first address in the range that it doesn't map, or None."""
        ranges = indexed(self._context, [span])
        gap = self._not_canonical(span)
        for root in self._roots:
            holes = (self._hole(root, *each) for each in ranges)
            hole = next((it for it in holes if it is not None), None)
            found = [] if gap is None else [gap]
            if hole is not None:
                found.append(int(canonical(self._context, np.array([hole], np.uint64))[0]))
            yield min(found, default=None)

    def _not_canonical(self, span: Span) -> int | None:
        """Return the first address of a range that no table translates; None if all may be."""
        bits = self._context.va_bits
        low = 1 << (bits - 1 if self._context.mode.long else bits)
        high = TOP - low if self._context.mode.long else TOP
        first = max(span[0], low)
        return first if first < min(span[1], high) else None

    def _grants(self, rule: Rule) -> int:
        """Return the grants that leave such rights, as bits."""
        found = np.flatnonzero(rule[rights_table(self._context)])
        return sum(1 << grant for grant in found.tolist())

    def _gathered(self) -> dict[int, NDArray[np.uint16]]:
        """Return by level the grants of the mappings below each state, as bits."""
        found: dict[int, NDArray[np.uint16]] = {}
        for level, keys in self._keys.items():
            bits = found[level] = np.zeros(len(keys), np.uint16)
            for at in range(0, len(keys), BLOCK):
                held = self._expanded(level, keys[at : at + BLOCK])
                leaf = np.uint16(1) << held.leaves.grant.astype(np.uint16)
                rows, those = _reduced(np.bitwise_or, held.leaf_parent, leaf)
                bits[at + rows] = those
                if not len(held.children):
                    continue
                outside = ~self._memory.backed(held.children.frame & ~_LOW)
                below = np.where(outside, np.uint16(_OUTSIDE), np.uint16(0))
                below |= found[level - 1][self._place(level - 1, keys_of(held.children))]
                rows, those = _reduced(np.bitwise_or, held.child_parent, below)
                bits[at + rows] |= those
        return found

    def _totals(self, bits: int) -> dict[int, U64]:
        """Return by level how many mappings with such grants are below each state.

        How many bytes all of them map, where `bits` is -1.
        """
        if bits in self._counts:
            return self._counts[bits]
        found = self._counts[bits] = {}
        for level, keys in self._keys.items():
            totals = found[level] = np.zeros(len(keys), np.uint64)
            for at in range(0, len(keys), BLOCK):
                held = self._expanded(level, keys[at : at + BLOCK])
                leaf = held.leaves.size if bits < 0 else self._chosen(held.leaves, bits)
                rows, those = _reduced(np.add, held.leaf_parent, leaf.astype(np.uint64))
                totals[at + rows] = those
                if len(held.children):
                    below = found[level - 1][self._place(level - 1, keys_of(held.children))]
                    rows, those = _reduced(np.add, held.child_parent, below)
                    totals[at + rows] += those
        return found

    def _expanded(self, level: int, keys: U64) -> Expanded:
        return expand_states(self._memory, self._context, level, keys)

    def _expanded_alone(self, level: int, key: int) -> Expanded:
        return self._expanded(level, np.array([key], np.uint64))

    def _place(self, level: int, keys: U64) -> NDArray[np.intp]:
        return np.searchsorted(self._keys[level], keys)

    def _below(self, table: _Table) -> int:
        """Return the bits of the grants below a table."""
        at = self._place(table.level, np.array([table.key], np.uint64))
        return int(self._bits[table.level][at[0]])

    def _chosen(self, leaves: Leaves, bits: int) -> NDArray[np.bool_]:
        chosen: NDArray[np.bool_] = np.uint16(bits) >> leaves.grant.astype(np.uint16) & 1 != 0
        return chosen

    def _within(
        self, table: _Table, lo: int, hi: int, slots: NDArray[np.uint32] | None = None
    ) -> _Below:
        """Return what of a table is in [lo, hi), and in slots that aren't 0."""
        held = self._alone(table.level, table.key)
        span = np.uint64(level_of(self._context, table.level).span)
        base, first, end = np.uint64(table.base), np.uint64(lo), np.uint64(hi)
        va = held.leaves.va + base
        some = (va < end) & (va + held.leaves.size > first)
        below = held.children.va + base
        down = (below < end) & (below + span > first)
        if slots is not None:
            some &= slots[self._slot(va)] != 0
            down &= slots[self._slot(below)] != 0
        leaves = Leaves(
            va[some],
            held.leaves.entry[some],
            held.leaves.grant[some],
            held.leaves.shift[some],
            held.leaves.mask,
        )
        backed = self._memory.backed(held.children.frame[down] & ~_LOW)
        return _Below(leaves, below[down], keys_of(held.children)[down], backed)

    def _slot(self, va: U64) -> NDArray[np.intp]:
        return (va >> np.uint64(self._top.shift)).astype(np.intp)

    def _down(
        self,
        table: _Table,
        lo: int,
        hi: int,
        after: int,
        bits: int,
        slots: NDArray[np.uint32] | None,
    ) -> Iterator[tuple[int, Leaves]]:
        """Yield the leaves in [lo, hi) that begin from `after` on, with their numbers of roots."""
        inside = self._within(table, lo, hi, slots)
        some = self._chosen(inside.leaves, bits) & (inside.leaves.va >= np.uint64(after))
        leaves = inside.leaves.take(np.flatnonzero(some))
        keys, tables = inside.keys, inside.tables
        if len(keys):
            leads = self._bits[table.level - 1][self._place(table.level - 1, keys)] & bits != 0
            keys, tables = keys[leads], tables[leads]
        begins = np.searchsorted(leaves.va, tables)
        at = 0
        for begin, key, base in zip(begins.tolist(), keys.tolist(), tables.tolist(), strict=True):
            yield from self._parts(leaves.take(slice(at, begin)), slots)
            at = begin
            roots = 1 if slots is None else int(slots[base >> self._top.shift])
            below = _Table(table.level - 1, key, base)
            for _, part in self._down(below, lo, hi, after, bits, None):
                yield roots, part
        yield from self._parts(leaves.take(slice(at, None)), slots)

    def _parts(
        self, leaves: Leaves, slots: NDArray[np.uint32] | None
    ) -> Iterator[tuple[int, Leaves]]:
        """Yield leaves of one table, in parts that equally many roots have."""
        if not len(leaves):
            return
        if slots is None:
            yield 1, leaves
            return
        roots = slots[self._slot(leaves.va)]
        cuts = [0, *(np.flatnonzero(np.diff(roots)) + 1).tolist(), len(leaves)]
        for first, end in pairwise(cuts):
            yield int(roots[first]), leaves.take(slice(first, end))

    def _counted(
        self,
        table: _Table,
        lo: int,
        hi: int,
        after: int,
        bits: int,
        slots: NDArray[np.uint32] | None = None,
    ) -> int:
        inside = self._within(table, lo, hi, slots)
        some = self._chosen(inside.leaves, bits) & (inside.leaves.va >= np.uint64(after))
        total = int(some.sum())
        if not len(inside.keys):
            return total
        whole = self._whole(table.level, inside.tables, lo, hi)
        places = self._place(table.level - 1, inside.keys[whole])
        total += int(self._totals(bits)[table.level - 1][places].sum())
        for key, base in zip(
            inside.keys[~whole].tolist(), inside.tables[~whole].tolist(), strict=True
        ):
            total += self._counted(_Table(table.level - 1, key, base), lo, hi, after, bits)
        return total

    def _whole(self, level: int, tables: U64, lo: int, hi: int) -> NDArray[np.bool_]:
        """Return which of the tables below, of one of this level, lie in [lo, hi) as a whole."""
        span = np.uint64(level_of(self._context, level).span)
        whole: NDArray[np.bool_] = (tables >= np.uint64(lo)) & (tables + span <= np.uint64(hi))
        return whole

    def _outside(self, table: _Table, lo: int, hi: int) -> int | None:
        """Return the first address in [lo, hi) below an entry whose table isn't in memory."""
        if not self._below(table) & _OUTSIDE:
            return None
        inside = self._within(table, lo, hi)
        rows = zip(
            inside.keys.tolist(), inside.tables.tolist(), inside.backed.tolist(), strict=True
        )
        for key, base, backed in rows:
            if not backed:
                return max(int(base), lo)
            found = self._outside(_Table(table.level - 1, key, base), lo, hi)
            if found is not None:
                return found
        return None

    def _cut(
        self,
        table: _Table,
        lo: int,
        hi: int,
        whole: dict[int, list[U64]],
        cut: list[U64],
        slots: NDArray[np.uint32] | None = None,
    ) -> None:
        """Take down what of a table is in [lo, hi): tables as a whole, and the frames of leaves."""
        inside = self._within(table, lo, hi, slots)
        va, pa, size = inside.leaves.va, inside.leaves.pa, inside.leaves.size
        first = np.maximum(va, np.uint64(lo)) & ~_LOW
        last = np.minimum(va + size, np.uint64(hi)) + _LOW & ~_LOW
        cut.append(np.stack([pa + (first - va), pa + (last - va)]))
        if not len(inside.keys):
            return
        inner = self._whole(table.level, inside.tables, lo, hi)
        whole[table.level - 1].append(inside.keys[inner])
        for key, base in zip(
            inside.keys[~inner].tolist(), inside.tables[~inner].tolist(), strict=True
        ):
            self._cut(_Table(table.level - 1, key, base), lo, hi, whole, cut)

    def _hole(self, table: _Table, lo: int, hi: int) -> int | None:
        """Return the first address of a table in [lo, hi) that isn't mapped."""
        level = level_of(self._context, table.level)
        inside = self._within(table, lo, hi)
        mapped = {
            va: (size, -1)
            for va, size in zip(inside.leaves.va.tolist(), inside.leaves.size.tolist(), strict=True)
        }
        for key, base in zip(inside.keys.tolist(), inside.tables.tolist(), strict=True):
            mapped[base] = level.span, key
        at = max(lo, table.base)
        for va in sorted(mapped):
            size, key = mapped[va]
            if va > at:
                return at
            if key >= 0 and not self._full(table.level, va, key, lo, hi):
                found = self._hole(_Table(table.level - 1, key, va), lo, hi)
                if found is not None:
                    return found
            at = va + size
        end = min(hi, table.base + level.span * level.entries)
        return at if at < end else None

    def _full(self, level: int, base: int, key: int, lo: int, hi: int) -> bool:
        """Return whether a table below one of this level is in [lo, hi), and maps all it can."""
        span = level_of(self._context, level).span
        if base < lo or base + span > hi:
            return False
        at = self._place(level - 1, np.array([key], np.uint64))
        return int(self._totals(-1)[level - 1][at[0]]) == span
