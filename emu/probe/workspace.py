"""What accesses are made on: the tables under test, and signed pages around them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.lending import CR3_UNDER_TEST, REASONS, Lending
from crosswalk.emu.probe.page_marker import SLOT, signature, signatures
from crosswalk.emu.probe.paths import Paths, distinct, find_paths, find_tables
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import IN_PLACE, place_arena
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["Ground", "Sites"]

_COMPARED = 1 << 12  # Tables at a time.
_TOUCHED = 1 << 14
"""After so many slots, each in a page of the host's at the worst, memory is given back."""


@dataclass(frozen=True, slots=True)
class Sites(Rows):
    """Where n accesses may lead.

    `lent` uint8[n] is which of the arena's lent slots each is made with; `word` int64[n, 5] the
    indices of the words on the way, `reported` their addresses, as they are told (NO_WORD for
    none), `before` their values. `held` bool[n] says whether there is RAM at the end, `signed`
    whether that says where it is; `target` uint64[n] is the address itself. `possible` bool[n] says
    whether any of the slots will do, `own` whether the way leads to the probe's own pages.
    """

    lent: NDArray[np.uint8]
    word: NDArray[np.int64]
    reported: U64
    before: U64
    held: NDArray[np.bool_]
    signed: NDArray[np.bool_]
    target: U64
    possible: NDArray[np.bool_]
    own: NDArray[np.bool_]


class Ground:
    """A private copy of an address space's tables, with an arena for the probe's own code.

    Nothing of `memory` but its tables is copied, without the encryption mask, and nothing is
    written to it. Of the other frames, those that accesses may reach carry signatures where they
    may. The space is that of the ground `before`, which ends with that, where ranges and arena are
    the same. The arena is not placed in the physical range `avoid`.

    `in_place` says whether the emulated CPU can be given the CR3 under test at all: its 5-level
    walk takes CR3's bits from 52 up for address bits.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        before: "Ground | None" = None,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self.control = control = Control.of(context)
        root = np.array([control.root], np.uint64)
        if not has_frames(memory, root)[0] or control.root >> MAXPHYADDR:
            raise BadInput(f"CR3 {control.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, control.root, control.levels, control.mask)
        content = words_of(memory, tables)
        self._masked = content & np.uint64(control.mask) if control.mask else None
        content &= np.uint64(~control.mask & (1 << 64) - 1)
        words = content[np.searchsorted(tables, root)[0]]
        self.arena = place_arena(memory.ranges, control, tables, content, words, avoid)
        self.in_place = control.levels == 4 or not control.cr3 >> 52
        own = self.own
        self.ranges = (*memory.ranges, (own[0], own[1] - own[0]))
        if before is not None and before.ranges == self.ranges:
            self.space, self._free = before.hand_over()
            touched = before._touched  # noqa: SLF001  # of this very class
        else:
            touched = 0
            self.space = Space(self.ranges)
            # For each frame of the space, whether it may carry signatures.
            self._free = np.ones(len(self.space.words) // WORDS, np.bool_)
            frames = np.arange(*own, FRAME, dtype=np.uint64)
            self._free[self.space.index_of(frames) // WORDS] = False
        # Slots that were written since memory was given back last.
        self._touched: int = touched
        self.space.write_tables(tables, content)
        self.arena.prepare(self.space, words)
        self._root_words = words
        at = int(self.space.index_of(root)[0])
        # Where the words are that may be lent, in place and in the copies of the root.
        self._root = at
        self._lent_words = [at + lent.slot for lent in self.arena.lent[:IN_PLACE]]
        self.lending = Lending(self.space.view, self._lent_words, self.arena.entry)
        copies = [lent.cr3 for lent in self.arena.lent[IN_PLACE:]]
        self._copies = self.space.index_of(np.array(copies, np.uint64))
        self._used = tables
        self._free[self.space.index_of(tables) // WORDS] = False
        self._tables = np.union1d(tables, np.array(copies, np.uint64))
        self._pristine = self.space.tables(self._tables)
        self._written: list[NDArray[np.int64]] = []

    @property
    def own(self) -> tuple[int, int]:
        """The physical range [start, end) of the arena."""
        return self.arena.start, self.arena.end

    def hand_over(self) -> tuple[Space, NDArray[np.bool_]]:
        """Return the space, as empty as a new one but for the arena, and its free frames.

        This ground is of no use from then on.
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
        word = self._paths(va).word
        entry = np.where(word == NOWHERE, np.uint64(0), self.space.words[word])
        wide = (entry & np.uint64(1)) * (entry & np.uint64(self.control.wide))
        found: NDArray[np.bool_] = (wide != 0).any(axis=1)
        return found

    def sites(self, accesses: Accesses) -> Sites:
        """Return where each access may lead, having signed what it may reach there."""
        return self.sites_of([accesses.va])[0]

    def sites_of(self, vas: Sequence[U64]) -> list[Sites]:
        """Return where accesses may lead that are made together: one of each column a row.

        All of a row are made with the same slot lent; what they may reach is signed.
        """
        paths = [self._paths(va) for va in vas]
        slots = [
            path.page | va & np.uint64(FRAME - SLOT) for path, va in zip(paths, vas, strict=True)
        ]
        places = [self.space.index_of(each) for each in slots]
        lent, possible = self._choose(vas, [path.word for path in paths], places)
        found = []
        for va, path, slot, at in zip(vas, paths, slots, places, strict=True):
            held = at != NOWHERE
            signed = held & self._free[at // WORDS]
            self._sign(slot[signed], at[signed])
            self._written.append(at[signed])
            word = path.word
            before = np.where(word == NOWHERE, np.uint64(0), self.space.words[word])
            # What happens in a copy of the root is said of the root.
            rows = np.flatnonzero((lent >= IN_PLACE) & (word[:, 0] != NOWHERE))
            word[rows, 0] += self._copies[lent[rows] - IN_PLACE] - self._root
            found.append(
                Sites(
                    lent=lent,
                    word=word,
                    reported=path.pa,
                    before=before,
                    held=held,
                    signed=signed,
                    target=slot | va & np.uint64(SLOT - 1),
                    possible=possible,
                    own=self._is_own(path),
                )
            )
        return found

    def show(self, sites: Sites) -> None:
        """Have the arena show the tables on the way of these accesses, where it can't show all."""
        used = sites.word != NOWHERE
        frames = distinct(sites.reported[used] & np.uint64(-FRAME & (1 << 64) - 1))
        self.arena = self.arena.showing(frames)
        self.arena.prepare(self.space, self._root_words)

    def _paths(self, va: U64) -> Paths:
        self.lending.select(None)
        return find_paths(self.space, self.control.root, self.control.levels, va)

    def _choose(
        self, vas: Sequence[U64], words: list[NDArray[np.int64]], targets: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return which slot each row's walks are made with, the first that fits, and whether any.

        The targets are indices of words, as `words` are.
        """
        lent = np.zeros(len(vas[0]), np.uint8)
        possible = np.ones(len(lent), np.bool_)
        rows: NDArray[np.intp] | slice = slice(None)  # Nearly always the first one fits all.
        for number in range(0 if self.in_place else IN_PLACE, len(self.arena.lent)):
            fit = np.ones(len(lent[rows]), np.bool_)
            for va, word, target in zip(vas, words, targets, strict=True):
                fit &= self._fit(number, va[rows], word[rows], target[rows])
            lent[rows] = number
            if fit.all():
                return lent, possible
            rows = np.arange(len(lent))[rows][~fit]
        possible[rows] = False
        return lent, possible

    def _fit(
        self, number: int, va: U64, word: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return bool[n]: whether this slot may be lent where these walks are made.

        In place where none of them uses its word, or leads to it; in a copy of the root where it
        isn't what the address itself selects.
        """
        fit: NDArray[np.bool_]
        if number >= IN_PLACE:
            slot = va >> np.uint64(3 + 9 * self.control.levels) & np.uint64(WORDS - 1)
            fit = slot != self.arena.lent[number].slot
            return fit
        used = self._lent_words[number]
        fit = target != used & -2
        for level in range(self.control.levels):
            fit &= word[:, level] != used
        return fit

    def _is_own(self, paths: Paths) -> NDArray[np.bool_]:
        """Return bool[n]: whether a table on the way, or its end, is where the arena lies."""
        if self.arena.apart:
            return np.zeros(len(paths.page), np.bool_)
        start, end = self.own
        found: NDArray[np.bool_] = (paths.page >= start) & (paths.page < end)
        found |= ((paths.pa >= start) & (paths.pa < end)).any(axis=1)
        return found

    def roots_of(self, sites: Sites) -> Counter[str]:
        """Return under which root accesses are made, in words (`crosswalk.emu.probe.lending`)."""
        copied = int((sites.lent >= IN_PLACE).sum())
        reason = REASONS[1] if self.in_place else REASONS[0]
        return Counter({CR3_UNDER_TEST: len(sites.lent) - copied, reason: copied})

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

    def sign_again(self, pa: U64) -> None:
        """Give the signed slots at these physical addresses back their signatures."""
        slots = pa & ~np.uint64(SLOT - 1)
        at = self.space.index_of(slots)
        free = (at != NOWHERE) & self._free[at // WORDS]
        self._sign(slots[free], at[free])

    def erase(self, pa: int) -> None:
        """Give the signed slot that holds this physical address back its signature."""
        at = self.space.byte_at(pa & -SLOT) >> 3
        if at < 0 or not self._free[at // WORDS]:
            raise ProbeError(f"a store reached {pa:#x}, which is none of the signed slots")
        self.space.view[at], self.space.view[at + 1] = signature(pa & -SLOT)

    def is_signed(self, pa: int) -> bool:
        """Return whether a signature begins at this physical address."""
        at = self.space.byte_at(pa) >> 3
        if pa % SLOT or at < 0 or not self._free[at // WORDS]:
            return False
        return (self.space.view[at], self.space.view[at + 1]) == signature(pa)

    def _sign(self, slots: U64, at: NDArray[np.int64]) -> None:
        self.space.words[at], self.space.words[at + 1] = signatures(slots)

    def restore_tables(self) -> int | None:
        """Put all tables back as they were; return the address of a word that wasn't, or None."""
        self.lending.select(None)
        for at in range(0, len(self._tables), _COMPARED):
            part = slice(at, at + _COMPARED)
            now = self.space.tables(self._tables[part])
            if not np.array_equal(now, self._pristine[part]):
                table, word = np.argwhere(now != self._pristine[part])[0]
                self.space.write_tables(self._tables, self._pristine)
                return int(self._tables[at + table]) + 8 * int(word)
        return None
