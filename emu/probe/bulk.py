"""Many accesses in one engine run, by guest code; a fault costs one call of a hook.

    host                       guest: a loop (`crosswalk.emu.probe.loops`), at CPL 0 or 3
    records, one an access ──► for each record: access, compare, look at the words of the walk
    hook of exceptions     ◄── a fault: note it, clear it, go on at the loop's FIX
    outs, notes, a sum     ◄── what differs; what the hook noted; what was found as expected

What comes out is the same as one access at a time gives, or nothing: an access that the run can't
decide is left to the single probe. Nothing is decided by silence alone: what has no note and no out
counts only if the run's sum says that it was found as expected.

Of three engines one runs what has markers. In the second RAM isn't executable: fetches of anything
else end in an error of the engine. The third (`BulkWatcher`) is for reads and writes of paging
structures, whose hook sees each being made.

Outstanding: without /proc/self/mem the engine's own state isn't found, and paging structures are
read and written one at a time.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from unicorn import (
    UC_ERR_OK,
    UC_HOOK_MEM_INVALID,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_FETCH_PROT,
    UC_MEM_FETCH_UNMAPPED,
    UC_MEM_WRITE,
)

from crosswalk.emu.cpu.engine import SavedState
from crosswalk.emu.cpu.state_layout import NO_VECTOR, live_state
from crosswalk.emu.probe.access_engine import TRANSLATED, AccessEngine
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
    WATCHED,
)
from crosswalk.emu.probe.page_marker import SLOT, byte_of, markers
from crosswalk.emu.probe.paths import MAX_LEVELS
from crosswalk.emu.probe.routines import MARK
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import CAPACITY
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Accesses, Kind, Rows
from crosswalk.walker.memory import FRAME, U64

__all__ = ["BulkEngine", "BulkOutcomes", "BulkWatcher", "Job", "collect", "expected", "runs_of"]

NOTE_WORDS = 5
"""Words of a note: R15, RIP, vector, error code, address."""
REACHED, SEEN = 0x100, 0x101
"""What a note has in place of a vector, with a physical address: REACHED for an access that was
translated and that the engine can't make; SEEN for one that a hook saw being made."""

_PAGE = np.uint64(FRAME - 1)
_PAGE_SHIFT = np.uint64(12)
_NOTHING = 0, 0, 0
_FETCHES_KEPT = 1 << 17  # Each fetch that is made leaves a KB of translated code.
_FETCHES = UC_MEM_FETCH_PROT, UC_MEM_FETCH_UNMAPPED
_LOW = 2  # The column of a record that R11 sums up.


@dataclass(frozen=True, slots=True)
class Job:
    """n accesses for bulk runs.

    `slot` uint8[n] says which of the trampoline's slots is borrowed; `index` int64[n, 5] are the
    places in the space of the words that the walk may touch, NOWHERE for none, `before`
    uint64[n, 5] their values; `target` uint64[n] is the physical address that it may reach, where a
    marker may be.
    """

    accesses: Accesses
    slot: NDArray[np.uint8]
    index: NDArray[np.int64]
    before: U64
    target: U64

    def take(self, rows: NDArray[np.intp]) -> "Job":
        """Return the chosen rows."""
        return Job(
            self.accesses.take(rows),
            self.slot[rows],
            self.index[rows],
            self.before[rows],
            self.target[rows],
        )

    def __len__(self) -> int:
        return len(self.accesses)


@dataclass(frozen=True, slots=True)
class BulkOutcomes(Rows):
    """The outcomes of n accesses of a job, as far as the run decides them.

    Where `decided` bool[n] is set, the columns are those of `Outcomes`, and `after` uint64[n, 5]
    are the words of the walk after the access; elsewhere they mean nothing.
    """

    decided: NDArray[np.bool_]
    kind: NDArray[np.uint8]
    pa: U64
    error_code: NDArray[np.uint16]
    cr2: U64
    after: U64

    @classmethod
    def nothing(cls, count: int) -> "BulkOutcomes":
        """Return `count` rows, none decided."""
        return cls(
            np.zeros(count, np.bool_),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint16),
            np.zeros(count, np.uint64),
            np.zeros((count, MAX_LEVELS), np.uint64),
        )


def runs_of(job: Job) -> list[NDArray[np.intp]]:
    """Return the rows of each run: one privilege and type, no page twice, up to CAPACITY.

    An access that succeeds leaves its translation in the TLB, so a page's second access has to
    wait for the next run, which begins with an empty one.
    """
    accesses = job.accesses
    page = accesses.va >> _PAGE_SHIFT
    group = (
        (job.slot << np.uint8(4))
        | ((accesses.cpl == 3).astype(np.uint8) << np.uint8(3))
        | (accesses.ac.astype(np.uint8) << np.uint8(2))
        | accesses.type
    )
    order = np.lexsort((page, group))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (np.diff(page[order]) != 0) | (np.diff(group[order]) != 0)
    starts = np.flatnonzero(fresh)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    by_run = np.lexsort((order, turn, group[order]))
    order, turn = order[by_run], turn[by_run]
    bounds = np.flatnonzero((np.diff(group[order]) != 0) | (np.diff(turn) != 0)) + 1
    return [
        rows[at : at + CAPACITY]
        for rows in np.split(order, bounds)
        for at in range(0, len(rows), CAPACITY)
    ]


class BulkEngine(AccessEngine):
    """Goes on after a fault, and makes up to CAPACITY accesses a run."""

    _behind = 0
    """Distance in bytes from the usual loops to those that it runs."""

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool) -> None:
        super().__init__(space, own, fetch=fetch)
        self._space = space
        # For each frame of the space, where the window shows it, in words.
        self._shown = np.zeros(len(space.words) >> 9, np.int64)
        self._now = SavedState(self._engine.uc)
        self._live = live_state(self._engine)
        # NOTE_WORDS each, of faults and of what else a hook notes.
        self._notes = array("Q")
        self._missed = _NOTHING
        self._fix = self._most = self._fetches = 0
        self._engine.hook_exceptions(self._hook())
        self._engine.hook_memory(UC_HOOK_MEM_INVALID, self._miss)

    def enter(self, workspace: Workspace) -> None:
        """Make what follows in this workspace, and find its tables in the window."""
        super().enter(workspace)
        frames = self._space.index_of(workspace.trampoline.tables) >> 9
        self._shown[frames] = np.arange(len(frames), dtype=np.int64) << 9

    @property
    def possible_for_user(self) -> bool:
        """Whether user code can have data of its own in the trampoline."""
        return self._trampoline.user_key is not None

    def make(
        self,
        job: Job,
        least: int = 1,
        done: Callable[[NDArray[np.intp], NDArray[np.bool_]], None] | None = None,
    ) -> BulkOutcomes:
        """Make the accesses of a job, run by run, but for runs of fewer than `least`.

        An access is decided if it reached its target, if it faulted, or if the engine reported
        where it ended. After each run `done` is called with its rows, and bool of each: whether
        it reached something other than its target, where a stored byte may have been left.
        """
        runs = [rows for rows in runs_of(job) if len(rows) >= least]
        found = BulkOutcomes.nothing(len(job))
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
        # The sum over what was found as expected has to be right, or the run decides nothing.
        self._forget_code(int((ordered.accesses.type == AccessType.EXECUTE).sum()))
        good = outs[:, 0] == 0
        good[every[:, 0].astype(np.intp)] = False
        total = np.add.reduceat(np.where(good, records[:, _LOW], np.uint64(0)), bounds[:-1])
        right = np.array(sane) & (total == np.array(sums, np.uint64))
        result.decided[:] &= np.repeat(right, np.diff(bounds))
        for name in BulkOutcomes.__slots__:
            getattr(found, name)[order] = getattr(result, name)
        return found

    def _forget_code(self, fetches: int) -> None:
        """Drop the engine's translated code after many fetches: each may add to it."""
        self._fetches += fetches
        if self._fetches > _FETCHES_KEPT:
            self._fetches = 0
            self.uc.ctl_flush_tb()

    def _records(self, job: Job) -> tuple[U64, U64]:
        """Return the records of a job, and the RIP that a fault of each access shows."""
        accesses = job.accesses
        views = [slot.view(cpl) for slot in self._trampoline.slots for cpl in (0, 3)]
        view = 2 * job.slot.astype(np.intp) + (accesses.cpl == 3)
        window = np.array([each.window for each in views], np.uint64)[view]
        outs = np.array([each.outs for each in views], np.uint64)[view]
        loops = np.array([each.loops for each in views], np.uint64)[view]
        records = np.empty((len(job), RECORD_WORDS), np.uint64)
        records[:, 0] = accesses.va
        records[:, 1:4] = expected(accesses.type, job.target)
        records[:, 4:9] = self._seen_at(window, outs, job.index)
        records[:, 9:14] = job.before
        places = np.array([ACCESS[kind] + self._behind for kind in AccessType], np.uint64)
        fetch = accesses.type == AccessType.EXECUTE
        return records, np.where(fetch, accesses.va, loops + places[accesses.type])

    def _run(self, job: Job, first: int, records: U64, outs: U64) -> tuple[U64 | None, int]:
        """Make the accesses of these records, of which `first` is one of the job's.

        No two share a page. Fills in the outs; returns the notes, whose first column is the number
        of the record, and the sum in R11; (None, 0) where the run did not end as it should.
        """
        count = len(records)
        accesses = job.accesses
        kind, cpl = AccessType(int(accesses.type[first])), int(accesses.cpl[first])
        slot = int(job.slot[first])
        view = self._trampoline.slots[slot].view(cpl)
        self._words(self._trampoline.records, records.size)[:] = records.reshape(-1)
        written = self._words(self._trampoline.outs, outs.size)
        written[:] = 0
        end = view.records + count * RECORD_BYTES
        state = self._state(slot, cpl, ac=bool(accesses.ac[first]))
        quads, register = state.quads, self._at
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
            # R15 was changed: code other than the loop ran.
            or (notes[:, 0] >= count * RECORD_BYTES).any()
        ):
            return None, 0
        notes[:, 0] //= np.uint64(RECORD_BYTES)
        return notes, quads[register["r11"]]

    def _prepare_run(self, job: Job, first: int, count: int) -> None:
        """Prepare what a subclass needs before a run."""

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
            # The access was translated to where the engine has no RAM, or may not fetch.
            engine.save(self._now)
            at = self._now.quads[self._at["r15"]]
            self._notes.extend((at, 0, *self._missed))
            self._missed = _NOTHING
            self._go_on()
            error = engine.run(self._fix, done)
        engine.save(self._now)
        return error == UC_ERR_OK and self._now.quads[self._at["rip"]] == done

    def _seen_at(self, window: U64, outs: U64, index: NDArray[np.int64]) -> U64:
        """Return the linear addresses of the words; for NOWHERE, that of a 0 behind the outs."""
        seen = (self._shown[index >> 9] + (index & 511)).view(np.uint64) << np.uint64(3)
        seen += window[:, None]
        nothing = (outs + np.uint64(CAPACITY * OUT_BYTES))[:, None]
        return np.where(index == NOWHERE, nothing, seen)

    def _words(self, pa: int, count: int) -> U64:
        at = self._space.byte_at(pa) >> 3
        return self._space.words[at : at + count]

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return the hook that notes a fault and has the guest go on at FIX, the fault cleared."""
        note, notes = self._notes.extend, self._notes
        layout, register = self._layout, self._at
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
        # The engine's own state wasn't found: copy it, change the copy, restore it.
        save, restore = self._engine.exchange(self._now)

        def copied(engine: object, vector: int, data: object) -> None:
            save()
            fault(engine, vector, data)
            restore()

        return copied

    def _miss(
        self, _engine: object, event: int, pa: int, size: int, _value: int, _data: object
    ) -> bool:
        """Note where an access led that the engine can't make; it ends in an error."""
        # The access itself is of one byte; the loop's own are of eight.
        if self._missed is _NOTHING and (size == 1 or event in _FETCHES):
            self._missed = REACHED, 0, pa
        return False

    def _go_on(self) -> None:
        """Change the state saved last to go on at FIX, and restore it."""
        self._now.longs[self._layout.vector] = NO_VECTOR
        self._now.quads[self._at["rip"]] = self._fix
        self._engine.restore(self._now)


class BulkWatcher(BulkEngine):
    """Makes reads and writes of paging structures, which carry no marker.

    The physical address is the one that a hook of memory accesses gets. When it is called the walk
    is over and the store not yet made: the words that the walk changed are recorded and put back
    then, and the store is undone at the loop's next read.
    """

    _behind = WATCHED

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        super().__init__(space, own, fetch=False)
        self._words_of: list[list[tuple[int, int]]] = []
        self._first_record = self._first_out = 0
        self._undo: tuple[int, int] | None = None
        # Everywhere but in the trampoline's own pages.
        for span in ((0, own[0] - 1), (own[1], (1 << 64) - 1)):
            self._engine.hook_memory(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see, span)

    @property
    def possible(self) -> bool:
        """Whether the hook can read R15, the record being made, while the engine runs."""
        return self._live is not None

    def _prepare_run(self, job: Job, first: int, count: int) -> None:
        part = slice(first, first + count)
        self._words_of = [
            [(at, value) for at, value in zip(row, values, strict=True) if at != NOWHERE]
            for row, values in zip(job.index[part].tolist(), job.before[part].tolist(), strict=True)
        ]
        view = self._trampoline.slots[int(job.slot[first])].view(int(job.accesses.cpl[first]))
        self._first_record = view.records
        self._first_out = self._space.byte_at(self._trampoline.outs) >> 3
        self._undo = None

    def _hook(self) -> Callable[[object, int, object], None]:
        note = super()._hook()

        def fault(engine: object, vector: int, data: object) -> None:
            note(engine, vector, data)
            self._record_changes(self._notes[-NOTE_WORDS])

        return fault

    def _record_changes(self, record: int) -> None:
        """Record the words that the walk changed in the out, and put them back, as FIX does."""
        number = (record - self._first_record) // RECORD_BYTES
        if not 0 <= number < len(self._words_of):
            return  # R15 was changed: the run will be found to decide nothing.
        view, out = self._space.view, self._first_out + number * OUT_WORDS
        for step, (at, before) in enumerate(self._words_of[number], 1):
            after = view[at]
            if after != before:
                view[out + step], view[at] = after, before

    def _see(
        self, _engine: object, event: int, pa: int, size: int, _value: int, _data: object
    ) -> bool:
        content = self._space.bytes
        if self._undo is not None:
            place, byte = self._undo
            content[place], self._undo = byte, None
        # The access itself is of one byte; the loop's own are of eight.
        if size == 1 and self._live is not None:
            record = self._live.quads[self._at["r15"]]
            self._notes.extend((record, 0, SEEN, 0, pa))
            self._record_changes(record)
            place = self._space.byte_at(pa) if event == UC_MEM_WRITE else NOWHERE
            if place != NOWHERE:
                self._undo = place, content[place]
        return True


def collect(job: Job, outs: U64, notes: U64, faulted_at: U64) -> BulkOutcomes:
    """Return the outcomes of n accesses, from their outs uint64[n, 6] and their notes.

    `notes` are uint64[m, 5]: the row, RIP, vector or REACHED or SEEN, error code, address.
    `faulted_at` uint64[n] is the RIP that a fault of the access itself shows. An access without a
    note and with an empty out reached its target, provided that the run's sum is right: that is
    for the caller to check.
    """
    count = len(job)
    found = BulkOutcomes.nothing(count)
    found.after[:] = np.where(outs[:, 1:] == 0, job.before, outs[:, 1:])
    found.decided[:] = outs[:, 0] == 0
    found.pa[:] = job.target

    row = notes[:, 0].astype(np.intp)
    vector, code, address = notes[:, 2], notes[:, 3], notes[:, 4]
    paging = vector == Vector.PF
    right = paging | ((vector == Vector.GP) & (code == 0))
    right &= notes[:, 1] == faulted_at[row]
    # A hook hit alone is no proof: the record must also be marked complete.
    other = outs[row, 0] != 0
    reached = (vector == REACHED) & ~other | (vector == SEEN) & other
    reached &= (address ^ job.accesses.va[row]) & _PAGE == 0
    # Exactly one note.
    alone = np.bincount(row, minlength=count)[row] == 1
    found.decided[row] = ((right & ~other) | reached) & alone
    found.kind[row] = np.where(
        reached, Kind.OK, np.where(paging, Kind.PAGE_FAULT, Kind.GENERAL_PROTECTION)
    )
    found.pa[row] = np.where(reached, address, np.uint64(0))
    found.error_code[row] = np.where(paging, code, 0)
    found.cr2[row] = np.where(paging, address, 0)
    return found


def expected(kind: NDArray[np.uint8], target: U64) -> U64:
    """Return uint64[n, 3]: store | original << 8, both bytes, and the words then in the slot."""
    low, high = markers(target & ~np.uint64(SLOT - 1))
    original = byte_of(target).astype(np.uint64)
    # Differs from the byte there, and from that of the access before.
    stored = original ^ (np.arange(len(target), dtype=np.uint64) % np.uint64(255) + np.uint64(1))
    change = (original ^ stored) << ((target & np.uint64(7)) << np.uint64(3))
    write, upper = kind == AccessType.WRITE, (target & np.uint64(8)) != 0
    fetch = kind == AccessType.EXECUTE
    low_after = np.where(write & ~upper, low ^ change, np.where(fetch, target >> _PAGE_SHIFT, low))
    high_after = np.where(write & upper, high ^ change, high)
    return np.stack([stored | original << np.uint64(8), low_after, high_after], axis=1)
