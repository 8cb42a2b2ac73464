"""Many accesses in one engine run, by guest code; a fault costs one call of a hook.

What comes out is the same as one access at a time gives, or nothing: an access that the run can't
decide is left to the single probe.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_ERR_OK

from emu.machine.registers import register_offsets
from emu.probe.arena import CAPACITY, Arena
from emu.probe.calibrate import GENERAL_PROTECTION, PAGE_FAULT
from emu.probe.engine import Saved
from emu.probe.loops import (
    ACCESS,
    FIX,
    HEAD,
    LOOP_LANDED,
    LOOPS_DONE,
    OUT_BYTES,
    OUT_WORDS,
    RECORD_BYTES,
    RECORD_WORDS,
)
from emu.probe.rig import NO_VECTOR, TRANSLATED, Rig
from emu.probe.routines import MARK
from emu.probe.signature import SLOT, byte_of, signatures
from emu.probe.space import NOWHERE, Space
from walker.access import AccessType
from walker.columns import Accesses, Kind
from walker.context import PagingContext
from walker.memory import U64

__all__ = ["BulkRig", "Found", "Job", "runs_of"]

_BLOCK_PAGES = np.uint64(12)


@dataclass(frozen=True, slots=True)
class Job:
    """n accesses for bulk runs.

    `copy` uint8[n] says under which copy of the root; `word` int64[n, 5] are the places in the
    space of the words that the walk may touch, NOWHERE for none, `before` uint64[n, 5] their
    values; `target` uint64[n] is the address that it may reach, where a signature may be.
    """

    accesses: Accesses
    copy: NDArray[np.uint8]
    word: NDArray[np.int64]
    before: U64
    target: U64


@dataclass(frozen=True, slots=True)
class Found:
    """What n accesses of a job came to.

    `decided` bool[n]: the rest is as for `Outcomes`, and `after` uint64[n, 5] are the words
    after the access; where not decided, all of it means nothing.
    """

    decided: NDArray[np.bool_]
    kind: NDArray[np.uint8]
    pa: U64
    error_code: NDArray[np.uint16]
    cr2: U64
    after: U64

    @classmethod
    def nothing(cls, count: int) -> "Found":
        """Return `count` rows that nothing is known of."""
        return cls(
            np.zeros(count, np.bool_),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint16),
            np.zeros(count, np.uint64),
            np.zeros((count, 5), np.uint64),
        )


def runs_of(job: Job) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each run: one privilege and type, no page twice, up to CAPACITY.

    An access that succeeds leaves its translation in the TLB, so a page's second access has to
    wait for the next run, which begins with an empty one.
    """
    accesses = job.accesses
    page = accesses.va >> _BLOCK_PAGES
    group = (
        (job.copy.astype(np.uint64) << np.uint64(4))
        | ((accesses.cpl == 3).astype(np.uint64) << np.uint64(3))
        | (accesses.ac.astype(np.uint64) << np.uint64(2))
        | accesses.type.astype(np.uint64)
    )
    order = np.lexsort((page, group))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (np.diff(page[order]) != 0) | (np.diff(group[order]) != 0)
    starts = np.flatnonzero(fresh)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    by_run = np.lexsort((np.arange(len(order)), turn, group[order]))
    order, turn = order[by_run], turn[by_run]
    bounds = np.flatnonzero((np.diff(group[order]) != 0) | (np.diff(turn) != 0)) + 1
    for rows in np.split(order, bounds):
        for at in range(0, len(rows), CAPACITY):
            yield rows[at : at + CAPACITY]


class BulkRig(Rig):
    """A rig whose engine goes on after a fault, and makes up to CAPACITY accesses a run."""

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool) -> None:
        super().__init__(space, own, fetch=fetch)
        self._space = space
        # For each frame of the space, where the window shows it, in words.
        self._shown = np.zeros(len(space.words) >> 9, np.int64)
        self._now = Saved(self._engine)
        self._register = {name: at >> 3 for name, at in register_offsets().items()}
        self._faults: list[tuple[int, int, int, int, int]] = []
        self._fix = self._most = 0
        self._engine.hook_exceptions(self._hook())

    def enter(self, arena: Arena, context: PagingContext) -> None:
        """Make what follows under these control registers, with this arena's code."""
        super().enter(arena, context)
        frames = self._space.index_of(arena.tables) >> 9
        self._shown[frames] = np.arange(len(frames), dtype=np.int64) << 9

    @property
    def possible_for_user(self) -> bool:
        """Whether user code can have data of its own in the arena."""
        return self._arena.user_key is not None

    def run(self, job: Job, rows: NDArray[np.intp]) -> Found:
        """Make these accesses, of one privilege and type, of which no two share a page.

        An access is decided if it reached its target, or faulted. Signatures that were written
        to are left as they then are.
        """
        count = len(rows)
        accesses = job.accesses.take(rows)
        kind, cpl = AccessType(accesses.type[0]), int(accesses.cpl[0])
        copy = int(job.copy[rows[0]])
        view = self._arena.lent[copy].view(cpl)
        records = np.empty((count, RECORD_WORDS), np.uint64)
        records[:, 0] = accesses.va
        records[:, 1:4] = _expected(kind, job.target[rows])
        records[:, 4:9] = self._seen_at(view.window, view.outs, job.word[rows])
        records[:, 9:14] = job.before[rows]
        self._put(self._arena.records, records)
        self._put(self._arena.outs, np.zeros((count, OUT_WORDS), np.uint64))
        end = view.records + count * RECORD_BYTES
        state = self._state(copy, cpl, ac=bool(accesses.ac[0]))
        for name, value in (
            ("r15", view.records),
            ("r14", view.outs),
            ("r13", MARK),
            ("r12", end),
            ("r11", 0),
            ("r10", view.loops + LOOP_LANDED),
        ):
            state.quads[self._register[name]] = value
        sane = self._go(state, view.loops, kind, count)
        quads = self._now.quads
        if not sane or quads[self._register["r15"]] != end:
            return Found.nothing(count)
        at = accesses.va if kind is AccessType.EXECUTE else view.loops + ACCESS[kind]
        found = self._collect(job.target[rows], job.before[rows], (view.records, at))
        # What was found as expected adds up, or nothing of it counts.
        good = records[found.decided & (found.kind == Kind.OK), 2]
        if int(good.sum(dtype=np.uint64)) != quads[self._register["r11"]]:
            return Found.nothing(count)
        return found

    def _go(self, state: Saved, loops: int, kind: AccessType, count: int) -> bool:
        """Run a loop to its end, and return whether it got there; the state is in `_now`."""
        self._faults.clear()
        self._fix, self._most = loops + FIX[kind], count
        engine, done = self._engine, loops + LOOPS_DONE
        engine.restore(state)
        engine.flush_tlb()
        error = engine.run(loops + HEAD[kind], done)
        for _ in range(count):
            if error not in TRANSLATED:
                break
            # The access led to where the engine has no RAM, or may not fetch: not decided here.
            engine.save(self._now)
            self._faults.append((self._now.quads[self._register["r15"]], 0, 0, 0, 0))
            self._go_on()
            error = engine.run(self._fix, done)
        engine.save(self._now)
        return error == UC_ERR_OK and self._now.quads[self._register["rip"]] == done

    def _seen_at(self, window: int, outs: int, word: NDArray[np.int64]) -> U64:
        """Return where the words are seen; for none, a word behind the outs that stays 0."""
        seen: U64 = (self._shown[word >> 9] + np.int64(window >> 3)).view(np.uint64)
        seen += (word & 511).view(np.uint64)
        seen <<= np.uint64(3)
        seen[word == NOWHERE] = outs + CAPACITY * OUT_BYTES
        return seen

    def _put(self, pa: int, rows: U64) -> None:
        at = self._space.byte_at(pa) >> 3
        self._space.words[at : at + rows.size] = rows.reshape(-1)

    def _collect(self, target: U64, before: U64, where: tuple[int, int | U64]) -> Found:
        count = len(target)
        at = self._space.byte_at(self._arena.outs) >> 3
        outs = self._space.words[at : at + count * OUT_WORDS].reshape(count, OUT_WORDS)
        found = Found.nothing(count)
        found.after[:] = np.where(outs[:, 1:] == 0, before, outs[:, 1:])
        found.decided[:] = outs[:, 0] == 0
        found.pa[:] = target

        first, faulted_at = where
        faults = np.array(self._faults, np.uint64).reshape(-1, 5)
        if (faults[:, 0] - np.uint64(first) >= count * RECORD_BYTES).any():
            return Found.nothing(count)  # Something ran that is no routine of ours.
        row = ((faults[:, 0] - np.uint64(first)) // np.uint64(RECORD_BYTES)).astype(np.intp)
        expected = faulted_at[row] if isinstance(faulted_at, np.ndarray) else faulted_at
        vector, code = faults[:, 2], faults[:, 3]
        paging = vector == PAGE_FAULT
        right = paging | ((vector == GENERAL_PROTECTION) & (code == 0))
        # A fault of the access itself, and no other before or after it.
        right &= (faults[:, 1] == expected) & (np.bincount(row, minlength=count)[row] == 1)
        found.decided[row] &= right
        found.pa[row] = 0
        found.kind[row] = np.where(paging, Kind.PAGE_FAULT, Kind.GENERAL_PROTECTION)
        found.error_code[row] = np.where(paging, code, 0)
        found.cr2[row] = np.where(paging, faults[:, 4], 0)
        return found

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return what notes a fault, and lets the guest go on at FIX as if it had seen none."""
        save, restore = self._engine.exchange(self._now)
        note, faults = self._faults.append, self._faults
        quads, longs = self._now.quads, self._now.longs
        layout, register = self._layout, self._register
        r15, rip, cr2 = register["r15"], register["rip"], register["cr2"]
        error_code, vector_at = layout.error_code >> 2, layout.vector >> 2

        def fault(_engine: object, vector: int, _data: object) -> None:
            save()
            note((quads[r15], quads[rip], vector, longs[error_code], quads[cr2]))
            if len(faults) > self._most:
                self.uc.emu_stop()
                return
            longs[vector_at] = NO_VECTOR
            quads[rip] = self._fix
            restore()

        return fault

    def _go_on(self) -> None:
        """Turn the state saved last into one that goes on at FIX, and take it."""
        self._now.longs[self._layout.vector >> 2] = NO_VECTOR
        self._now.quads[self._register["rip"]] = self._fix
        self._engine.restore(self._now)


def _expected(kind: AccessType, target: U64) -> U64:
    """Return uint64[n, 3]: the byte to store, and the words then to be found at the target."""
    low, high = signatures(target & ~np.uint64(SLOT - 1))
    if kind is AccessType.EXECUTE:
        return np.stack([low, target, high], axis=1)
    original = byte_of(target).astype(np.uint64)
    # Another byte than the one there, and than that of the access before: an alias of its page.
    stored = original ^ (np.arange(len(target), dtype=np.uint64) % np.uint64(255) + np.uint64(1))
    if kind is AccessType.WRITE:
        shift = (target & np.uint64(7)) << np.uint64(3)
        change = (original ^ stored) << shift
        upper = (target & np.uint64(8)) != 0
        low, high = np.where(upper, low, low ^ change), np.where(upper, high ^ change, high)
    return np.stack([stored, low, high], axis=1)
