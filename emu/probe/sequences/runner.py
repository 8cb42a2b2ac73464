"""Sequences in an emulated CPU, each in one run of guest code that begins with an empty TLB.

The outcome of each access is what the guest's log proves, and nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from unicorn import UC_ERR_INSN_INVALID, UC_ERR_OK
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MAXPHYADDR, Engine, SavedState
from crosswalk.emu.cpu.state_layout import NO_VECTOR, state_layout
from crosswalk.emu.probe.access_engine import NO_CR2, TRANSLATED, rflags
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import marker
from crosswalk.emu.probe.paths import format_of
from crosswalk.emu.probe.sequences.routines import (
    DONE,
    FIX,
    IRETQ,
    LOG_BYTES,
    MADE,
    RECORD_BYTES,
    SKIP,
    START,
    USER_DONE,
    Event,
)
from crosswalk.emu.probe.sequences.workspace import (
    STORED,
    Plan,
    SequencePages,
    View,
    fault_addresses,
    free_slot,
    plan_of,
    records_of,
    roots_of,
)
from crosswalk.emu.probe.trampoline import USER_CODE, USER_DATA
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb.steps import Halted, Sequence

__all__ = ["Fault", "Runner", "outcomes_of"]

_KEPT = 256  # States, each of some 10 KB.
_LOW = (1 << 32) - 1
_VECTORS = {0: "#DE", 6: "#UD", 8: "#DF", 13: "#GP", 14: "#PF"}


class Fault(NamedTuple):
    """A fault of an access: the record's address, and what the CPU reported."""

    record: int
    vector: int
    error_code: int
    cr2: int


@dataclass(slots=True)
class _Account:
    """What was logged of one access."""

    done: list[int] = field(default_factory=list)
    words: dict[int, int] = field(default_factory=dict)
    slots: list[tuple[int, int]] = field(default_factory=list)


class Runner:
    """Runs one sequence after another; the engine and its pages are kept while RAM is the same.

    Stores, invalidations and accesses are all made by guest code, at CPL 0 and 3, in one engine
    call a sequence: nothing but the guest touches the TLB between its steps.
    """

    def __init__(self) -> None:
        self._layout = state_layout()
        self._at = self._layout.quads
        self._ram: tuple[tuple[int, int], ...] | None = None
        self._pages: SequencePages
        self._engine: Engine
        self._reset: SavedState
        self._now: SavedState
        self._states: dict[tuple[int, ...], SavedState] = {}
        # Bits of the saved state that differ between CPL 3 and 0: (word, mask, bits at CPL 0).
        self._privilege: list[tuple[int, int, int]] = []
        self._faults: list[Fault] = []
        self._expected: dict[int, int] = {}
        self._halted: tuple[int, int] | None = None
        self._view: View
        self._marked: set[int] = set()
        self._frames: tuple[int, ...] = ()
        self._written: list[int] = []

    def run(self, sequence: Sequence) -> tuple[Outcome | Halted, ...]:
        """Return what became of each access; the last is a `Halted` where a step stopped it.

        `BadInput` for a sequence that can't be run here, `ProbeError` if something happened that
        is no outcome.
        """
        context = sequence.context
        if context.maxphyaddr > MAXPHYADDR or context.vendor is not Vendor.INTEL:
            raise BadInput(
                f"sequences run on an Intel CPU with a MAXPHYADDR of at most {MAXPHYADDR} alone"
            )
        form = format_of(Control.of(context))
        if sequence.ram != self._ram:
            self._open(sequence.ram)
        roots = roots_of(sequence)
        plan = plan_of(sequence, roots)
        self._write_memory(sequence, plan)
        self._pages.show(form, plan.shown)
        self._view = view = self._pages.borrow(form, free_slot(form, sequence, roots), roots)
        self._written += [(self._pages.space.byte_at(root) >> 3) + view.slot for root in roots]
        self._list(plan, view)
        records = records_of(sequence, plan, view)
        words = self._pages.space.view
        for at, word in enumerate(records, self._pages.records):
            words[at] = word
        state = self._state(sequence)
        for name, value in (
            ("r15", view.records),
            ("r14", view.log),
            ("r13", view.list),
            ("r12", view.code),
            ("r11", view.stack),
            ("r10", view.user),
            ("rsp", view.stack),
        ):
            state.quads[self._at[name]] = value
        self._expected = fault_addresses(sequence, view)
        self._go(state)
        lines = (self._now.quads[self._at["r14"]] - view.log) // LOG_BYTES
        log = self._pages.log
        events = words[log : log + 2 * lines].tolist()
        return outcomes_of(sequence, plan, view, events, self._faults, self._end(view))

    def _go(self, state: SavedState) -> None:
        self._faults.clear()
        self._halted = None
        self._engine.restore(state)
        self._engine.flush_tlb()
        error = self._engine.run(self._view.code + START, self._view.code + DONE)
        self._engine.save(self._now)
        if error == UC_ERR_INSN_INVALID:
            self._halted = self._now.quads[self._at["r15"]], Vector.UD
        elif error in TRANSLATED:
            raise ProbeError("an access of the sequence leads to where there is no RAM")
        elif error != UC_ERR_OK:
            raise ProbeError(f"a sequence ended in error {error} of the engine")

    def _end(self, view: View) -> tuple[int, int] | None:
        """Return the record and vector that the run stopped at, None if it came to its end."""
        rip = self._now.quads[self._at["rip"]]
        if self._halted is None and rip != view.code + DONE:
            raise ProbeError(f"a sequence stopped at {rip:#x}")
        return self._halted

    def _open(self, ram: tuple[tuple[int, int], ...]) -> None:
        self._pages = SequencePages(ram)
        self._ram = ram
        self._engine = Engine()
        self._pages.space.map_into(self._engine.uc, own=self._pages.own, fetch=True)
        self._reset = SavedState(self._engine.uc)
        self._now = SavedState(self._engine.uc)
        self._engine.hook_exceptions(self._hook())
        self._states.clear()
        self._privilege.clear()
        self._marked.clear()
        self._written.clear()

    def _write_memory(self, sequence: Sequence, plan: Plan) -> None:
        """Write the tables, and nothing else of them, and mark the pages."""
        space = self._pages.space
        for at in self._written:
            space.view[at] = 0
        if plan.frames != self._frames:
            # A page of the sequence before may be a table now.
            for pa in self._marked:
                at = space.byte_at(pa) >> 3
                space.view[at] = space.view[at + 1] = 0
            self._marked.clear()
            self._frames = plan.frames
        for pa in plan.slots:
            if pa not in self._marked:
                at = space.byte_at(pa) >> 3
                space.view[at], space.view[at + 1] = marker(pa)
                self._marked.add(pa)
        self._written = [space.byte_at(pa) >> 3 for pa in plan.words]
        for pa, at in zip(plan.words, self._written, strict=True):
            space.view[at] = sequence.entries.get(pa, 0)

    def _list(self, plan: Plan, view: View) -> None:
        words, at = self._pages.space.view, self._pages.list
        seen = {frame: view.window + number * 4096 for number, frame in enumerate(plan.shown)}
        for group in (plan.words, plan.slots):
            for pa in group:
                words[at] = seen[pa & -4096] + pa % 4096
                words[at + 1] = words[self._pages.space.byte_at(pa) >> 3]
                at += 2
            words[at] = 0
            at += 2

    def _state(self, sequence: Sequence) -> SavedState:
        """Return the state before a sequence: its control registers, at CPL 0."""
        context, view = sequence.context, self._view
        key = (context.cr0, context.cr3, context.cr4, context.efer, view.slot)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _KEPT:
                self._states.clear()
            state = self._states[key] = self._prepare(sequence)
        state.longs[self._layout.pkru] = context.pkru
        return state

    def _prepare(self, sequence: Sequence) -> SavedState:
        engine, uc, context = self._engine, self._engine.uc, sequence.context
        engine.restore(self._reset)
        efer = Control.of(context).efer
        engine.control(cr0=context.cr0, cr3=context.cr3, cr4=context.cr4, efer=efer)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, self._view.gdt, 0xFF, 0))
        uc.reg_write(x86.UC_X86_REG_RFLAGS, rflags(ac=False))
        uc.reg_write(x86.UC_X86_REG_CR2, NO_CR2)
        saved = SavedState(engine.uc)
        if not self._privilege:
            self._find_privilege(saved)
        return saved

    def _find_privilege(self, kernel: SavedState) -> None:
        """Learn which bits of a saved state the CPL is made of, by a real IRETQ."""
        view, uc = self._view, self._engine.uc
        frame = (view.user + SKIP, USER_CODE, rflags(ac=False), 0, USER_DATA)
        top = self._pages.stack_index()
        for at, word in enumerate(frame, top - len(frame)):
            self._pages.space.view[at] = word
        uc.reg_write(x86.UC_X86_REG_RSP, view.stack - 8 * len(frame))
        error = self._engine.run(view.code + IRETQ, view.user + USER_DONE)
        user = SavedState(self._engine.uc)
        if error or uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE:
            raise ProbeError("the runner did not reach CPL 3")
        named = set(self._at.values())
        self._privilege = [
            (at, before ^ after, before)
            for at, (before, after) in enumerate(zip(kernel.quads, user.quads, strict=True))
            if before != after and at not in named
        ]

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return what notes a fault, and what brings the guest back from user mode."""
        save, restore = self._engine.exchange(self._now)
        quads, longs = self._now.quads, self._now.longs
        layout, register = self._layout, self._at
        r15, rip, cr2 = register["r15"], register["rip"], register["cr2"]
        error_code, vector_at = layout.error_code, layout.vector

        def raised(_engine: object, vector: int, _data: object) -> None:
            save()
            view, at = self._view, quads[rip]
            if vector == Vector.GP and at == view.user + USER_DONE:
                quads[rip] = view.code + MADE
            elif self._expected.get(quads[r15]) == at:
                self._faults.append(Fault(quads[r15], vector, longs[error_code], quads[cr2]))
                quads[rip] = view.code + FIX
            else:
                self._halted = quads[r15], vector
                self._engine.uc.emu_stop()
                return
            quads[cr2] = NO_CR2
            longs[vector_at] = NO_VECTOR
            for word, mask, bits in self._privilege:
                quads[word] = quads[word] & ~mask | bits & mask
            restore()

        return raised


def outcomes_of(
    sequence: Sequence,
    plan: Plan,
    view: View,
    events: list[int],
    faults: list[Fault],
    halted: tuple[int, int] | None,
) -> tuple[Outcome | Halted, ...]:
    """Return the outcomes in order; `ProbeError` for an account that doesn't add up.

    `events` are the lines of the log, two words each; `halted` the record and vector that the
    run stopped at.
    """
    accounts = dict(_accounts(view, plan, events))
    by_record = {fault.record - view.records: fault for fault in faults}
    if len(by_record) != len(faults):
        raise ProbeError("an access of a sequence faulted twice")
    found: list[Outcome | Halted] = []
    stopped = None if halted is None else (halted[0] - view.records) // RECORD_BYTES
    for at, step in enumerate(sequence.steps):
        if at == stopped and not isinstance(step, Access):
            vector = halted[1] if halted is not None else 0
            found.append(Halted(at, _VECTORS.get(vector, f"vector {vector}")))
            return tuple(found)
        if isinstance(step, Access):
            account = accounts.pop(at, None)
            if account is None:
                raise ProbeError(f"step {at} of a sequence left no account")
            found.append(_outcome(step, plan, account, by_record.get(at * RECORD_BYTES)))
    if accounts or stopped is not None:
        raise ProbeError("a sequence left accounts of what it has not")
    return tuple(found)


def _accounts(view: View, plan: Plan, events: list[int]) -> Iterator[tuple[int, _Account]]:
    account = _Account()
    for tag, value in zip(events[::2], events[1::2], strict=True):
        event, low = tag >> 32, tag & _LOW
        if event == Event.DONE:
            account.done.append(value)
        elif event == Event.WORD:
            account.words[plan.words[(low - (view.list & _LOW)) // 16]] = value
        elif event == Event.SLOT:
            # The list of slots follows that of the words, and its end.
            at = (low - (view.list & _LOW)) // 16 - len(plan.words) - 1
            account.slots.append((plan.slots[at], value))
        elif event == Event.LOOKED:
            yield (low - (view.records & _LOW)) // RECORD_BYTES, account
            account = _Account()
        else:
            raise ProbeError(f"a sequence logged {tag:#x}")


def _outcome(step: Access, plan: Plan, account: _Account, fault: Fault | None) -> Outcome:
    changes = tuple(sorted(account.words.items()))
    if fault is not None:
        if account.done or account.slots:
            raise ProbeError(f"an access at {step.va:#x} faulted, and was made")
        if fault.vector == Vector.PF:
            return PageFault(fault.error_code, fault.cr2, changes)
        if fault.vector == Vector.GP and fault.error_code == 0:
            return GeneralProtection(changes)
        raise ProbeError(f"an access at {step.va:#x} raised vector {fault.vector}")
    if len(account.done) != 1:
        raise ProbeError(f"no proof that an access at {step.va:#x} was made")
    return Translation(_reached(step, plan, account), entries=changes)


def _reached(step: Access, plan: Plan, account: _Account) -> int:
    """Return the address that an access reached, by what was found there."""
    (value,) = account.done
    if step.type is AccessType.WRITE:
        if len(account.slots) == 1:
            pa, found = account.slots[0]
            if found == marker(pa)[0] & ~0xFF | STORED:
                return pa
        raise ProbeError(f"a write at {step.va:#x} left no byte where one can be")
    if not account.slots:
        for pa in plan.slots:
            fetched = value == pa // FRAME and pa % FRAME == step.va % FRAME
            if fetched if step.type is AccessType.EXECUTE else value == marker(pa)[0]:
                return pa
    raise ProbeError(f"an access at {step.va:#x} found {value:#x}, which no page is marked with")
