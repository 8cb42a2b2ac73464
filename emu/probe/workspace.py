"""Private copy of the tables under test, plus marker pages: what accesses are made on.

    physical memory of the engines (one host buffer, `Space`)
    source's ranges   paging structures: copied, without the encryption mask
                      other frames that an access may reach: a marker, where it would reach them
                      all the rest: zeros, and no host memory until it is touched
    trampoline        the probe's own pages (`crosswalk.emu.probe.trampoline`)

Nothing is written to the source. After a batch of accesses all tables are compared with what they
were: a word that changed and lies on no access's walk is an error, not an observation.

Outstanding: pages that aren't tables have no content of the source's, since no access observes it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.page_marker import SLOT, marker, markers
from crosswalk.emu.probe.paths import (
    MAX_LEVELS,
    NO_PAGE,
    Paths,
    distinct,
    find_paths,
    find_tables,
    format_of,
)
from crosswalk.emu.probe.scope import NO_KEY
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import (
    CR3_UNDER_TEST,
    IN_PLACE,
    ROOT_COPY_REASONS,
    SlotSwitch,
    place_trampoline,
)
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["AccessTargets", "Workspace", "changed_words"]

_COMPARED = 1 << 12  # Tables at a time.
_TOUCHED = 1 << 14
"""After so many slots, each in a page of the host's at the worst, memory is given back."""


@dataclass(frozen=True, slots=True)
class AccessTargets(Rows):
    """Where n accesses may lead.

    `slot` uint8[n] is which of the trampoline's slots each is made with; `index` int64[n, 5] the
    entries on the way (see `Paths`), `reported` their addresses in the tables under test
    (NO_ADDRESS for none), `before` their values. `held` bool[n] says whether there is RAM at the
    end, `marked` whether that has a marker; `pa` uint64[n] is the address itself. `possible`
    bool[n] says whether any of the slots will do, `own` whether the way leads to the probe's own
    pages.
    """

    slot: NDArray[np.uint8]
    index: NDArray[np.int64]
    reported: U64
    before: U64
    held: NDArray[np.bool_]
    marked: NDArray[np.bool_]
    pa: U64
    possible: NDArray[np.bool_]
    own: NDArray[np.bool_]


class Workspace:
    """A private copy of an address space's tables, with a trampoline for the probe's own code.

    Of the frames that are no tables, those that accesses may reach carry markers where they may.
    The space is that of the workspace `before`, which ends with that, where ranges and trampoline
    are the same. The trampoline is not placed in the physical range `avoid`.

    `in_place` says whether the emulated CPU can be given the CR3 under test at all: its 5-level
    walk takes CR3's bits from 52 up for address bits.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        before: "Workspace | None" = None,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self.control = control = Control.of(context)
        self.form = form = format_of(control)
        root = np.array([control.root & -FRAME], np.uint64)
        if not has_frames(memory, root)[0] or control.root >> MAXPHYADDR:
            raise BadInput(f"CR3 {control.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, form, control.root, control.mask)
        # No access is made to what lies above the addresses of the emulated CPU.
        tables = tables[tables >> np.uint64(MAXPHYADDR) == 0]
        ranges = [
            (start, min(size, (1 << MAXPHYADDR) - start))
            for start, size in memory.ranges
            if not start >> MAXPHYADDR
        ]
        content = words_of(memory, tables)
        self._masked = content & np.uint64(control.mask) if control.mask else None
        content &= np.uint64(~control.mask & (1 << 64) - 1)
        first = control.root % FRAME // 8
        words = content[np.searchsorted(tables, root)[0]][first : first + form.root_bytes // 8]
        taken = ranges if avoid is None else [*ranges, (avoid[0], avoid[1] - avoid[0])]
        self.trampoline = place_trampoline(taken, form, control, tables, content, words)
        self.in_place = control.levels < MAX_LEVELS or not control.cr3 >> 52
        own = self.own
        self.ranges = (*ranges, (own[0], own[1] - own[0]))
        if before is not None and before.ranges == self.ranges:
            self.space, self._free = before.hand_over()
            touched = before._touched  # noqa: SLF001  # of this very class
        else:
            touched = 0
            self.space = Space(self.ranges)
            # For each frame of the space, whether it may carry markers.
            self._free = np.ones(len(self.space.words) // WORDS, np.bool_)
            frames = np.arange(*own, FRAME, dtype=np.uint64)
            self._free[self.space.index_of(frames) // WORDS] = False
        # Slots that were written since memory was given back last.
        self._touched: int = touched
        self.space.write_tables(tables, content)
        self.trampoline.prepare(self.space, words)
        self._root_words = words
        self._entries = self.space.entries(form.entry_bytes)
        self.entries = self.space.single_entries(form.entry_bytes)
        # Where the entries are that may be borrowed, in place and in the copies of the root.
        self._root, *copies = (
            self.space.byte_at(pa) // form.entry_bytes
            for pa in (control.root, *(each.cr3 for each in self.trampoline.slots[IN_PLACE:]))
        )
        self._copies = np.array(copies)
        self._borrowed = [self._root + slot.number for slot in self.trampoline.slots[:IN_PLACE]]
        self.switch = SlotSwitch(self.entries, self._borrowed, self.trampoline.entry)
        self._used = tables
        self._free[self.space.index_of(tables) // WORDS] = False
        roots = [slot.cr3 for slot in self.trampoline.slots[IN_PLACE:]]
        self._tables = np.union1d(tables, np.array(roots, np.uint64))
        self._pristine = self.space.tables(self._tables)
        self._written: list[NDArray[np.int64]] = []

    @property
    def own(self) -> tuple[int, int]:
        """The physical range [start, end) of the trampoline."""
        return self.trampoline.start, self.trampoline.end

    def hand_over(self) -> tuple[Space, NDArray[np.bool_]]:
        """Return the space, as empty as a new one but for the trampoline, and its free frames.

        This workspace is of no use from then on.
        """
        self._touched += sum(len(at) for at in self._written)
        if self._touched > _TOUCHED and self.space.release():
            self._touched = 0
        else:
            self.space.write_tables(self._used, np.zeros((len(self._used), WORDS), np.uint64))
            for at in self._written:
                self.space.words[at] = self.space.words[at + 1] = 0
        self._free[self.space.index_of(self._used) // WORDS] = True
        return self.space, self._free

    def wide(self, va: U64) -> NDArray[np.bool_]:
        """Return bool[n]: whose walks use a present entry with an address that is too wide.

        That is one of which the emulated CPU has not all bits: see `Control.wide`.
        """
        entry = self._values(self._paths(va).index)
        wide = (entry & np.uint64(1)) * (entry & np.uint64(self.control.wide))
        found: NDArray[np.bool_] = (wide != 0).any(axis=1)
        return found

    def supervisor_keys(self, va: U64) -> NDArray[np.uint8]:
        """Return uint8[n]: the key of the page that each walk leads to, where it is a supervisor's.

        That is one with U/S clear in any entry of the walk. `NO_KEY` for others, and for none.
        """
        paths = self._paths(va)
        entry = self._values(paths.index)
        last = (paths.index != NOWHERE).sum(axis=1) - 1
        leaf = np.take_along_axis(entry, np.maximum(last, 0)[:, None], axis=1)[:, 0]
        supervisor = ((entry & np.uint64(4) == 0) & (paths.index != NOWHERE)).any(axis=1)
        key = (leaf >> np.uint64(59) & np.uint64(15)).astype(np.uint8)
        return np.where(supervisor & (paths.page != NO_PAGE), key, np.uint8(NO_KEY))

    def targets(self, accesses: Accesses) -> AccessTargets:
        """Return where each access may lead, having marked what it may reach there."""
        return self.targets_of([accesses.va])[0]

    def targets_of(self, vas: Sequence[U64]) -> list[AccessTargets]:
        """Return where accesses may lead that are made together: one of each column a row.

        All of a row are made with the same slot borrowed; what they may reach is marked.
        """
        paths = [self._paths(va) for va in vas]
        slots = [
            path.page | va & np.uint64(FRAME - SLOT) for path, va in zip(paths, vas, strict=True)
        ]
        places = [self.space.index_of(each) for each in slots]
        borrowed, possible = self._choose(vas, [path.index for path in paths], places)
        found = []
        for va, path, slot, at in zip(vas, paths, slots, places, strict=True):
            held = at != NOWHERE
            marked = held & self._free[at // WORDS]
            self._mark(slot[marked], at[marked])
            self._written.append(at[marked])
            index = path.index
            before = self._values(index)
            # Entries of a copy of the root are reported as those of the root.
            rows = np.flatnonzero((borrowed >= IN_PLACE) & (index[:, 0] != NOWHERE))
            index[rows, 0] += self._copies[borrowed[rows] - IN_PLACE] - self._root
            found.append(
                AccessTargets(
                    slot=borrowed,
                    index=index,
                    reported=path.pa,
                    before=before,
                    held=held,
                    marked=marked,
                    pa=slot | va & np.uint64(SLOT - 1),
                    possible=possible,
                    own=self._is_own(path),
                )
            )
        return found

    def show(self, targets: AccessTargets) -> None:
        """Have the trampoline show the tables on the way of these accesses alone."""
        used = targets.index != NOWHERE
        frames = distinct(targets.reported[used] & np.uint64(-FRAME & (1 << 64) - 1))
        self.trampoline = self.trampoline.showing(frames)
        self.trampoline.prepare(self.space, self._root_words)

    def _paths(self, va: U64) -> Paths:
        self.switch.select(None)
        return find_paths(self.space, self.form, self.control.root, va)

    def _values(self, index: NDArray[np.int64]) -> U64:
        return np.where(index == NOWHERE, 0, self._entries[index]).astype(np.uint64, copy=False)

    def _choose(
        self, vas: Sequence[U64], indices: list[NDArray[np.int64]], places: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return which slot each row's walks are made with, the first that fits, and whether any.

        The places are indices of the words that the walks lead to.
        """
        slot = np.zeros(len(vas[0]), np.uint8)
        possible = np.ones(len(slot), np.bool_)
        rows: NDArray[np.intp] | slice = slice(None)  # Nearly always the first one fits all.
        for number in range(0 if self.in_place else IN_PLACE, len(self.trampoline.slots)):
            fit = np.ones(len(slot[rows]), np.bool_)
            for va, index, place in zip(vas, indices, places, strict=True):
                fit &= self._fit(number, va[rows], index[rows], place[rows])
            slot[rows] = number
            if fit.all():
                return slot, possible
            rows = np.arange(len(slot))[rows][~fit]
        possible[rows] = False
        return slot, possible

    def _fit(
        self, number: int, va: U64, index: NDArray[np.int64], place: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return bool[n]: whether this slot may be borrowed where these walks are made.

        In place where none of them uses its entry, or leads to it; in a copy of the root where it
        isn't what the address itself selects.
        """
        fit: NDArray[np.bool_]
        if number >= IN_PLACE:
            shift, bits = self.form.levels[0]
            selected = va >> np.uint64(shift) & np.uint64((1 << bits) - 1)
            fit = selected != self.trampoline.slots[number].number
            return fit
        used = self._borrowed[number]
        fit = place != used * self.form.entry_bytes // 8 & -2
        for level in range(self.control.levels):
            fit &= index[:, level] != used
        return fit

    def _is_own(self, paths: Paths) -> NDArray[np.bool_]:
        """Return bool[n]: whether a table on the way, or its end, is where the trampoline lies."""
        if self.trampoline.apart:
            return np.zeros(len(paths.page), np.bool_)
        start, end = self.own
        found: NDArray[np.bool_] = (paths.page >= start) & (paths.page < end)
        found |= ((paths.pa >= start) & (paths.pa < end)).any(axis=1)
        return found

    def roots_of(self, targets: AccessTargets) -> Counter[str]:
        """Return under which root accesses are made: see `ROOT_COPY_REASONS`."""
        copied = int((targets.slot >= IN_PLACE).sum())
        reason = ROOT_COPY_REASONS[1] if self.in_place else ROOT_COPY_REASONS[0]
        return Counter({CR3_UNDER_TEST: len(targets.slot) - copied, reason: copied})

    def changes(self, targets: AccessTargets, after: U64) -> tuple[U64, U64]:
        """Return (address, value) of the words that accesses changed, as `Outcomes` has them.

        `after` are the values of the entries on the way after each access. An entry of four bytes
        is reported as the word that it lies in, in the tables under test.
        """
        if self.form.entry_bytes == 8:
            address, value = changed_words(targets.reported, targets.before, after)
        else:
            pa = targets.reported & ~np.uint64(7)
            at = self.space.index_of(pa)
            word = np.where(at == NOWHERE, np.uint64(0), self.space.words[at])
            up = np.where(at == NOWHERE, 0, (targets.reported & np.uint64(4)) << np.uint64(3))
            changed = (targets.before ^ after) << up.astype(np.uint64)
            address, value = changed_words(pa, word, word ^ changed)
        return address, self.with_mask(address, value)

    def with_mask(self, pa: U64, value: U64) -> U64:
        """Return the values of changed words with the bits of the encryption mask put back.

        Both are uint64[n, 5], addresses of words of the tables, 0 where there is none.
        """
        if self._masked is None:
            return value
        row = np.searchsorted(self._used, pa & np.uint64(-FRAME & (1 << 64) - 1))
        row = np.minimum(row, len(self._used) - 1)
        bits = self._masked[row, (pa & np.uint64(FRAME - 1)) >> np.uint64(3)]
        return np.where(pa != 0, value | bits, value)

    def mark_again(self, pa: U64) -> None:
        """Give the marked slots at these physical addresses back their markers."""
        slots = pa & ~np.uint64(SLOT - 1)
        at = self.space.index_of(slots)
        free = (at != NOWHERE) & self._free[at // WORDS]
        self._mark(slots[free], at[free])

    def erase(self, pa: int) -> None:
        """Give the marked slot that holds this physical address back its marker."""
        at = self.space.byte_at(pa & -SLOT) >> 3
        if at < 0 or not self._free[at // WORDS]:
            raise ProbeError(f"a store reached {pa:#x}, which is none of the marked slots")
        self.space.view[at], self.space.view[at + 1] = marker(pa & -SLOT)

    def is_marked(self, pa: int) -> bool:
        """Return whether a marker begins at this physical address."""
        at = self.space.byte_at(pa) >> 3
        if pa % SLOT or at < 0 or not self._free[at // WORDS]:
            return False
        return (self.space.view[at], self.space.view[at + 1]) == marker(pa)

    def _mark(self, slots: U64, at: NDArray[np.int64]) -> None:
        self.space.words[at], self.space.words[at + 1] = markers(slots)

    def take_back(self, targets: AccessTargets, row: int, after: U64) -> None:
        """Read the entries that an access may have changed into `after`, and put them back."""
        entries = self.entries
        at = [index for index in targets.index[row].tolist() if index != NOWHERE]
        values = [entries[index] for index in at]
        before = targets.before[row, : len(at)].tolist()
        if values != before:
            after[row, : len(at)] = values
            for index, value in zip(at, before, strict=True):
                entries[index] = value

    def restore_tables(self) -> int | None:
        """Put all tables back as they were; return the address of a word that wasn't, or None."""
        self.switch.select(None)
        for at in range(0, len(self._tables), _COMPARED):
            part = slice(at, at + _COMPARED)
            now = self.space.tables(self._tables[part])
            if not np.array_equal(now, self._pristine[part]):
                table, word = np.argwhere(now != self._pristine[part])[0]
                self.space.write_tables(self._tables, self._pristine)
                return int(self._tables[at + table]) + 8 * int(word)
        return None


def changed_words(pa: U64, before: U64, after: U64) -> tuple[U64, U64]:
    """Return (address, value) uint64[n, 5] of the words that n accesses changed.

    In ascending order of their addresses, zeros behind. `pa`, `before` and `after` are
    uint64[n, k]: words that each access may have changed, and their values. Where one appears more
    than once, because it was used on two levels or has two entries, it has the bits of all.
    """
    address, value = (np.zeros((len(pa), MAX_LEVELS), np.uint64) for _ in range(2))
    row, place = np.nonzero(before != after)
    if not len(row):
        return address, value
    words, values = pa[row, place], after[row, place]
    order = np.lexsort((words, row))
    row, words, values = row[order], words[order], values[order]
    fresh = np.ones(len(row), np.bool_)
    fresh[1:] = (row[1:] != row[:-1]) | (words[1:] != words[:-1])
    starts = np.flatnonzero(fresh)
    row, words = row[starts], words[starts]
    first = np.searchsorted(row, row)
    column = np.arange(len(row)) - first
    address[row, column] = words
    value[row, column] = np.bitwise_or.reduceat(values, starts)
    return address, value
