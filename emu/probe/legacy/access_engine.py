"""A 32-bit engine made ready to make one access after another, each from the same CPU state."""

from typing import NamedTuple

from unicorn import (
    UC_ERR_EXCEPTION,
    UC_HOOK_MEM_INVALID,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_WRITE,
    Uc,
)
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import Engine, SavedState
from crosswalk.emu.cpu.state_layout import state_layout
from crosswalk.emu.probe.access_engine import NO_VECTOR
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.legacy.routines import (
    DONE,
    ENTER_USER,
    LANDED,
    LOAD,
    LOADED,
    MARK,
    SKIP,
    START,
)
from crosswalk.emu.probe.legacy.trampoline import KERNEL_DATA, USER_CODE, USER_DATA, Arena
from crosswalk.emu.probe.legacy.workspace import Ground
from crosswalk.emu.probe.lending import Lending
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import IN_PLACE
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector

__all__ = ["Rig", "Run", "Watcher"]

_AC = 1 << 18
_EFLAGS = 1 << 1
_KEPT = 512  # States, each of some 10 KB.
_NO_CR2 = 0xDEAD_BEEF
"""What CR2 holds before an access, so that a fault which doesn't write it is seen."""
_REGISTERS = ("EAX", "EBX", "ECX", "EDX", "ESI", "EDI", "EBP", "ESP")


class Run(NamedTuple):
    """The state after one access: Unicorn's error number, and registers.

    `slot` are the 16 bytes that a routine saw, as two words, if it completed.
    """

    error: int
    completed: bool
    vector: int
    error_code: int
    cr2: int
    eip: int
    eax: int
    slot: tuple[int, int]


class Rig:
    """An engine that makes accesses under one address space's control registers, then another's.

    As `crosswalk.emu.probe.access_engine.Rig`, of 32-bit code.
    """

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool) -> None:
        self._engine = Engine(bits=32)
        self._layout = state_layout()
        space.map_into(self._engine.uc, own=own, fetch=fetch)
        self._reset = SavedState(self._engine.uc)
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

    def loads(self, root: int, cpl: int = 0) -> bool:
        """Return whether MOV to CR3 takes this root; if not, it raised #GP(0).

        At CPL 3 it never does. The fetch after it may leave A bits in the tables.
        """
        at, state = self._layout, self._state(IN_PLACE, cpl, ac=False)
        code = self._arena.lent[IN_PLACE].code(cpl)
        state.quads[at.quads["rcx"]] = root
        self._engine.restore(state)
        self._engine.flush_tlb()
        error = self._engine.run(code + LOAD, code + LOADED)
        loaded = self._engine.uc.reg_read(x86.UC_X86_REG_CR3)
        self._engine.save(self._after)
        longs = self._after.longs
        refused = error == UC_ERR_EXCEPTION and longs[at.vector] == Vector.GP
        if refused and self._after.quads[at.quads["rip"]] == code + LOAD:
            return False
        if loaded != root:
            raise ProbeError(f"MOV to CR3 of {root:#x} left {loaded:#x} there, error {error}")
        return True

    def attempt(
        self, va: int, kind: AccessType, cpl: int, *, ac: bool, lent: int, stored: int = 0
    ) -> Run:
        """Make one access with an empty TLB, and return the state after it.

        `lent` is which of the arena's slots is lent, `stored` the byte that a write stores.
        """
        at = self._layout
        state = self._state(lent, cpl, ac=ac)
        quads = state.quads
        code = self._arena.lent[lent].code(cpl)
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
        eip, eax = quads[at.quads["rip"]], quads[at.quads["rax"]]
        return Run(
            error,
            eip == code + DONE and quads[at.quads["rdi"]] == MARK,
            longs[at.vector],
            longs[at.error_code],
            quads[at.quads["cr2"]],
            eip,
            eax,
            (
                quads[at.quads["rsi"]] << 32 | quads[at.quads["rdx"]],
                quads[at.quads["rcx"]] << 32 | eax,
            ),
        )

    def faulted_at(self, va: int, kind: AccessType, cpl: int, lent: int) -> int:
        """Return the EIP that a fault of this access has to show."""
        return va if kind is AccessType.EXECUTE else self._arena.lent[lent].code(cpl) + START[kind]

    def _state(self, number: int, cpl: int, *, ac: bool) -> SavedState:
        """Return the state before an access, made once, and have this slot lent."""
        self._lending.select(number)
        arena = self._arena
        key = (arena.lent[IN_PLACE].cr3, arena.lent[IN_PLACE].kernel_code, *self._control, cpl, ac)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _KEPT:
                self._states.clear()
            state = self._states[key] = self._prepare(cpl, ac=ac)
        state.quads[self._layout.quads["cr3"]] = arena.lent[number].cr3
        state.longs[self._layout.pkru] = self._pkru
        return state

    def _prepare(self, cpl: int, *, ac: bool) -> SavedState:
        lent = self._arena.lent[IN_PLACE]  # In a copy of the root, which is there in any case.
        engine, uc = self._engine, self._engine.uc
        engine.restore(self._reset)
        cr0, cr4, efer = self._control
        engine.control(cr0=cr0, cr3=lent.cr3, cr4=cr4, efer=efer)
        engine.flush_tlb()
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, lent.gdt, 0xFF, 0))
        uc.reg_write(x86.UC_X86_REG_EFLAGS, _EFLAGS)
        flags = _EFLAGS | (_AC if ac else 0)
        if cpl == 3:
            # Writing CS through the API would leave the CPL at 0: only a real IRET changes it.
            frame = (lent.user_code + SKIP, USER_CODE, flags, 0, USER_DATA)
            for at, word in enumerate(frame):
                uc.mem_write(self._arena.stack_pa + 4 * at, word.to_bytes(4, "little"))
            uc.reg_write(x86.UC_X86_REG_ESP, lent.stack)
            uc.reg_write(x86.UC_X86_REG_ECX, KERNEL_DATA)
            uc.reg_write(x86.UC_X86_REG_EDX, USER_DATA)
            end = lent.user_code + DONE
            error = engine.run(lent.kernel_code + ENTER_USER, end)
            if error or uc.reg_read(x86.UC_X86_REG_EIP) != end:
                raise ProbeError(f"the probe's own code did not get to its end, error {error}")
            code, data = (uc.reg_read(each) for each in (x86.UC_X86_REG_CS, x86.UC_X86_REG_DS))
            if code & 3 != 3 or (code, data) != (USER_CODE, USER_DATA):
                raise ProbeError("the probe did not reach CPL 3")
        else:
            uc.reg_write(x86.UC_X86_REG_EFLAGS, flags)
        for name in _REGISTERS:
            uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0)
        uc.reg_write(x86.UC_X86_REG_CR2, _NO_CR2)
        saved = SavedState(engine.uc)
        if saved.longs[self._layout.vector] != NO_VECTOR:
            raise ProbeError("the probe raised an exception before its first access")
        return saved


class Watcher(Rig):
    """A rig that sees the physical address of an access as it is made, and undoes a store.

    As `crosswalk.emu.probe.access_engine.Watcher`.
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
