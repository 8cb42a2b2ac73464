"""Many accesses in one engine run, by guest code; a fault costs one call of a hook.

What comes out is the same as one access at a time gives, or nothing: an access that the run can't
decide is left to the single probe.
"""

from array import array
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from unicorn import (
    UC_ERR_OK,
    UC_HOOK_MEM_INVALID,
    UC_MEM_FETCH_PROT,
    UC_MEM_FETCH_UNMAPPED,
)

from crosswalk.emu.cpu.engine import SavedState
from crosswalk.emu.cpu.state_layout import live_state
from crosswalk.emu.probe.access_engine import NO_VECTOR, TRANSLATED, Rig
from crosswalk.emu.probe.collect import NOTE_WORDS, REACHED, collect, expected
from crosswalk.emu.probe.job import Found, Job, runs_of
from crosswalk.emu.probe.loops import (
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
from crosswalk.emu.probe.routines import MARK
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import CAPACITY
from crosswalk.emu.probe.workspace import Ground
from crosswalk.walker.access import AccessType
from crosswalk.walker.memory import U64

__all__ = ["BulkRig"]

_NOTHING = 0, 0, 0
_FETCHES_KEPT = 1 << 17  # Of which some part are made, at a KB of the host's code each.
_FETCHES = UC_MEM_FETCH_PROT, UC_MEM_FETCH_UNMAPPED
_LOW = 2  # The column of a record that is summed up where it was found.


class BulkRig(Rig):
    """A rig whose engine goes on after a fault, and makes up to CAPACITY accesses a run."""

    _behind = 0
    """How far behind the usual loops those lie that it runs."""

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool) -> None:
        super().__init__(space, own, fetch=fetch)
        self._space = space
        # For each frame of the space, where the window shows it, in words.
        self._shown = np.zeros(len(space.words) >> 9, np.int64)
        self._now = SavedState(self._engine.uc)
        self._live = live_state(self._engine)
        self._register = self._layout.quads
        # Of each fault, and of what else is noted: R15, RIP, vector, error code, address.
        self._notes = array("Q")
        self._missed = _NOTHING
        self._fix = self._most = self._fetches = 0
        self._engine.hook_exceptions(self._hook())
        self._engine.hook_memory(UC_HOOK_MEM_INVALID, self._miss)

    def enter(self, ground: Ground) -> None:
        """Make what follows on this ground: under its control registers, with its arena's code."""
        super().enter(ground)
        frames = self._space.index_of(ground.arena.tables) >> 9
        self._shown[frames] = np.arange(len(frames), dtype=np.int64) << 9

    @property
    def possible_for_user(self) -> bool:
        """Whether user code can have data of its own in the arena."""
        return self._arena.user_key is not None

    def make(
        self,
        job: Job,
        least: int = 1,
        done: Callable[[NDArray[np.intp], NDArray[np.bool_]], None] | None = None,
    ) -> Found:
        """Make the accesses of a job, run by run, but for runs of fewer than `least`.

        An access is decided if it reached its target, if it faulted, or if the engine itself told
        where it ended. After each run `done` is called with its rows, and bool of each: whether
        it reached something else than its target, where what a write stored may still be.
        """
        runs = [rows for rows in runs_of(job) if len(rows) >= least]
        found = Found.nothing(len(job))
        if not runs:
            return found
        order = np.concatenate(runs)
        ordered = job.take(order)
        records, faulted_at = self._records(ordered)
        outs = np.empty((len(order), OUT_WORDS), np.uint64)
        sane, sums, notes = [], [], []
        bounds = np.cumsum([0, *(len(rows) for rows in runs)])
        for rows, (first, last) in zip(runs, pairwise(bounds.tolist()), strict=True):
            part = slice(first, last)
            noted, sum_ = self._run(ordered, first, records[part], outs[part])
            sane.append(noted is not None)
            sums.append(sum_)
            if noted is not None:
                noted[:, 0] += np.uint64(first)
                notes.append(noted)
            if done is not None:
                done(rows, outs[part, 0] != 0)
        every = np.concatenate([np.zeros((0, NOTE_WORDS), np.uint64), *notes])
        result = collect(ordered, outs, every, faulted_at)
        # What was found as expected adds up, or nothing of its run counts.
        self._forget_code(int((ordered.accesses.type == AccessType.EXECUTE).sum()))
        good = outs[:, 0] == 0
        good[every[:, 0].astype(np.intp)] = False
        total = np.add.reduceat(np.where(good, records[:, _LOW], np.uint64(0)), bounds[:-1])
        right = np.array(sane) & (total == np.array(sums, np.uint64))
        result.decided[:] &= np.repeat(right, np.diff(bounds))
        for name in Found.__slots__:
            getattr(found, name)[order] = getattr(result, name)
        return found

    def _forget_code(self, fetches: int) -> None:
        """Have the engine forget what it translated, now and then: each fetch may add to that."""
        self._fetches += fetches
        if self._fetches > _FETCHES_KEPT:
            self._fetches = 0
            self.uc.ctl_flush_tb()

    def _records(self, job: Job) -> tuple[U64, U64]:
        """Return the records of a job, and where each of its accesses shows a fault."""
        accesses = job.accesses
        views = [lent.view(cpl) for lent in self._arena.lent for cpl in (0, 3)]
        view = 2 * job.lent.astype(np.intp) + (accesses.cpl == 3)
        window = np.array([each.window for each in views], np.uint64)[view]
        outs = np.array([each.outs for each in views], np.uint64)[view]
        loops = np.array([each.loops for each in views], np.uint64)[view]
        records = np.empty((len(job), RECORD_WORDS), np.uint64)
        records[:, 0] = accesses.va
        records[:, 1:4] = expected(accesses.type, job.target)
        records[:, 4:9] = self._seen_at(window, outs, job.word)
        records[:, 9:14] = job.before
        places = np.array([ACCESS[kind] + self._behind for kind in AccessType], np.uint64)
        fetch = accesses.type == AccessType.EXECUTE
        return records, np.where(fetch, accesses.va, loops + places[accesses.type])

    def _run(self, job: Job, first: int, records: U64, outs: U64) -> tuple[U64 | None, int]:
        """Make the accesses of these records, of which `first` is one of the job's.

        No two share a page. Fills in the outs; returns the notes, of which the first column is
        the number of the record, and what R11 sums up. None instead of notes where the run did
        not end as it should.
        """
        count = len(records)
        accesses = job.accesses
        kind, cpl = AccessType(int(accesses.type[first])), int(accesses.cpl[first])
        lent = int(job.lent[first])
        view = self._arena.lent[lent].view(cpl)
        self._words(self._arena.records, records.size)[:] = records.reshape(-1)
        written = self._words(self._arena.outs, outs.size)
        written[:] = 0
        end = view.records + count * RECORD_BYTES
        state = self._state(lent, cpl, ac=bool(accesses.ac[first]))
        quads, register = state.quads, self._register
        quads[register["r15"]], quads[register["r14"]] = view.records, view.outs
        quads[register["r13"]], quads[register["r12"]] = MARK, end
        quads[register["r11"]], quads[register["r10"]] = 0, view.loops + LOOP_LANDED
        self._prepare_run(job, first, count)
        sane = self._go(state, view.loops + self._behind, kind, count)
        outs[:] = written.reshape(count, OUT_WORDS)
        quads = self._now.quads
        notes = np.array(self._notes, np.uint64).reshape(-1, NOTE_WORDS)
        notes[:, 0] -= np.uint64(view.records)
        if (
            not sane
            or quads[register["r15"]] != end
            # Something ran that is no routine of ours.
            or (notes[:, 0] >= count * RECORD_BYTES).any()
        ):
            return None, 0
        notes[:, 0] //= np.uint64(RECORD_BYTES)
        return notes, quads[register["r11"]]

    def _prepare_run(self, job: Job, first: int, count: int) -> None:
        """Do what else is to be done before a run."""

    def _go(self, state: SavedState, loops: int, kind: AccessType, count: int) -> bool:
        """Run a loop to its end, and return whether it got there; the state is in `_now`."""
        del self._notes[:]
        self._missed = _NOTHING
        self._fix, self._most = loops + FIX[kind], NOTE_WORDS * count
        engine, done = self._engine, loops + LOOPS_DONE - self._behind
        engine.restore(state)
        engine.flush_tlb()
        error = engine.run(loops + HEAD[kind], done)
        for _ in range(count):
            if error not in TRANSLATED:
                break
            # The access led to where the engine has no RAM, or may not fetch.
            engine.save(self._now)
            at = self._now.quads[self._register["r15"]]
            self._notes.extend((at, 0, *self._missed))
            self._missed = _NOTHING
            self._go_on()
            error = engine.run(self._fix, done)
        engine.save(self._now)
        return error == UC_ERR_OK and self._now.quads[self._register["rip"]] == done

    def _seen_at(self, window: U64, outs: U64, word: NDArray[np.int64]) -> U64:
        """Return where the words are seen; for none, a word behind the outs that stays 0."""
        seen = (self._shown[word >> 9] + (word & 511)).view(np.uint64) << np.uint64(3)
        seen += window[:, None]
        nothing = (outs + np.uint64(CAPACITY * OUT_BYTES))[:, None]
        return np.where(word == NOWHERE, nothing, seen)

    def _words(self, pa: int, count: int) -> U64:
        at = self._space.byte_at(pa) >> 3
        return self._space.words[at : at + count]

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return what notes a fault, and lets the guest go on at FIX as if it had seen none."""
        note, notes = self._notes.extend, self._notes
        layout, register = self._layout, self._register
        r15, rip, cr2 = register["r15"], register["rip"], register["cr2"]
        error_code, vector_at = layout.error_code, layout.vector
        state = self._now if self._live is None else self._live
        quads, longs = state.quads, state.longs

        def fault(_engine: object, vector: int, _data: object) -> None:
            note((quads[r15], quads[rip], vector, longs[error_code], quads[cr2]))
            if len(notes) > self._most:
                self.uc.emu_stop()
                return
            longs[vector_at] = NO_VECTOR
            quads[rip] = self._fix

        if self._live is not None:
            return fault
        # The engine's own state isn't known: a copy of it, and back.
        save, restore = self._engine.exchange(self._now)

        def copied(engine: object, vector: int, data: object) -> None:
            save()
            fault(engine, vector, data)
            restore()

        return copied

    def _miss(
        self, _engine: object, event: int, pa: int, size: int, _value: int, _data: object
    ) -> bool:
        """Take down where an access led that the engine can't make; it then ends in an error."""
        # What loads and stores is one byte; the probe's own are of eight.
        if self._missed is _NOTHING and (size == 1 or event in _FETCHES):
            self._missed = REACHED, 0, pa
        return False

    def _go_on(self) -> None:
        """Turn the state saved last into one that goes on at FIX, and take it."""
        self._now.longs[self._layout.vector] = NO_VECTOR
        self._now.quads[self._register["rip"]] = self._fix
        self._engine.restore(self._now)
