"""An engine made ready to make one access after another, each from the same CPU state."""

from typing import NamedTuple

from unicorn import (
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_MEM_INVALID,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_WRITE,
    Uc,
)
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import Engine, SavedState
from crosswalk.emu.cpu.state_layout import state_layout
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.lending import Lending
from crosswalk.emu.probe.routines import (
    DONE,
    ENTER_USER,
    LANDED,
    MARK,
    SKIP,
    START,
)
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import IN_PLACE, USER_CODE, USER_DATA, Arena
from crosswalk.emu.probe.workspace import Ground
from crosswalk.walker.access import AccessType

__all__ = ["NO_VECTOR", "TRANSLATED", "Rig", "Run", "Watcher"]

_AC = 1 << 18
_RFLAGS = 1 << 1
_KEPT = 512  # States, each of some 10 KB.
TRANSLATED = (
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_FETCH_PROT,
)
"""The engine's errors that say: the translation worked, and what it led to can't be had."""

NO_VECTOR = 0xFFFF_FFFF
"""The vector of a CPU that has seen no exception."""

_NO_CR2 = 0xDEAD_BEEF_0BAD_C0DE
"""What CR2 holds before an access, so that a fault which doesn't write it is seen."""


class Run(NamedTuple):
    """The state after one access: Unicorn's error number, and registers."""

    error: int
    completed: bool
    vector: int
    error_code: int
    cr2: int
    rip: int
    rax: int
    rdx: int
    rsi: int


class Rig:
    """An engine that makes accesses under one address space's control registers, then another's.

    `own` is the range [start, end) of the arenas; `fetch` says whether the rest of the RAM may be
    executed; without, a fetch that was translated ends in an error of the engine instead.
    `enter` has to be called before the first access.
    """

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool) -> None:
        self._engine = Engine()
        self._layout = state_layout()
        space.map_into(self._engine.uc, own=own, fetch=fetch)
        self._reset = SavedState(self._engine.uc)
        self._first: dict[tuple[int, bool], SavedState] = {}
        self._states: dict[tuple[int, ...], SavedState] = {}
        self._after = SavedState(self._engine.uc)
        self._arena: Arena
        self._lending: Lending
        self._control: tuple[int, int, int]
        self._pkru: int

    def enter(self, ground: Ground) -> None:
        """Make what follows on this ground: under its control registers, with its arena's code."""
        self._arena, self._lending = ground.arena, ground.lending
        control = ground.control
        self._control = control.cr0, control.cr4, control.efer
        self._pkru = control.pkru

    @property
    def uc(self) -> Uc:
        """The engine, for hooks."""
        return self._engine.uc

    def attempt(
        self, va: int, kind: AccessType, cpl: int, *, ac: bool, lent: int, stored: int = 0
    ) -> Run:
        """Make one access with an empty TLB, and return the state after it.

        `lent` is which of the arena's slots is lent, `stored` the byte that a write stores.
        """
        at = self._layout
        state = self._state(lent, cpl, ac=ac)
        quads = state.quads
        code = self._code(lent, cpl)
        quads[at.quads["rax"]] = stored
        quads[at.quads["rbx"]] = va
        quads[at.quads["rcx"]] = va & ~15
        quads[at.quads["rbp"]] = code + LANDED
        engine = self._engine
        engine.restore(state)
        engine.flush_tlb()
        error = engine.run(code + START[kind], code + DONE)
        engine.save(self._after)
        quads, longs = self._after.quads, self._after.longs
        rip = quads[at.quads["rip"]]
        return Run(
            error,
            rip == code + DONE and quads[at.quads["rdi"]] == MARK,
            longs[at.vector],
            longs[at.error_code],
            quads[at.quads["cr2"]],
            rip,
            quads[at.quads["rax"]],
            quads[at.quads["rdx"]],
            quads[at.quads["rsi"]],
        )

    def faulted_at(self, va: int, kind: AccessType, cpl: int, lent: int) -> int:
        """Return the RIP that a fault of this access has to show."""
        return va if kind is AccessType.EXECUTE else self._code(lent, cpl) + START[kind]

    def _code(self, lent: int, cpl: int) -> int:
        return self._arena.lent[lent].view(cpl).code

    def _state(self, number: int, cpl: int, *, ac: bool) -> SavedState:
        """Return the state before an access, and have this slot lent.

        A state is made once for all address spaces that it serves: what decides are the control
        registers but CR3. Where the arena is seen doesn't: no segment is loaded any more. CR3 and
        PKRU are written into the state itself.
        """
        self._lending.select(number)
        key = (*self._control, cpl, ac)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _KEPT:
                self._states.clear()
            if (cpl, ac) not in self._first:
                self._first[cpl, ac] = self._prepare(cpl, ac=ac)
            self._engine.restore(self._first[cpl, ac])
            cr0, cr4, efer = self._control
            self._engine.control(cr0=cr0, cr3=self._arena.lent[number].cr3, cr4=cr4, efer=efer)
            state = self._states[key] = SavedState(self._engine.uc)
        state.quads[self._layout.quads["cr3"]] = self._arena.lent[number].cr3
        state.longs[self._layout.pkru] = self._pkru
        return state

    def _prepare(self, cpl: int, *, ac: bool) -> SavedState:
        """Return a state in which code of this privilege runs, reached as a guest reaches it."""
        lent = self._arena.lent[IN_PLACE]  # In a copy of the root, which is there in any case.
        engine, uc = self._engine, self._engine.uc
        engine.restore(self._reset)
        cr0, cr4, efer = self._control
        engine.control(cr0=cr0, cr3=lent.cr3, cr4=cr4, efer=efer)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, lent.gdt, 0xFF, 0))
        uc.reg_write(x86.UC_X86_REG_RFLAGS, _RFLAGS)
        flags = _RFLAGS | (_AC if ac else 0)
        if cpl == 3:
            # Writing CS through the API would leave the CPL at 0: only a real IRETQ changes it.
            frame = (lent.user.code + SKIP, USER_CODE, flags, 0, USER_DATA)
            for at, word in enumerate(frame):
                uc.mem_write(self._arena.stack_pa + 8 * at, word.to_bytes(8, "little"))
            self._enter(lent.kernel.code, ENTER_USER, {"RSP": lent.stack}, lent.user.code + DONE)
            if uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE:
                raise ProbeError("the probe did not reach CPL 3")
        else:
            uc.reg_write(x86.UC_X86_REG_RFLAGS, flags)
        for name in ("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP"):
            uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0)
        uc.reg_write(x86.UC_X86_REG_CR2, _NO_CR2)
        saved = SavedState(engine.uc)
        if saved.longs[self._layout.vector] != NO_VECTOR:
            raise ProbeError("the probe raised an exception before its first access")
        return saved

    def _enter(self, code: int, routine: int, registers: dict[str, int], end: int) -> None:
        for name, value in registers.items():
            self._engine.uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)
        error = self._engine.run(code + routine, end)
        rip = self._engine.uc.reg_read(x86.UC_X86_REG_RIP)
        if error or rip != end:
            raise ProbeError(f"the probe's own code stopped at {rip:#x}, error {error}")


class Watcher(Rig):
    """A rig that sees the physical address of an access as it is made, and undoes a store.

    For frames that carry no signature: paging structures and addresses without RAM. A fetch
    is stopped when it has been translated, so that nothing found there runs.
    """

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        super().__init__(space, own, fetch=False)
        self._space = space
        self._seen: list[tuple[int, int, bytes]] = []
        self.uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see)
        self.uc.hook_add(UC_HOOK_MEM_INVALID, self._see)

    def watch(
        self, va: int, kind: AccessType, cpl: int, *, ac: bool, lent: int, stored: int = 0
    ) -> tuple[Run, int | None]:
        """Make one access; return the state after it, and the physical address it was made at.

        A word that was written has its content back when this returns, with the A and D that
        the walk itself may have set in it.
        """
        self._state(lent, cpl, ac=ac)  # What it takes to make one isn't part of the access.
        self._seen.clear()
        run = self.attempt(va, kind, cpl, ac=ac, lent=lent, stored=stored)
        if not self._seen:
            return run, None
        pa, at, content = self._seen[0]
        if content:
            self._space.bytes[at : at + len(content)] = content
        return run, pa

    def _see(self, _uc: Uc, event: int, pa: int, size: int, _value: int, _data: object) -> bool:
        # Only the access itself counts: a routine goes on to show what it reached.
        if not self._seen:
            at = self._space.byte_at(pa) if event == UC_MEM_WRITE else NOWHERE
            content = b"" if at == NOWHERE else bytes(self._space.bytes[at : at + size])
            self._seen.append((pa, at, content))
        return False
