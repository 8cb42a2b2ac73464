"""An engine in guest mode, made ready to make one access after another.

The access is an instruction, and the instruction has to be fetched; but no table under test maps
it. What lends it is the TLB: under quiet tables of the host's own the CPU runs one instruction
on the code's page, then takes over the state under test, and finds the page in its TLB, where
nothing else is. All that the access itself needs, it walks for.
"""

from typing import NamedTuple

from unicorn import UC_HOOK_MEM_INVALID, UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, Uc
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu, Segment
from crosswalk.emu.cpu.engine import Engine, SavedState, attach
from crosswalk.emu.cpu.state_layout import state_layout
from crosswalk.emu.cpu.svm.host import HOST_MODEL, HOST_START, Exit, Host
from crosswalk.emu.probe.control import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
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
from crosswalk.walker.access import AccessType
from crosswalk.walker.memory import FRAME, WORDS
from crosswalk.walker.nested.context import NestedContext

__all__ = ["NestedRig", "NestedRun"]

_CODE, _ROOT, _DIRECTORIES, _DIRECTORY, _TABLE, _NESTED, _NESTED_HUGE, _FRAMES = range(8)
_OPEN, _KERNEL, _USER, _HUGE = 0x67, 0x61, 0x65, 0xE7
_GIB = 1 << 30
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
_RFLAGS, _AC, _SVME = 1 << 1, 1 << 18, 1 << 12
_CR0 = CR0_PE | CR0_PG | CR0_WP
_CR4 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP
_EFER = EFER_LME | EFER_LMA | EFER_NXE
_QUIET = {"cr0": _CR0, "cr4": CR4_PAE, "efer": _EFER}
_NO_CR2 = 0xDEAD_BEEF_0BAD_C0DE


class NestedRun(NamedTuple):
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


class NestedRig:
    """Makes accesses in guest mode; `space` is the physical memory, of which nothing runs."""

    def __init__(self, space: Space) -> None:
        self._engine = engine = Engine(model=HOST_MODEL)
        self._layout = state_layout()
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
        guest, nested = context.guest, Control.of(context.host)
        self._smap = Control.of(guest).smap
        self._states.clear()
        for cpl, ac in ((0, False), (0, True), (3, False), (3, True)):
            self._engine.restore(self._entered[bool(nested.efer & EFER_NXE)])
            self._control(guest.cr0 & _CR0, guest.cr3, guest.cr4 & _CR4, guest.efer & _EFER | _SVME)
            state = self._ready(cpl, ac=ac)
            state.quads[self._nested_cr3 >> 3] = nested.root
            self._states[cpl, ac] = state

    def attempt(self, va: int, kind: AccessType, cpl: int, *, ac: bool, stored: int) -> NestedRun:
        """Make one access, with nothing but the code's page in the TLB; return what came of it.

        `stored` is the byte that a write stores. Memory is left as it is then.
        """
        code = _code(va, cpl)
        engine, at = self._engine, self._layout
        self._raised.clear()
        self._lend(code, cpl, ac=ac)
        self._seen.clear()
        state = self._states[cpl, ac]
        state.quads[at.quads["rbx"]], state.quads[at.quads["rax"]] = va, stored
        engine.restore(state)
        start = va if kind is AccessType.EXECUTE else code + _START[kind]
        # Unicorn translates the address to stop at, too: it has to be one that is in the TLB.
        until = code + _UNTIL[kind]
        error = engine.run(start, until)
        raised = self._raised[0] if self._raised else None
        engine.save(self._after)
        quads = self._after.quads
        rip = quads[at.quads["rip"]]
        found = None if raised is None else self._host.left(raised)
        reached, under = self._seen[0] if self._seen else (None, None)
        if reached is not None and reached in self._own:
            raise ProbeError(f"an access to va {va:#x} reached the probe's own memory")
        return NestedRun(
            error,
            rip == until and raised is None,
            raised,
            found,
            self._after.longs[at.error_code],
            quads[at.quads["cr2"]],
            rip,
            quads[at.quads["rax"]] & 0xFF,
            reached,
            under,
        )

    def faulted_at(self, va: int, kind: AccessType, cpl: int) -> int:
        """Return the RIP that a fault of this access has to show."""
        return va if kind is AccessType.EXECUTE else _code(va, cpl) + _START[kind]

    def _lend(self, code: int, cpl: int, *, ac: bool) -> None:
        """Leave the TLB with the code's page as code of this privilege finds it, and no other."""
        key = cpl, ac, self._smap
        warm = self._warm.get(key)
        if warm is None:
            self._engine.restore(self._reset)
            smap = CR4_SMAP if self._smap else 0
            self._control(_QUIET["cr0"], self._at(_ROOT), _QUIET["cr4"] | smap, _QUIET["efer"])
            warm = self._warm[key] = self._ready(cpl, ac=ac)
        self._engine.restore(warm)
        self._engine.flush_tlb()
        self._run_nop(code)

    def _ready(self, cpl: int, *, ac: bool) -> SavedState:
        """Return the state that the engine has, at this privilege level."""
        self.uc.reg_write(x86.UC_X86_REG_RFLAGS, _RFLAGS | (_AC if ac else 0))
        with self._cpu.changed():
            self._cpu.enter(_CODE_SEGMENT[cpl], cpl)
            self._cpu.set_segment("ss", _DATA_SEGMENT[cpl])
            self._cpu.cr2 = _NO_CR2
            self._cpu.forget_exception()
        return SavedState(self._engine.uc)

    def _control(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        self._engine.control(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)

    def _enter_guest(self, *, nxe: bool) -> SavedState:
        """Return a state after VMRUN: a guest under quiet tables."""
        self._engine.restore(self._reset)
        self._control(_QUIET["cr0"], self._at(_ROOT), _QUIET["cr4"], _QUIET["efer"])
        self.uc.reg_write(x86.UC_X86_REG_RFLAGS, _RFLAGS)
        with self._cpu.changed():
            self._cpu.enter(_CODE_SEGMENT[0], 0)
            self._cpu.set_segment("ss", _DATA_SEGMENT[0])
            self._cpu.rip = _VIEWS[0] + FRAME * _PAGES[0]
        self._host.enter(self._at(_NESTED), nxe=nxe)
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
            8 * place
            for entered in self._entered.values()
            for place, word in enumerate(entered.quads)
            if word == self._at(_NESTED)
        }
        if len(places) != 1:
            raise ProbeError(f"nCR3 found at {len(places)} places of a saved context, not at 1")
        return places.pop()

    def _write_pool(self) -> None:
        tables = self._host.pool.reshape(-1, WORDS)
        self._memory.write(self._at(_CODE), _NOP + _LOAD + _STORE)
        for view in _VIEWS:
            tables[_ROOT, view >> 39] = self._at(_DIRECTORIES) | _OPEN
        tables[_DIRECTORIES, 0] = self._at(_DIRECTORY) | _OPEN
        tables[_DIRECTORY, 0] = self._at(_TABLE) | _OPEN
        for cpl, page in _PAGES.items():
            tables[_TABLE, page] = self._at(_CODE) | (_USER if cpl else _KERNEL)
        tables[_NESTED, 0] = self._at(_NESTED_HUGE) | _OPEN
        for gib in range(2 * HOST_START // _GIB):
            tables[_NESTED_HUGE, gib] = gib * _GIB | _HUGE

    def _at(self, frame: int) -> int:
        return self._pool + FRAME * frame

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
