"""What accesses are made on: the tables under test, and signed pages around them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.machine.engine import MAXPHYADDR
from emu.probe.arena import place_arena
from emu.probe.paths import NO_PAGE, NO_WORD, find_paths, find_tables
from emu.probe.signature import SLOT, sign, signature
from emu.probe.space import NOWHERE, Space
from walker.columns import MAX_STEPS, Accesses
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["Ground", "Sites"]


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

    Nothing of `memory` but its tables is copied, and nothing is written to it. `signed` has
    the place in `space` of each slot that carries a signature, by physical address.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self.context = context
        root = np.array([context.root], np.uint64)
        if not memory.backed(root)[0] or context.root >> MAXPHYADDR:
            raise BadInput(f"CR3 {context.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, context.root, context.levels)
        words = memory.tables(root)[0]
        self.arena = place_arena(memory, context, tables, words)
        size = self.arena.end - self.arena.start
        self.space = Space([*memory.ranges, (self.arena.start, size)])
        self.space.write_tables(tables, memory.tables(tables))
        self.arena.prepare(self.space, words)
        roots = [lent.cr3 for lent in self.arena.lent]
        self._tables = np.union1d(tables, np.array(roots, np.uint64))
        self._pristine = self.space.tables(self._tables)
        self.signed: dict[int, int] = {}

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
            paths.pa[:, 0] -= np.uint64(chosen.cr3 - context.root)
            reported[rows] = paths.pa
        slots = page | accesses.va & np.uint64(FRAME - SLOT)
        self._sign(slots)
        return Sites(
            copy=copy,
            word=word,
            reported=reported,
            before=np.where(word == NOWHERE, np.uint64(0), self.space.words[word]),
            held=self.space.index_of(page) != NOWHERE,
            signed=np.isin(slots, np.array(sorted(self.signed), np.uint64)),
            target=slots | accesses.va & np.uint64(SLOT - 1),
        )

    def erase(self, pa: int) -> bool:
        """Give the slot at `pa` back its signature; return whether it is one of ours."""
        at = self.signed.get(pa & -SLOT)
        if at is None:
            return False
        self.space.view[at], self.space.view[at + 1] = signature(pa & -SLOT)
        return True

    def sign_again(self, pa: U64) -> None:
        """Give the signed slots at these physical addresses back their signatures."""
        sign(self.space, np.unique(pa & ~np.uint64(SLOT - 1)))

    def restore_tables(self) -> int | None:
        """Put all tables back as they were; return the address of a word that wasn't, or None."""
        now = self.space.tables(self._tables)
        if np.array_equal(now, self._pristine):
            return None
        table, word = np.argwhere(now != self._pristine)[0]
        self.space.write_tables(self._tables, self._pristine)
        return int(self._tables[table]) + 8 * int(word)

    def _sign(self, slots: U64) -> None:
        slots = np.unique(slots)
        frames = slots & ~np.uint64(FRAME - 1)
        own = (frames >= self.arena.start) & (frames < self.arena.end)
        held = sign(self.space, slots[~np.isin(frames, self._tables) & ~own])
        self.signed.update(zip(held.tolist(), self.space.index_of(held).tolist(), strict=True))
