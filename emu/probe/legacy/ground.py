"""What accesses are made on in 32-bit and PAE paging: tables under test, signed pages around."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.machine.engine import MAXPHYADDR
from emu.probe.control import Control
from emu.probe.engine import ProbeError
from emu.probe.legacy.arena import place_arena
from emu.probe.legacy.paths import Entries, find_paths, find_tables, form_of
from emu.probe.legacy.signature import signature, signatures
from emu.probe.paths import NO_PAGE, NO_WORD
from emu.probe.signature import SLOT
from emu.probe.space import NOWHERE, Space
from walker.columns import MAX_STEPS, Accesses, merge_changes
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["Ground", "Sites"]


@dataclass(frozen=True, slots=True)
class Sites:
    """Where n accesses may lead.

    `copy` uint8[n] is the copy of the root; `cell` int64[n, 5] the indices of the entries on the
    way (see `Paths`), `reported` their addresses, as they are told (NO_WORD for none), `before`
    their values. `signed` bool[n] says whether there is RAM at the end that says where it is;
    `target` uint64[n] is the address itself.
    """

    copy: NDArray[np.uint8]
    cell: NDArray[np.int64]
    reported: U64
    before: U64
    signed: NDArray[np.bool_]
    target: U64


class Ground:
    """A private copy of an address space's tables, with an arena for the probe's own code.

    As `emu.probe.ground.Ground`. `cells` are the entries of the whole space, and `view` the same
    for single ones. The space is that of the ground `before`, which ends with that, where ranges
    and arena are the same.
    """

    def __init__(
        self, memory: PhysicalMemory, context: PagingContext, before: "Ground | None" = None
    ) -> None:
        self.context = context
        self.control = Control.of(context)
        self.form = form_of(context)
        self.root = context.cr3 & (0xFFFF_F000 if self.form.size == 4 else 0xFFFF_FFE0)
        frame = np.array([self.root & -FRAME], np.uint64)
        if not memory.backed(frame)[0]:
            raise BadInput(f"CR3 {context.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, self.form, self.root)
        first = self.root % FRAME // 8
        words = memory.tables(frame)[0][first:][: (self.form.size << self.form.levels[0][1]) // 8]
        self.arena = place_arena(memory, self.form, tables, words)
        own = self.arena.start, self.arena.end
        self.ranges = (*memory.ranges, (own[0], own[1] - own[0]))
        if before is not None and before.ranges == self.ranges:
            self.space, self._free = before.hand_over()
        else:
            self.space = Space(self.ranges)
            # For each frame of the space, whether it may carry signatures.
            self._free = np.ones(len(self.space.words) // WORDS, np.bool_)
            frames = np.arange(*own, FRAME, dtype=np.uint64)
            self._free[self.space.index_of(frames) // WORDS] = False
        if self.form.size == 4:
            self.cells: Entries = self.space.words.view(np.uint32)
            self.view = self.space.bytes.cast("I")
        else:
            self.cells, self.view = self.space.words, self.space.view
        self.space.write_tables(tables, memory.tables(tables))
        self.arena.prepare(self.space, words)
        self._used = tables
        self._free[self.space.index_of(tables) // WORDS] = False
        roots = [lent.cr3 for lent in self.arena.lent]
        self._tables = np.union1d(tables, np.array(roots, np.uint64))
        self._pristine = self.space.tables(self._tables)
        self._written: list[NDArray[np.int64]] = []

    def hand_over(self) -> tuple[Space, NDArray[np.bool_]]:
        """Return the space, as empty as a new one but for the arena, and its free frames.

        This ground is of no use from then on.
        """
        self.space.write_tables(self._used, np.zeros((len(self._used), WORDS), np.uint64))
        for at in self._written:
            self.space.words[at] = self.space.words[at + 1] = 0
        self._free[self.space.index_of(self._used) // WORDS] = True
        return self.space, self._free

    def wide(self, va: U64) -> NDArray[np.bool_]:
        """Return bool[n]: whose walks use a present entry with an address that is too wide.

        As `emu.probe.ground.Ground.wide`; in 32-bit paging there is none.
        """
        slot = va >> np.uint64(self.form.levels[0][0])
        found = np.zeros(len(va), np.bool_)
        for number, chosen in enumerate(self.arena.lent):
            rows = np.flatnonzero((slot == self.arena.lent[0].slot) == number)
            cell = find_paths(self.space, self.form, chosen.cr3, va[rows]).cell
            entry = np.where(cell == NOWHERE, 0, self.cells[cell]).astype(np.uint64)
            wide = (entry & np.uint64(1)) * (entry & np.uint64(self.control.wide))
            found[rows] = (wide != 0).any(axis=1)
        return found

    def sites(self, accesses: Accesses) -> Sites:
        """Return where each access may lead, having signed what it may reach there.

        `BadInput` if that is the arena, which only tables that name all of 4 GiB lead to.
        """
        lent, count = self.arena.lent, len(accesses)
        slot = accesses.va >> np.uint64(self.form.levels[0][0])
        copy = (slot == lent[0].slot).astype(np.uint8)
        cell = np.full((count, MAX_STEPS), NOWHERE, np.int64)
        reported = np.full((count, MAX_STEPS), NO_WORD, np.uint64)
        page = np.full(count, NO_PAGE, np.uint64)
        for number, chosen in enumerate(lent):
            rows = copy == number
            paths = find_paths(self.space, self.form, chosen.cr3, accesses.va[rows])
            cell[rows], page[rows] = paths.cell, paths.page
            # What happens in the copy of the root is said of the root.
            paths.pa[:, 0] -= np.uint64((chosen.cr3 - self.root) % (1 << 64))
            reported[rows] = paths.pa
        if ((page >= self.arena.start) & (page < self.arena.end)).any():
            raise BadInput("an access would reach the probe's own pages")
        slots = page | accesses.va & np.uint64(FRAME - SLOT)
        at = self.space.index_of(slots)
        held = at != NOWHERE
        signed = held & self._free[at // WORDS] & (slots >> np.uint64(MAXPHYADDR) == 0)
        self._sign(slots[signed], at[signed])
        self._written.append(at[signed])
        return Sites(
            copy=copy,
            cell=cell,
            reported=reported,
            before=np.where(cell == NOWHERE, 0, self.cells[cell]).astype(np.uint64),
            signed=signed,
            target=slots | accesses.va & np.uint64(SLOT - 1),
        )

    def changes(self, sites: Sites, after: U64) -> tuple[U64, U64]:
        """Return the changed words, as `Outcomes` has them, given the entries' values after.

        An entry of four bytes is told as the word that it lies in, in the tables under test.
        """
        pa = sites.reported & ~np.uint64(7)
        at = self.space.index_of(pa)
        word = np.where(at == NOWHERE, np.uint64(0), self.space.words[at])
        up = np.where(at == NOWHERE, np.uint64(0), (sites.reported & np.uint64(4)) << np.uint64(3))
        return merge_changes(pa, word, word ^ (sites.before ^ after) << up)

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
