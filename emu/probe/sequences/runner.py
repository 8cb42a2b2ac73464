"""Sequences in an emulated CPU, each in one run of guest code that begins with an empty TLB."""

from collections.abc import Callable

from unicorn import UC_ERR_INSN_INVALID, UC_ERR_OK
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MAXPHYADDR, Engine, SavedState
from crosswalk.emu.cpu.state_layout import NO_VECTOR, state_layout
from crosswalk.emu.probe.access_engine import NO_CR2, TRANSLATED
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import marker
from crosswalk.emu.probe.sequences.log import Fault, outcomes_of
from crosswalk.emu.probe.sequences.plan import Plan, fault_addresses, plan_of, records_of
from crosswalk.emu.probe.sequences.routines import (
    DONE,
    FIX,
    IRETQ,
    LOG_BYTES,
    MADE,
    SKIP,
    START,
    USER_DONE,
)
from crosswalk.emu.probe.sequences.workspace import Stage, View, free_slot, roots_of
from crosswalk.emu.probe.trampoline import USER_CODE, USER_DATA
from crosswalk.walker.architecture import Vector
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.tlb.steps import Halted, Sequence

__all__ = ["Runner"]

_RFLAGS = 1 << 1
_KEPT = 256  # States, each of some 10 KB.
_INVALID_OPCODE = 6


class Runner:
    """Runs one sequence after another; the engine and its pages are kept while RAM is the same.

    Stores, invalidations and accesses are all made by guest code, at CPL 0 and 3, in one engine
    call a sequence: nothing but the guest touches the TLB between its steps.
    """

    def __init__(self) -> None:
        self._layout = state_layout()
        self._register = self._layout.quads
        self._ram: tuple[tuple[int, int], ...] | None = None
        self._stage: Stage
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
        self._signed: set[int] = set()
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
        levels = Control.of(context).levels
        if sequence.ram != self._ram:
            self._open(sequence.ram)
        roots = roots_of(sequence)
        plan = plan_of(sequence, roots)
        self._lay(sequence, plan)
        self._stage.show(levels, plan.shown)
        self._view = view = self._stage.lend(levels, free_slot(levels, sequence, roots), roots)
        self._written += [(self._stage.space.byte_at(root) >> 3) + view.slot for root in roots]
        self._list(plan, view)
        records = records_of(sequence, plan, view)
        words = self._stage.space.view
        for at, word in enumerate(records, self._stage.records):
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
            state.quads[self._register[name]] = value
        self._expected = fault_addresses(sequence, view)
        self._go(state)
        lines = (self._now.quads[self._register["r14"]] - view.log) // LOG_BYTES
        log = self._stage.log
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
            self._halted = self._now.quads[self._register["r15"]], _INVALID_OPCODE
        elif error in TRANSLATED:
            raise ProbeError("an access of the sequence leads to where there is no RAM")
        elif error != UC_ERR_OK:
            raise ProbeError(f"a sequence ended in error {error} of the engine")

    def _end(self, view: View) -> tuple[int, int] | None:
        """Return the record and vector that the run stopped at, None if it came to its end."""
        rip = self._now.quads[self._register["rip"]]
        if self._halted is None and rip != view.code + DONE:
            raise ProbeError(f"a sequence stopped at {rip:#x}")
        return self._halted

    def _open(self, ram: tuple[tuple[int, int], ...]) -> None:
        self._stage = Stage(ram)
        self._ram = ram
        self._engine = Engine()
        self._stage.space.map_into(self._engine.uc, own=self._stage.own, fetch=True)
        self._reset = SavedState(self._engine.uc)
        self._now = SavedState(self._engine.uc)
        self._engine.hook_exceptions(self._hook())
        self._states.clear()
        self._privilege.clear()
        self._signed.clear()
        self._written.clear()

    def _lay(self, sequence: Sequence, plan: Plan) -> None:
        """Write the tables, and nothing else of them, and sign the pages."""
        space = self._stage.space
        for at in self._written:
            space.view[at] = 0
        if plan.frames != self._frames:
            # A page of the sequence before may be a table now.
            for pa in self._signed:
                at = space.byte_at(pa) >> 3
                space.view[at] = space.view[at + 1] = 0
            self._signed.clear()
            self._frames = plan.frames
        for pa in plan.slots:
            if pa not in self._signed:
                at = space.byte_at(pa) >> 3
                space.view[at], space.view[at + 1] = marker(pa)
                self._signed.add(pa)
        self._written = [space.byte_at(pa) >> 3 for pa in plan.words]
        for pa, at in zip(plan.words, self._written, strict=True):
            space.view[at] = sequence.entries.get(pa, 0)

    def _list(self, plan: Plan, view: View) -> None:
        words, at = self._stage.space.view, self._stage.list
        seen = {frame: view.window + number * 4096 for number, frame in enumerate(plan.shown)}
        for group in (plan.words, plan.slots):
            for pa in group:
                words[at] = seen[pa & -4096] + pa % 4096
                words[at + 1] = words[self._stage.space.byte_at(pa) >> 3]
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
        uc.reg_write(x86.UC_X86_REG_RFLAGS, _RFLAGS)
        uc.reg_write(x86.UC_X86_REG_CR2, NO_CR2)
        saved = SavedState(engine.uc)
        if not self._privilege:
            self._find_privilege(saved)
        return saved

    def _find_privilege(self, kernel: SavedState) -> None:
        """Learn which bits of a saved state the CPL is made of, by a real IRETQ."""
        view, uc = self._view, self._engine.uc
        frame = (view.user + SKIP, USER_CODE, _RFLAGS, 0, USER_DATA)
        top = self._stage.stack_index()
        for at, word in enumerate(frame, top - len(frame)):
            self._stage.space.view[at] = word
        uc.reg_write(x86.UC_X86_REG_RSP, view.stack - 8 * len(frame))
        error = self._engine.run(view.code + IRETQ, view.user + USER_DONE)
        user = SavedState(self._engine.uc)
        if error or uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE:
            raise ProbeError("the runner did not reach CPL 3")
        named = set(self._register.values())
        self._privilege = [
            (at, before ^ after, before)
            for at, (before, after) in enumerate(zip(kernel.quads, user.quads, strict=True))
            if before != after and at not in named
        ]

    def _hook(self) -> Callable[[object, int, object], None]:
        """Return what notes a fault, and what brings the guest back from user mode."""
        save, restore = self._engine.exchange(self._now)
        quads, longs = self._now.quads, self._now.longs
        layout, register = self._layout, self._register
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
