"""Real accesses by guest code, and what became of each.

Each access runs alone, from the same state: a CPU that has seen no exception, an empty TLB, the
tables as they were. What it changed in them is read and undone before the next.
"""

from collections.abc import Callable

import numpy as np
from unicorn import (
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_OK,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
)

from emu.probe.arena import place_arena
from emu.probe.calibrate import GENERAL_PROTECTION, PAGE_FAULT
from emu.probe.paths import find_paths, find_tables
from emu.probe.rig import ProbeError, Rig, Run, Watcher
from emu.probe.routines import STORED
from emu.probe.signature import SLOT, decode, sign, signature
from emu.probe.space import NOWHERE, Space
from walker.access import Access, AccessType
from walker.columns import MAX_STEPS, Accesses, Kind, Outcomes, merge_changes
from walker.context import PagingContext
from walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["Prober"]

_BATCH = 4096
_TRANSLATED = (
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_FETCH_PROT,
)
"""The engine's errors that say: the translation worked, and what it led to can't be had."""


class Prober:
    """Puts accesses to an emulated CPU under the tables of `memory` and the given context.

    `memory` is only read: its paging structures are copied into RAM of the probe's own, whose
    other frames carry signatures. CR3 has to lie within it.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._context = context
        root = np.array([context.root], np.uint64)
        tables = find_tables(memory, context.root, context.levels)
        words = memory.tables(root)[0]
        arena = place_arena(memory, tables, words, context.levels)
        self._space = Space([*memory.ranges, (arena.start, arena.end - arena.start)])
        self._space.write_tables(tables, memory.tables(tables))
        arena.prepare(self._space, words, context.levels)
        self._arena = arena
        frames = [lent.cr3 for lent in arena.lent]
        self._tables = np.union1d(tables, np.array(frames, np.uint64))
        self._pristine = self._space.tables(self._tables)
        self._signed: dict[int, int] = {}
        self._runner = Rig(self._space, arena, context, fetch=True)
        self._watcher = Watcher(self._space, arena, context)

    def probe(self, accesses: Accesses, progress: Callable[[int], None] | None = None) -> Outcomes:
        """Make every access, each on its own, and return what was observed.

        `progress` is called with the number of accesses done, now and then. `ProbeError` where
        the emulator did something that is no outcome.
        """
        parts = [Outcomes.empty(0)]
        for start in range(0, len(accesses), _BATCH):
            parts.append(self._batch(accesses.take(slice(start, start + _BATCH))))
            if progress is not None:
                progress(min(start + _BATCH, len(accesses)))
        return Outcomes.join(parts)

    def _batch(self, accesses: Accesses) -> Outcomes:
        levels, lent = self._context.levels, self._arena.lent
        slot = accesses.va >> np.uint64(3 + 9 * levels) & np.uint64(511)
        second = slot == lent[0].slot
        word = np.full((len(accesses), MAX_STEPS), NOWHERE, np.int64)
        pa = np.zeros((len(accesses), MAX_STEPS), np.uint64)
        page = np.zeros(len(accesses), np.uint64)
        for chosen, rows in ((lent[0], ~second), (lent[1], second)):
            paths = find_paths(self._space, chosen.cr3, levels, accesses.va[rows])
            word[rows], page[rows] = paths.word, paths.page
            # What happens in the copy of the root is said of the root.
            paths.pa[:, 0] -= np.uint64(chosen.cr3 - self._context.root)
            pa[rows] = paths.pa
        self._sign(page | accesses.va & np.uint64(FRAME - SLOT))

        before = np.where(word == NOWHERE, np.uint64(0), self._space.words[word])
        after = before.copy()
        outcomes = Outcomes.empty(len(accesses))
        rows = zip(word.tolist(), before.tolist(), second.tolist(), strict=True)
        for at, (words, values, copy) in enumerate(rows):
            self._one(accesses[at], int(copy), outcomes, at)
            for place, index in enumerate(words):
                if index == NOWHERE:
                    break
                value = self._space.view[index]
                if value != values[place]:
                    after[at, place] = value
            for place, index in enumerate(words):
                if index == NOWHERE:
                    break
                self._space.view[index] = values[place]
        self._check_tables(accesses)
        outcomes.entry_pa[:], outcomes.entry_value[:] = merge_changes(pa, before, after)
        return outcomes

    def _one(self, access: Access, copy: int, outcomes: Outcomes, row: int) -> None:
        """Make one access and note its outcome, but for the words it changed."""
        run, pa = self._run(access, copy)
        if run.error == UC_ERR_EXCEPTION:
            at = self._runner.faulted_at(access.va, access.type, access.cpl, copy)
            if run.rip != at or run.completed:
                raise ProbeError(f"{_name(access)}: exception {run.vector} at RIP {run.rip:#x}")
            if run.vector == PAGE_FAULT:
                outcomes.kind[row] = Kind.PAGE_FAULT
                outcomes.error_code[row] = run.error_code
                outcomes.cr2[row] = run.cr2
                return
            if run.vector == GENERAL_PROTECTION and run.error_code == 0:
                outcomes.kind[row] = Kind.GENERAL_PROTECTION
                return
        elif pa is not None and (run.completed or run.error in _TRANSLATED):
            outcomes.kind[row] = Kind.OK
            outcomes.pa[row] = pa
            return
        raise ProbeError(
            f"{_name(access)}: no outcome (engine error {run.error}, vector {run.vector}, "
            f"error code {run.error_code:#x}, RIP {run.rip:#x})"
        )

    def _run(self, access: Access, copy: int) -> tuple[Run, int | None]:
        """Make one access, and return the state after it and the address it reached.

        The address is what the page itself says, where it carries a signature. Else it is what
        the watcher saw.
        """
        va, kind, cpl, ac = access.va, access.type, access.cpl, bool(access.ac)
        if kind is AccessType.EXECUTE:
            # Nothing is executed before it is known to be a signature.
            run, seen = self._watcher.watch(va, kind, cpl, ac=ac, lent=copy)
            if seen in self._signed and run.error == UC_ERR_FETCH_PROT:
                run = self._runner.attempt(va, kind, cpl, ac=ac, lent=copy)
                return run, run.rax if run.completed else None
            return run, seen
        run = self._runner.attempt(va, kind, cpl, ac=ac, lent=copy)
        if run.error == UC_ERR_EXCEPTION:
            return run, None
        if run.error == UC_ERR_OK:
            stored = STORED if kind is AccessType.WRITE else None
            pa = decode(run.rdx, run.rsi, va=va, stored=stored)
            if pa is not None:
                if stored is not None:
                    self._erase(pa)
                return run, pa
        # The store may have hit a table, and what it left of A and D there is not the walk's.
        self._space.write_tables(self._tables, self._pristine)
        return self._watcher.watch(va, kind, cpl, ac=ac, lent=copy)

    def _sign(self, slots: U64) -> None:
        slots = np.unique(slots)
        frames = slots & ~np.uint64(FRAME - 1)
        slots = slots[~np.isin(frames, self._tables) & (frames < self._arena.start)]
        held = sign(self._space, slots)
        self._signed.update(zip(held.tolist(), self._space.index_of(held).tolist(), strict=True))

    def _erase(self, pa: int) -> None:
        """Give a slot back its signature."""
        at = self._signed.get(pa & -SLOT)
        if at is None:
            raise ProbeError(f"a store reached {pa:#x}, which carries a signature not put there")
        self._space.view[at], self._space.view[at + 1] = signature(pa & -SLOT)

    def _check_tables(self, accesses: Accesses) -> None:
        """Make sure that no word changed but those looked at."""
        now = self._space.tables(self._tables)
        if not np.array_equal(now, self._pristine):
            table, word = np.argwhere(now != self._pristine)[0]
            pa = int(self._tables[table]) + 8 * int(word)
            self._space.write_tables(self._tables, self._pristine)
            raise ProbeError(
                f"the emulator changed the word at {pa:#x}, which no walk of the {len(accesses)} "
                f"accesses from va {int(accesses.va[0]):#x} uses"
            )


def _name(access: Access) -> str:
    return f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}"
