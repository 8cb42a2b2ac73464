"""What accesses are made on: the tables under test, and signed pages around them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.machine.engine import MAXPHYADDR
from emu.probe.arena import place_arena
from emu.probe.control import Control
from emu.probe.engine import ProbeError
from emu.probe.paths import NO_PAGE, NO_WORD, find_paths, find_tables
from emu.probe.signature import SLOT, signature, signatures
from emu.probe.space import NOWHERE, Space
from walker.columns import MAX_STEPS, Accesses
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["Ground", "Sites"]

_TOUCHED = 1 << 14
"""After so many slots, each in a page of the host's at the worst, memory is given back."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Where n accesses may lead.

    `copy` uint8[n] is the copy of the root; `word` int64[n, 5] the indices of the words on the
    way, `reported` their addresses, as they are told (NO_WORD for none), `before` their values.
    `held` bool[n] says whether there is RAM at the end, `signed` whether that says where it is;
    `target` uint64[n] is the address itself.
    """

    copy: NDArray[np.uint8]
    word: NDArray[np.int64]
    reported: U64
    before: U64
    held: NDArray[np.bool_]
    signed: NDArray[np.bool_]
    target: U64


class Ground:
    """A private copy of an address space's tables, with an arena for the probe's own code.

    Nothing of `memory` but its tables is copied, and nothing is written to it. Of the other
    frames, those that accesses may reach carry signatures where they may. The space is that of
    the ground `before`, which ends with that, where ranges and arena are the same.
    """

    def __init__(
        self, memory: PhysicalMemory, context: PagingContext, before: "Ground | None" = None
    ) -> None:
        self.context = context
        self.control = Control.of(context)
        root = np.array([context.root], np.uint64)
        if not memory.backed(root)[0] or context.root >> MAXPHYADDR:
            raise BadInput(f"CR3 {context.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, context.root, context.levels)
        words = memory.tables(root)[0]
        self.arena = place_arena(memory, context, tables, words)
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
        self.space.write_tables(tables, memory.tables(tables))
        self.arena.prepare(self.space, words)
        roots = [lent.cr3 for lent in self.arena.lent]
        self._used = tables
        self._free[self.space.index_of(tables) // WORDS] = False
        self._tables = np.union1d(tables, np.array(roots, np.uint64))
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
        slot = va >> np.uint64(3 + 9 * self.context.levels) & np.uint64(511)
        found = np.zeros(len(va), np.bool_)
        for number, chosen in enumerate(self.arena.lent):
            rows = np.flatnonzero((slot == self.arena.lent[0].slot) == number)
            word = find_paths(self.space, chosen.cr3, self.context.levels, va[rows]).word
            entry = np.where(word == NOWHERE, np.uint64(0), self.space.words[word])
            wide = (entry & np.uint64(1)) * (entry & np.uint64(self.control.wide))
            found[rows] = (wide != 0).any(axis=1)
        return found

    def sites(self, accesses: Accesses) -> Sites:
        """Return where each access may lead, having signed what it may reach there."""
        context, lent = self.context, self.arena.lent
        count = len(accesses)
        slot = accesses.va >> np.uint64(3 + 9 * context.levels) & np.uint64(511)
        copy = (slot == lent[0].slot).astype(np.uint8)
        word = np.full((count, MAX_STEPS), NOWHERE, np.int64)
        reported = np.full((count, MAX_STEPS), NO_WORD, np.uint64)
        page = np.full(count, NO_PAGE, np.uint64)
        for number, chosen in enumerate(lent):
            rows = copy == number
            paths = find_paths(self.space, chosen.cr3, context.levels, accesses.va[rows])
            word[rows], page[rows] = paths.word, paths.page
            # What happens in the copy of the root is said of the root.
            paths.pa[:, 0] -= np.uint64((chosen.cr3 - context.root) % (1 << 64))
            reported[rows] = paths.pa
        slots = page | accesses.va & np.uint64(FRAME - SLOT)
        at = self.space.index_of(slots)
        held = at != NOWHERE
        signed = held & self._free[at // WORDS]
        self._sign(slots[signed], at[signed])
        self._written.append(at[signed])
        return Sites(
            copy=copy,
            word=word,
            reported=reported,
            before=np.where(word == NOWHERE, np.uint64(0), self.space.words[word]),
            held=held,
            signed=signed,
            target=slots | accesses.va & np.uint64(SLOT - 1),
        )

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
        now = self.space.tables(self._tables)
        if np.array_equal(now, self._pristine):
            return None
        table, word = np.argwhere(now != self._pristine)[0]
        self.space.write_tables(self._tables, self._pristine)
        return int(self._tables[table]) + 8 * int(word)
