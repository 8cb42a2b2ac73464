"""What accesses are made on in 32-bit and PAE paging: tables under test, signed pages around."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.changes import changed_words
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.legacy.page_marker import signature, signatures
from crosswalk.emu.probe.legacy.paths import Entries, Paths, find_paths, find_tables, form_of
from crosswalk.emu.probe.legacy.trampoline import place_arena
from crosswalk.emu.probe.lending import CR3_UNDER_TEST, REASONS, Lending
from crosswalk.emu.probe.page_marker import SLOT
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import IN_PLACE
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["Ground", "Sites"]


@dataclass(frozen=True, slots=True)
class Sites(Rows):
    """Where n accesses may lead.

    `lent` uint8[n] is which of the arena's lent slots each is made with; `cell` int64[n, 5] the
    indices of the entries on the way (see `Paths`), `reported` their addresses, as they are told
    (NO_WORD for none), `before` their values. `signed` bool[n] says whether there is RAM at the end
    that says where it is; `target` uint64[n] is the address itself; `own` bool[n] says whether the
    way leads to the probe's own pages.
    """

    lent: NDArray[np.uint8]
    cell: NDArray[np.int64]
    reported: U64
    before: U64
    signed: NDArray[np.bool_]
    target: U64
    own: NDArray[np.bool_]


class Ground:
    """A private copy of an address space's tables, with an arena for the probe's own code.

    As `crosswalk.emu.probe.workspace.Ground`. `cells` are the entries of the whole space, and
    `view` the same for single ones. The space is that of the ground `before`, which ends with that,
    where ranges and arena are the same. The arena is not placed in the physical range `avoid`.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        before: "Ground | None" = None,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self.control = control = Control.of(context)
        self.form = form_of(control)
        frame = np.array([control.root & -FRAME], np.uint64)
        if not has_frames(memory, frame)[0]:
            raise BadInput(f"CR3 {control.cr3:#x} points to no RAM of the emulated machine")
        tables = find_tables(memory, self.form, control.root, control.mask)
        content = words_of(memory, tables)
        self._masked = content & np.uint64(control.mask) if control.mask else None
        content &= np.uint64(~control.mask & (1 << 64) - 1)
        first = control.root % FRAME // 8
        count = (self.form.size << self.form.levels[0][1]) // 8
        words = content[np.searchsorted(tables, frame)[0]][first : first + count]
        self.arena = place_arena(memory.ranges, self.form, control, content, words, avoid)
        own = self.own
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
        self.space.write_tables(tables, content)
        self.arena.prepare(self.space, words)
        # Where the entries are that may be lent, in place and in the copies of the root.
        self._root = self.space.byte_at(control.root) // self.form.size
        self._lent_cells = [self._root + lent.slot for lent in self.arena.lent[:IN_PLACE]]
        self.lending = Lending(self.view, self._lent_cells, self.arena.entry)
        copies = [lent.cr3 for lent in self.arena.lent[IN_PLACE:]]
        self._copies = np.array([self.space.byte_at(pa) // self.form.size for pa in copies])
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
        self.space.write_tables(self._used, np.zeros((len(self._used), WORDS), np.uint64))
        for at in self._written:
            self.space.words[at] = self.space.words[at + 1] = 0
        self._free[self.space.index_of(self._used) // WORDS] = True
        return self.space, self._free

    def wide(self, va: U64) -> NDArray[np.bool_]:
        """Return bool[n]: whose walks use a present entry with an address that is too wide.

        As `crosswalk.emu.probe.workspace.Ground.wide`; in 32-bit paging there is none.
        """
        cell = self._paths(va).cell
        entry = np.where(cell == NOWHERE, 0, self.cells[cell]).astype(np.uint64)
        wide = (entry & np.uint64(1)) * (entry & np.uint64(self.control.wide))
        found: NDArray[np.bool_] = (wide != 0).any(axis=1)
        return found

    def sites(self, accesses: Accesses) -> Sites:
        """Return where each access may lead, having signed what it may reach there."""
        va = accesses.va
        paths = self._paths(va)
        slots = paths.page | va & np.uint64(FRAME - SLOT)
        at = self.space.index_of(slots)
        lent = np.argmax(self._fit(va, paths, at), axis=1).astype(np.uint8)
        held = at != NOWHERE
        signed = held & self._free[at // WORDS] & (slots >> np.uint64(MAXPHYADDR) == 0)
        self._sign(slots[signed], at[signed])
        self._written.append(at[signed])
        cell = paths.cell
        before = np.where(cell == NOWHERE, 0, self.cells[cell]).astype(np.uint64)
        # What happens in a copy of the root is said of the root.
        rows = np.flatnonzero((lent >= IN_PLACE) & (cell[:, 0] != NOWHERE))
        cell[rows, 0] += self._copies[lent[rows] - IN_PLACE] - self._root
        return Sites(
            lent=lent,
            cell=cell,
            reported=paths.pa,
            before=before,
            signed=signed,
            target=slots | va & np.uint64(SLOT - 1),
            own=self._is_own(paths),
        )

    def _paths(self, va: U64) -> Paths:
        self.lending.select(None)
        return find_paths(self.space, self.form, self.control.root, va)

    def _fit(self, va: U64, paths: Paths, target: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n, 4]: which slots may be lent where these walks are made.

        As `crosswalk.emu.probe.workspace.Ground`: in place none that the walk uses or leads to.
        """
        fit = np.empty((len(va), len(self.arena.lent)), np.bool_)
        for number, cell in enumerate(self._lent_cells):
            word = cell * self.form.size // 8
            fit[:, number] = (paths.cell != cell).all(axis=1) & (target != word & -2)
        slot = va >> np.uint64(self.form.levels[0][0])
        for number, lent in enumerate(self.arena.lent[IN_PLACE:], IN_PLACE):
            fit[:, number] = slot != lent.slot
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
        return Counter({CR3_UNDER_TEST: len(sites.lent) - copied, REASONS[1]: copied})

    def changes(self, sites: Sites, after: U64) -> tuple[U64, U64]:
        """Return the changed words, as `Outcomes` has them, given the entries' values after.

        An entry of four bytes is told as the word that it lies in, in the tables under test.
        """
        pa = sites.reported & ~np.uint64(7)
        at = self.space.index_of(pa)
        word = np.where(at == NOWHERE, np.uint64(0), self.space.words[at])
        up = np.where(at == NOWHERE, np.uint64(0), (sites.reported & np.uint64(4)) << np.uint64(3))
        address, value = changed_words(pa, word, word ^ (sites.before ^ after) << up)
        if self._masked is not None:
            row = np.searchsorted(self._used, address & np.uint64(-FRAME & (1 << 64) - 1))
            row = np.minimum(row, len(self._used) - 1)
            place = (address & np.uint64(FRAME - 1)) >> np.uint64(3)
            value |= np.where(address != 0, self._masked[row, place], np.uint64(0))
        return address, value

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
        now = self.space.tables(self._tables)
        if np.array_equal(now, self._pristine):
            return None
        table, word = np.argwhere(now != self._pristine)[0]
        self.space.write_tables(self._tables, self._pristine)
        return int(self._tables[table]) + 8 * int(word)
