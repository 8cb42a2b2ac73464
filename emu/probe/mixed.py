"""Runs of accesses of all kinds in many address spaces; what comes out is as in `bulk`.

    host                       guest: `crosswalk.emu.probe.mixed_loop`
    records, one an access ──► switch address space where one begins; INVLPG; access; compare
    hook of exceptions     ◄── a fault: note it, clear it, go on at the record's FIX
    outs, notes, a sum     ◄── what differs; what the hook noted; what was found as expected

The sum has the control registers in it, read back behind each switch: a run in which one was not
what the record says decides nothing.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

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
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import Engine, SavedState
from crosswalk.emu.cpu.state_layout import NO_VECTOR, live_state, state_layout
from crosswalk.emu.probe.access_engine import NO_CR2, TRANSLATED, rflags
from crosswalk.emu.probe.bulk import NOTE_WORDS, REACHED, SEEN, Job, expected
from crosswalk.emu.probe.control import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
)
from crosswalk.emu.probe.mixed_loop import (
    COMPARE,
    CONTROL_WORDS,
    DONE,
    ENTER,
    HEAD,
    LANDED,
    MADE_HERE,
    NEXT,
    OUT_WORDS,
    RECORD_WORDS,
    TO_USER,
    USER,
    USER_FAULTED,
    USER_LANDED,
    WATCHED,
    Column,
)
from crosswalk.emu.probe.mixed_loop import SEEN as SEEN_AT
from crosswalk.emu.probe.routines import MARK
from crosswalk.emu.probe.shared_trampoline import OWN, SeenAt, SharedTrampoline
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import USER_CODE, USER_DATA
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Rows
from crosswalk.walker.memory import U64

__all__ = ["MixedEngine", "MixedRun", "Records", "records_of"]

_ET = 1 << 4  # Of CR0: always set when it is read.
_FETCHES_KEPT = 1 << 17  # Each fetch that is made leaves a KB of translated code.
_FETCHES = UC_MEM_FETCH_PROT, UC_MEM_FETCH_UNMAPPED
_NOTHING = 0, 0, 0
_EXECUTE = int(AccessType.EXECUTE)
_THEN = np.array([SEEN_AT, SEEN_AT, LANDED], np.uint64)
_ENTER, _MADE, _USER = (
    np.array([places[kind] for kind in AccessType], np.uint64)
    for places in (ENTER, MADE_HERE, USER)
)


@dataclass(frozen=True, slots=True)
class Records(Rows):
    """n accesses for the loop: `words` uint64[n, 32], as `Column` has them.

    `faulted_at` uint64[n] is the RIP that a fault of each shows.
    """

    words: U64
    faulted_at: U64


def records_of(
    trampoline: SharedTrampoline,
    slot: int,
    job: Job,
    watched: NDArray[np.bool_],
    control: U64,
    key: U64,
) -> Records:
    """Return the records of a job with this slot borrowed.

    `watched` bool[n] says of which accesses the host sees where they lead; `control` uint64[n, 5]
    are CR3, CR0, CR4, PKRU and EFER; `key` uint64[n] is a protection key that PKRU lets user code
    read.
    """
    base = trampoline.base(slot)
    accesses, code = job.accesses, np.uint64(trampoline.seen_at(base).code)
    kind, user = accesses.type, accesses.cpl == 3
    page = trampoline.user_code(base, key)
    made = np.where(user, page + _USER[kind], code + _MADE[kind])
    then = code + np.where(watched, np.uint64(WATCHED), _THEN[kind])
    after = code + np.where(watched, np.uint64(NEXT), np.uint64(COMPARE))
    words = np.zeros((len(job), RECORD_WORDS), np.uint64)
    words[:, Column.VA] = accesses.va
    words[:, Column.STORE : Column.WORDS] = expected(kind, job.target)
    words[:, Column.WORDS : Column.VALUES] = trampoline.seen(job.index) + np.uint64(base)
    words[:, Column.VALUES : Column.ENTER] = job.before
    words[:, Column.ENTER] = code + np.where(user, np.uint64(TO_USER), _ENTER[kind])
    words[:, Column.THEN], words[:, Column.AFTER] = then, after
    words[:, Column.FIX] = np.where(user, page + np.uint64(USER_FAULTED), after)
    words[:, Column.LANDS] = np.where(user, page + np.uint64(USER_LANDED), then)
    frame = words[:, Column.FRAME :]
    frame[:, 0], frame[:, 1], frame[:, 4] = made, USER_CODE, USER_DATA
    frame[:, 2] = np.where(accesses.ac, rflags(ac=True), rflags(ac=False))
    words[:, Column.CONTROL : Column.CONTROL + control.shape[1]] = control
    return Records(words, np.where(kind == _EXECUTE, accesses.va, made))


@dataclass(frozen=True, slots=True)
class MixedRun:
    """What came out of a run: outs uint64[n, 6], and notes uint64[m, 5] with the row in front.

    As `crosswalk.emu.probe.bulk.collect` takes them. It decides nothing unless it is `sure`: did it
    end as it should, and was everything that has no note found as expected.
    """

    outs: U64
    notes: U64
    sure: bool


class MixedEngine:
    """An engine for runs of mixed accesses over a space, up to CAPACITY a run.

    Without `watch` for what carries markers, which it reads, writes and executes. With `watch` the
    RAM can't be executed, so that a fetch ends where it leads; the address of a read or write is
    what a hook gets, which looks at the walk and undoes the store, as in `BulkWatcher`.
    """

    def __init__(self, space: Space, trampoline: SharedTrampoline, *, watch: bool) -> None:
        self._space, self._trampoline, self._watch = space, trampoline, watch
        self._engine = engine = Engine()
        own = OWN
        space.map_into(engine.uc, own=own, fetch=not watch)
        self._layout = state_layout()
        self._at = self._layout.quads
        self._reset, self._now = SavedState(engine.uc), SavedState(engine.uc)
        self._states: dict[tuple[int, int], SavedState] = {}
        self._live = live_state(engine)
        self._notes = array("Q")
        self._missed = _NOTHING
        self._most = self._fetches = 0
        # Of a watched run: the words of each access's walk, and how to undo the last store.
        self._words_of: tuple[list[list[int]], list[list[int]]] = [], []
        self._first_record = 0
        self._undo: tuple[int, int] | None = None
        engine.hook_exceptions(self._hook())
        engine.hook_memory(UC_HOOK_MEM_INVALID, self._miss)
        if watch:
            for span in ((0, own[0] - 1), (own[1], (1 << 64) - 1)):
                engine.hook_memory(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see, span)

    @property
    def possible(self) -> bool:
        """Whether it can watch: its hook has to read R15 while the engine runs."""
        return self._live is not None

    def make(self, records: Records, job: Job, space: NDArray[np.intp], slot: int) -> MixedRun:
        """Make up to CAPACITY accesses with this slot of each root borrowed.

        `space` int64[n] numbers their address spaces; those of one lie next to each other.
        """
        count, words = len(job), records.words
        fresh = np.empty(count, np.bool_)
        fresh[0] = True
        np.not_equal(space[1:], space[:-1], out=fresh[1:])
        words[:, Column.SWITCH] = fresh
        trampoline, at = self._trampoline, self._trampoline.seen_at(self._trampoline.base(slot))
        self._words(trampoline.records, words.size)[:] = words.reshape(-1)
        written = self._words(trampoline.outs, count * OUT_WORDS)
        written[:] = 0
        end = at.records + count * RECORD_WORDS * 8
        state = self._state(at, int(words[0, Column.CONTROL]))
        quads, register = state.quads, self._at
        quads[register["r15"]], quads[register["r14"]] = at.records, at.outs
        quads[register["r13"]], quads[register["r12"]] = MARK, end
        quads[register["r11"]] = 0
        self._first_record, self._undo = at.records, None
        if self._watch:
            self._words_of = job.index.tolist(), job.before.tolist()
        sane = self._go(state, at.code, count)
        quads = self._now.quads
        outs = written.reshape(count, OUT_WORDS).copy()
        notes = np.array(self._notes, np.uint64).reshape(-1, NOTE_WORDS)
        notes[:, 0] -= np.uint64(at.records)
        if not sane or quads[register["r15"]] != end or (notes[:, 0] >= words.nbytes).any():
            return MixedRun(outs, notes[:0], sure=False)
        notes[:, 0] //= np.uint64(RECORD_WORDS * 8)
        # The sum over what was found as expected has to be right, or the run decides nothing.
        good = outs[:, 0] == 0
        good[notes[:, 0].astype(np.intp)] = False
        switched = words[fresh, Column.CONTROL : Column.CONTROL + CONTROL_WORDS]
        total = words[good, Column.LOW].sum() + switched.sum() + np.uint64(_ET * len(switched))
        self._forget_code(int((job.accesses.type == _EXECUTE).sum()))
        return MixedRun(outs, notes, sure=int(total) == quads[register["r11"]])

    def _forget_code(self, fetches: int) -> None:
        """Drop the engine's translated code after many fetches: each may add to it."""
        self._fetches += fetches
        if self._fetches > _FETCHES_KEPT:
            self._fetches = 0
            self._engine.uc.ctl_flush_tb()

    def _state(self, at: SeenAt, cr3: int) -> SavedState:
        """Return the state in which a run begins, under this CR3, with its parts seen there."""
        levels = len(self._trampoline.form.levels)
        state = self._states.get((at.code, levels))
        if state is None:
            engine, uc = self._engine, self._engine.uc
            engine.restore(self._reset)
            la57 = CR4_LA57 if levels == 5 else 0
            cr0, cr4, efer = CR0_PE | CR0_PG, CR4_PAE | la57, EFER_LME | EFER_LMA
            engine.control(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)
            uc.reg_write(x86.UC_X86_REG_GDTR, (0, at.gdt, 0xFF, 0))
            uc.reg_write(x86.UC_X86_REG_TR, (0x48, at.tss, 0x67, 0x8B00))
            uc.reg_write(x86.UC_X86_REG_EFLAGS, rflags(ac=False))
            state = self._states[at.code, levels] = SavedState(uc)
            state.quads[self._at["cr2"]] = NO_CR2
        state.quads[self._at["cr3"]] = cr3
        return state

    def _go(self, state: SavedState, code: int, count: int) -> bool:
        """Run the loop to its end, and return whether it got there; the state is in `_now`."""
        del self._notes[:]
        self._missed, self._most = _NOTHING, NOTE_WORDS * count
        engine, done, at, now = self._engine, code + DONE, self._at, self._now
        engine.restore(state)
        engine.flush_tlb()
        error = engine.run(code + HEAD, done)
        for _ in range(count):
            if error not in TRANSLATED:
                break
            # The access was translated to where the engine has no RAM, or may not fetch.
            engine.save(now)
            self._notes.extend((now.quads[at["r15"]], 0, *self._missed))
            self._missed = _NOTHING
            if self._watch:
                self._record_changes(now.quads[at["r15"]])
            now.longs[self._layout.vector] = NO_VECTOR
            fix = now.quads[at["rip"]] = now.quads[at["r10"]]
            engine.restore(now)
            error = engine.run(fix, done)
        engine.save(now)
        return error == UC_ERR_OK and now.quads[at["rip"]] == done

    def _words(self, pa: int, count: int) -> U64:
        at = self._space.byte_at(pa) >> 3
        return self._space.words[at : at + count]

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return the hook that notes a fault and has the guest go on, the fault cleared."""
        note, notes, watch = self._notes.extend, self._notes, self._watch
        layout, register = self._layout, self._at
        r15, r10, rip, cr2 = (register[name] for name in ("r15", "r10", "rip", "cr2"))
        error_code, vector_at = layout.error_code, layout.vector
        state = self._now if self._live is None else self._live
        quads, longs = state.quads, state.longs

        def fault(_engine: object, vector: int, _data: object) -> None:
            note((quads[r15], quads[rip], vector, longs[error_code], quads[cr2]))
            if len(notes) > self._most:
                self._engine.uc.emu_stop()
                return
            longs[vector_at] = NO_VECTOR
            quads[rip] = quads[r10]
            if watch:
                self._record_changes(quads[r15])

        if self._live is not None:
            return fault
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
        if self._missed is _NOTHING and (size == 1 or event in _FETCHES):
            self._missed = REACHED, 0, pa
        return False

    def _record_changes(self, record: int) -> None:
        """Record the words that the walk changed in the out, and put them back."""
        number = (record - self._first_record) // (RECORD_WORDS * 8)
        index, values = self._words_of
        if not 0 <= number < len(index):
            return  # R15 was changed: the run will be found to decide nothing.
        view = self._space.view
        out = (self._space.byte_at(self._trampoline.outs) >> 3) + number * OUT_WORDS
        for step, (at, before) in enumerate(zip(index[number], values[number], strict=True), 1):
            if at != NOWHERE and view[at] != before:
                view[out + step], view[at] = view[at], before

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
