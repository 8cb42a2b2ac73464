"""Real accesses by a guest under nested paging, one at a time, each from the same state.

    physical memory
    under test     guest tables, nested tables, pages: copied from the source; nothing of it runs
    HOST_START     the host's own (`crosswalk.emu.cpu.svm.host`): tables, VMCB, save area
    its pool       CODE                    nop; mov al, [rbx]; mov [rbx], al
                   ROOT … TABLE            quiet guest tables: CODE at two addresses, a page a CPL
                   NESTED, NESTED_HUGE     quiet nested tables: all memory as it is

    1. under quiet tables, with an empty TLB, the guest runs the NOP: CODE is in the TLB
    2. the state under test is restored (CR3, nCR3, control registers, CPL); the TLB stays
    3. the access is made: the instruction comes by the TLB, all else is walked for
    4. it completes, is an exception, or an exit (#VMEXIT): the hook of exceptions has its number

No table under test maps the instruction that accesses, and none has to. Which address was reached
is what Unicorn's hook of memory accesses reports, held against memory: the byte that was loaded is
the one there, the byte that was stored is there afterwards. What was changed in either dimension's
tables is found by comparing all of memory with what it was.

Outstanding: no emulated CPU has nested paging with 5-level paging or protection keys, or EPT.
Memory is copied and compared whole, so that it has to be small.
"""

from typing import NamedTuple

import numpy as np
from unicorn import UC_ERR_OK, UC_HOOK_MEM_INVALID, UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, Uc
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu, Segment
from crosswalk.emu.cpu.engine import Engine, SavedState, attach
from crosswalk.emu.cpu.state_layout import state_layout
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_MODEL, HOST_START, Exit, Host
from crosswalk.emu.probe.access_engine import NO_CR2, TRANSLATED, rflags
from crosswalk.emu.probe.control import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Control,
)
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import GIB, Vector
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

__all__ = ["NestedProber"]

_MOST = 1 << 32
_STORED = 0x5A
_CODE, _ROOT, _DIRECTORIES, _DIRECTORY, _TABLE, _NESTED, _NESTED_HUGE, _FRAMES = range(8)
_OPEN, _KERNEL, _USER, _HUGE = 0x67, 0x61, 0x65, 0xE7
# Two places where the code can be seen: an access to one is made from the other.
_VIEWS = (0x0F5 << 39, 0x0F6 << 39)
_PAGES = {3: 0, 0: 1}
_NOP, _LOAD, _STORE = bytes.fromhex("90"), bytes.fromhex("8a03"), bytes.fromhex("8803")
_START = {AccessType.READ: len(_NOP), AccessType.WRITE: len(_NOP + _LOAD)}
_UNTIL = {AccessType.READ: 3, AccessType.WRITE: 5, AccessType.EXECUTE: 1}
_CODE_SEGMENT = {
    0: Segment(0x10, 0, 0xFFFF_FFFF, 0x00A0_9B00),
    3: Segment(0x1B, 0, 0xFFFF_FFFF, 0x00A0_FB00),
}
_DATA_SEGMENT = {
    0: Segment(0x18, 0, 0xFFFF_FFFF, 0x00C0_9300),
    3: Segment(0x23, 0, 0xFFFF_FFFF, 0x00C0_F300),
}
_SVME = 1 << 12  # Of EFER: set in a guest.
_CR0 = CR0_PE | CR0_PG | CR0_WP
_CR4 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP
_EFER = EFER_LME | EFER_LMA | EFER_NXE
_QUIET = {"cr0": _CR0, "cr4": CR4_PAE, "efer": _EFER}


class _Run(NamedTuple):
    """The state after one access: Unicorn's error number, what was raised, and registers.

    `raised` is the number that the hook of exceptions got, or None. `reached` is the physical
    address at which the access was seen being made, or None, and `under` the byte there then.
    """

    error: int
    completed: bool
    raised: int | None
    exit: Exit | None
    error_code: int
    cr2: int
    rip: int
    loaded: int
    reached: int | None
    under: int | None


class _GuestEngine:
    """Makes accesses in guest mode; `space` is the memory under test, of which nothing runs."""

    def __init__(self, space: Space) -> None:
        self._engine = engine = Engine(model=HOST_MODEL)
        self._layout = state_layout()
        self._at = self._layout.quads
        self._space = space
        memory = Host.memory(_FRAMES)
        self._own = range(HOST_START, HOST_START + memory.size)
        space.map_into(engine.uc, own=(0, 0), fetch=False)
        attach(engine.uc, memory)
        self._memory = memory  # The engine doesn't keep it alive.
        self._cpu = Cpu(engine.uc, memory)
        self._host = Host(self._cpu, memory)
        self._pool = self._host.pool_start
        self._raised: list[int] = []
        self._seen: list[tuple[int, int | None]] = []
        self._write_pool()
        self._reset = SavedState(engine.uc)
        self._after = SavedState(engine.uc)
        self._warm: dict[tuple[int, bool, bool], SavedState] = {}
        self._entered = {nxe: self._enter_guest(nxe=nxe) for nxe in (False, True)}
        self._nested_cr3 = self._find_nested_cr3()
        self._states: dict[tuple[int, bool], SavedState] = {}
        self._smap = False
        engine.hook_exceptions(self._on_exception)
        engine.hook_memory(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._on_access)
        engine.hook_memory(UC_HOOK_MEM_INVALID, self._on_access)

    @property
    def uc(self) -> Uc:
        """The engine."""
        return self._engine.uc

    def enter(self, context: NestedContext) -> None:
        """Make what follows under these registers."""
        guest, nested = context.guest, Control.of(context.npt)
        self._smap = Control.of(guest).smap
        self._states.clear()
        for cpl, ac in ((0, False), (0, True), (3, False), (3, True)):
            self._engine.restore(self._entered[bool(nested.efer & EFER_NXE)])
            self._control(guest.cr0 & _CR0, guest.cr3, guest.cr4 & _CR4, guest.efer & _EFER | _SVME)
            state = self._ready(cpl, ac=ac)
            state.quads[self._nested_cr3] = nested.root
            self._states[cpl, ac] = state

    def attempt(self, va: int, kind: AccessType, cpl: int, *, ac: bool, stored: int) -> _Run:
        """Make one access, with nothing but the code's page in the TLB; return the state after it.

        `stored` is the byte that a write stores. Memory is left as it is then.
        """
        code = _code(va, cpl)
        engine, at = self._engine, self._at
        self._raised.clear()
        self._warm_tlb(code, cpl, ac=ac)
        self._seen.clear()
        state = self._states[cpl, ac]
        state.quads[at["rbx"]], state.quads[at["rax"]] = va, stored
        engine.restore(state)
        start = va if kind is AccessType.EXECUTE else code + _START[kind]
        # Unicorn translates the address to stop at, too: it has to be one that is in the TLB.
        until = code + _UNTIL[kind]
        error = engine.run(start, until)
        raised = self._raised[0] if self._raised else None
        engine.save(self._after)
        quads = self._after.quads
        rip = quads[at["rip"]]
        found = None if raised is None else self._host.left(raised)
        reached, under = self._seen[0] if self._seen else (None, None)
        if reached is not None and reached in self._own:
            raise ProbeError(f"an access to va {va:#x} reached the probe's own memory")
        return _Run(
            error,
            rip == until and raised is None,
            raised,
            found,
            self._after.longs[self._layout.error_code],
            quads[at["cr2"]],
            rip,
            quads[at["rax"]] & 0xFF,
            reached,
            under,
        )

    def faulted_at(self, va: int, kind: AccessType, cpl: int) -> int:
        """Return the RIP that a fault of this access has to show."""
        return va if kind is AccessType.EXECUTE else _code(va, cpl) + _START[kind]

    def _warm_tlb(self, code: int, cpl: int, *, ac: bool) -> None:
        """Leave the TLB with the code's page as code of this privilege finds it, and no other."""
        key = cpl, ac, self._smap
        warm = self._warm.get(key)
        if warm is None:
            self._engine.restore(self._reset)
            smap = CR4_SMAP if self._smap else 0
            self._control(_QUIET["cr0"], self._frame(_ROOT), _QUIET["cr4"] | smap, _QUIET["efer"])
            warm = self._warm[key] = self._ready(cpl, ac=ac)
        self._engine.restore(warm)
        self._engine.flush_tlb()
        self._run_nop(code)

    def _ready(self, cpl: int, *, ac: bool) -> SavedState:
        """Return the state that the engine has, at this privilege level."""
        self.uc.reg_write(x86.UC_X86_REG_RFLAGS, rflags(ac=ac))
        with self._cpu.changed():
            self._cpu.enter(_CODE_SEGMENT[cpl], cpl)
            self._cpu.set_segment("ss", _DATA_SEGMENT[cpl])
            self._cpu.cr2 = NO_CR2
            self._cpu.forget_exception()
        return SavedState(self._engine.uc)

    def _control(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        self._engine.control(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)

    def _enter_guest(self, *, nxe: bool) -> SavedState:
        """Return a state after VMRUN: a guest under quiet tables."""
        self._engine.restore(self._reset)
        self._control(_QUIET["cr0"], self._frame(_ROOT), _QUIET["cr4"], _QUIET["efer"])
        self.uc.reg_write(x86.UC_X86_REG_RFLAGS, rflags(ac=False))
        with self._cpu.changed():
            self._cpu.enter(_CODE_SEGMENT[0], 0)
            self._cpu.set_segment("ss", _DATA_SEGMENT[0])
            self._cpu.rip = _VIEWS[0] + FRAME * _PAGES[0]
        self._host.enter(self._frame(_NESTED), nxe=nxe)
        entered = SavedState(self._engine.uc)
        # The next run forgets the count of this one's instructions, and to do so translates where
        # they were: the TLB would have that, too.
        self._run_nop(_VIEWS[0] + FRAME * _PAGES[0])
        return entered

    def _run_nop(self, code: int) -> None:
        error = self._engine.run(code, code + len(_NOP))
        if error or self._raised:
            raise ProbeError(f"the probe's own code doesn't run (engine error {error})")

    def _find_nested_cr3(self) -> int:
        """Return where a state has nCR3: after VMRUN with one that nothing else holds."""
        places = {
            place
            for entered in self._entered.values()
            for place, word in enumerate(entered.quads)
            if word == self._frame(_NESTED)
        }
        if len(places) != 1:
            raise ProbeError(f"nCR3 found at {len(places)} places of a saved context, not at 1")
        return places.pop()

    def _write_pool(self) -> None:
        tables = self._host.pool.reshape(-1, WORDS)
        self._memory.write(self._frame(_CODE), _NOP + _LOAD + _STORE)
        for view in _VIEWS:
            tables[_ROOT, view >> 39] = self._frame(_DIRECTORIES) | _OPEN
        tables[_DIRECTORIES, 0] = self._frame(_DIRECTORY) | _OPEN
        tables[_DIRECTORY, 0] = self._frame(_TABLE) | _OPEN
        for cpl, page in _PAGES.items():
            tables[_TABLE, page] = self._frame(_CODE) | (_USER if cpl else _KERNEL)
        tables[_NESTED, 0] = self._frame(_NESTED_HUGE) | _OPEN
        for gib in range(2 * HOST_START // GIB):
            tables[_NESTED_HUGE, gib] = gib * GIB | _HUGE

    def _frame(self, number: int) -> int:
        return self._pool + FRAME * number

    def _on_exception(self, _engine: object, number: int, _data: object) -> None:
        self._raised.append(number)
        self.uc.emu_stop()

    def _on_access(
        self, _engine: object, _event: int, pa: int, _size: int, _value: int, _data: object
    ) -> bool:
        if not self._seen:
            at = self._space.byte_at(pa)
            self._seen.append((pa, None if at == NOWHERE else self._space.bytes[at]))
        return False


def _code(va: int, cpl: int) -> int:
    """Return where the code is seen at this privilege level, far from `va`."""
    return _VIEWS[va >> 39 == _VIEWS[0] >> 39] + FRAME * _PAGES[cpl]


class NestedProber:
    """Puts accesses to an emulated CPU in guest mode, under both dimensions' tables.

    `memory` is system-physical memory with the tables of both, and is only read: what the CPU
    works on is a copy. `BadInput` where the emulated CPU can't be had in this state: no CPU has
    nested paging and 5-level paging or protection keys.

    A nested table that takes execution from a frame in use as a guest's table brings the process
    down when such a walk is made: see `crosswalk.emu.check.nested_emulated`.
    """

    def __init__(self, memory: PhysicalMemory, context: NestedContext) -> None:
        self._ranges: tuple[tuple[int, int], ...] | None = None
        self.enter(memory, context)

    def enter(self, memory: PhysicalMemory, context: NestedContext) -> None:
        """Go on with other tables, as a new prober would; in less time if RAM lies where it did."""
        control = Control.of(context.guest)
        if context.gmet:
            raise BadInput("predicted only: GMET: no emulated CPU has it")
        for side, each in (("guest", control), ("host", Control.of(context.npt))):
            if each.levels != 4:
                raise BadInput(f"no emulated CPU has nested paging with {each.mode} ({side})")
        if control.cr4 & CR4_PKE:
            raise BadInput("no emulated CPU has nested paging and protection keys")
        ranges = tuple(memory.ranges)
        if ranges != self._ranges:
            if sum(size for _, size in ranges) > _MOST:
                raise BadInput(f"nested probes copy all of memory, and take {_MOST:#x} bytes")
            self._space = Space(ranges)
            self._engine = _GuestEngine(self._space)
            self._ranges = ranges
        for start, size in ranges:
            at = self._space.byte_at(-(-start // FRAME) * FRAME)
            skipped = -start % FRAME
            whole = (size - skipped) // FRAME * FRAME
            if whole > 0:
                self._space.bytes[at : at + whole] = memory.read(start + skipped, whole)
        self._pristine: U64 = self._space.words.copy()
        self._engine.enter(context)
        self._ac = context.guest.rflags_ac

    def probe(self, access: Access) -> NestedOutcome:
        """Make one access and return what was observed; `ProbeError` if that is no outcome.

        Of a nested fault the error code has FINAL or TABLE where the address tells which: the
        emulator doesn't. It has neither where the place in the page is that of the access, and
        may be an entry's.
        """
        run = self._make(access, _STORED)
        if access.type is AccessType.WRITE and run.under == _STORED:
            # The byte stored was there before, so that a lost store would not show: store another.
            self._restore()
            run = self._make(access, _STORED ^ 0xFF)
        return self._outcome(access, run, self._restore())

    def _make(self, access: Access, stored: int) -> _Run:
        ac = self._ac if access.ac is None else access.ac
        run = self._engine.attempt(access.va, access.type, access.cpl, ac=ac, stored=stored)
        at = NOWHERE if run.reached is None else self._space.byte_at(run.reached)
        if at != NOWHERE and run.completed and access.type is not AccessType.EXECUTE:
            expected = stored if access.type is AccessType.WRITE else run.loaded
            if self._space.bytes[at] != expected:
                raise ProbeError(
                    f"{_name(access)}: {run.reached:#x} doesn't hold what was read or written"
                )
            if access.type is AccessType.WRITE and run.under is not None:
                self._space.bytes[at] = run.under  # With A and D that the walk set in it.
        return run

    def _restore(self) -> tuple[tuple[int, int], ...]:
        """Put memory back as it was, and return the words that were changed in it."""
        words = self._space.words
        changed = np.flatnonzero(words != self._pristine)
        entries = sorted(
            (self._space.address_of(place), int(words[place])) for place in changed.tolist()
        )
        words[changed] = self._pristine[changed]
        return tuple(entries)

    def _outcome(
        self, access: Access, run: _Run, entries: tuple[tuple[int, int], ...]
    ) -> NestedOutcome:
        if run.raised is None:
            if run.reached is not None and (
                run.error in TRANSLATED or (run.error == UC_ERR_OK and run.completed)
            ):
                return Translation(run.reached, entries=entries)
        elif run.rip == self._engine.faulted_at(access.va, access.type, access.cpl):
            if run.exit is not None and run.exit.code == ExitCode.NPF and run.exit.gpa is not None:
                gpa = run.exit.gpa
                return NestedPageFault(run.exit.error_code | _stage(access.va, gpa), gpa, entries)
            if run.raised == Vector.PF:
                return PageFault(run.error_code, run.cr2, entries)
            if run.raised == Vector.GP and run.error_code == 0:
                return GeneralProtection(entries)
        raise ProbeError(
            f"{_name(access)}: no outcome (engine error {run.error}, raised {run.raised}, "
            f"error code {run.error_code:#x}, RIP {run.rip:#x})"
        )


def _stage(va: int, gpa: int) -> int:
    """Return what a refused address tells of itself: TABLE, FINAL, or 0 where it may be either."""
    if (gpa ^ va) % FRAME:
        return int(NestedError.TABLE)
    return int(NestedError.FINAL) if gpa % 8 else 0


def _name(access: Access) -> str:
    return f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}"
