"""One access in an engine call of its own, each from the same CPU state.

Who runs from where, and what is observed:

    host                    engine, under the CR3 under test         tables and pages under test
    borrow a root slot ───► (`crosswalk.emu.probe.trampoline`)
    restore a saved state,  at `code` + START[type], CPL 0 or 3
    empty the TLB     ────► the access itself           ────────────► its walk sets A and D
                            show the slot that it reached ──────────► marker, or anything else
    save the state    ◄──── DONE, or an exception
    read and put back every entry on the walk (`Workspace.take_back`)

A state is restored for each access because after a first fault Unicorn would deliver the next as a
double fault, and then none at all. A user state was made by a real IRET. An outcome needs proof:
MARK, RIP at DONE and a marker that was seen; or an exception at the access's own RIP. Frames
without a marker, paging structures and addresses without RAM, are watched in a second engine, whose
hooks report the physical address.

Outstanding: in 32-bit and PAE paging every access is made this way, at six times the time of a bulk
run. The loops of those need more registers than the eight of 32-bit code.
"""

from typing import NamedTuple

from unicorn import (
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_OK,
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
from crosswalk.emu.cpu.state_layout import NO_VECTOR, state_layout
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import SLOT, decode
from crosswalk.emu.probe.routines import (
    DONE,
    ENTER_USER,
    LANDED,
    LOAD_ROOT,
    MARK,
    SKIP,
    START,
)
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import IN_PLACE, USER_CODE, USER_DATA, SlotSwitch, Trampoline
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import RFlags, Vector
from crosswalk.walker.columns import Kind
from crosswalk.walker.memory import FRAME

__all__ = [
    "NO_CR2",
    "TRANSLATED",
    "AccessEngine",
    "Observed",
    "Run",
    "SingleAccess",
    "WatchingEngine",
    "rflags",
]

TRANSLATED = (
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_FETCH_PROT,
)
"""The engine's errors that say: the translation worked, and what it led to can't be had."""

NO_CR2 = 0xDEAD_BEEF_0BAD_C0DE
"""What CR2 holds before an access, so that a fault which doesn't write it is seen."""

_KEPT = 512  # States, each of some 10 KB.
_KERNEL_DATA = 0x10
_ZEROED = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")


def rflags(*, ac: bool) -> int:
    """Return RFLAGS with nothing set, or AC alone."""
    return RFlags.FIXED | (RFlags.AC if ac else 0)


class Observed(NamedTuple):
    """An outcome, but for the words that the access changed."""

    kind: Kind
    pa: int = 0
    error_code: int = 0
    cr2: int = 0


class Run(NamedTuple):
    """The state after one access: Unicorn's error number, and registers.

    `low` and `high` are the 16 bytes that the routine saw, as two words, if it completed.
    """

    error: int
    completed: bool
    vector: int
    error_code: int
    cr2: int
    rip: int
    rax: int
    low: int
    high: int

    def fault(self, at: int) -> Observed | None:
        """Return the fault that an access at this RIP raised, None if there is no proof of one."""
        if self.error == UC_ERR_EXCEPTION and self.rip == at and not self.completed:
            if self.vector == Vector.PF:
                return Observed(Kind.PAGE_FAULT, error_code=self.error_code, cr2=self.cr2)
            if self.vector == Vector.GP and self.error_code == 0:
                return Observed(Kind.GENERAL_PROTECTION)
        return None

    def no_outcome(self, what: str) -> ProbeError:
        """Return the error that this run is, being no outcome of `what`."""
        return ProbeError(
            f"{what}: no outcome (engine error {self.error}, vector {self.vector}, "
            f"error code {self.error_code:#x}, RIP {self.rip:#x})"
        )


class AccessEngine:
    """An engine that makes accesses in one address space, then another, of one width of code.

    `own` is the range [start, end) of the trampolines; `fetch` says whether the rest of the RAM may
    be executed; without, a fetch that was translated ends in an error of the engine instead.
    `enter` has to be called before the first access.
    """

    def __init__(self, space: Space, own: tuple[int, int], *, fetch: bool, bits: int = 64) -> None:
        self._engine = Engine(bits=bits)
        self._bits = bits
        self._layout = state_layout()
        self._at = self._layout.quads
        space.map_into(self._engine.uc, own=own, fetch=fetch)
        self._reset = SavedState(self._engine.uc)
        self._first: dict[tuple[int, bool], SavedState] = {}
        self._states: dict[tuple[int, ...], SavedState] = {}
        self._after = SavedState(self._engine.uc)
        self._trampoline: Trampoline
        self._switch: SlotSwitch
        self._control: tuple[int, int, int]
        self._pkru: int

    def enter(self, workspace: Workspace) -> None:
        """Make what follows in this workspace: under its control registers, with its trampoline."""
        self._trampoline, self._switch = workspace.trampoline, workspace.switch
        control = workspace.control
        self._control = control.cr0, control.cr4, control.efer
        self._pkru = control.pkru

    @property
    def uc(self) -> Uc:
        """The engine, for hooks."""
        return self._engine.uc

    def attempt(
        self, va: int, kind: AccessType, cpl: int, *, ac: bool, slot: int, stored: int = 0
    ) -> Run:
        """Make one access with an empty TLB, and return the state after it.

        `slot` is which of the trampoline's slots is borrowed, `stored` what a write stores.
        """
        code, state, at = self._code(slot, cpl), self._state(slot, cpl, ac=ac), self._at
        quads = state.quads
        quads[at["rax"]] = stored
        quads[at["rbx"]] = va
        quads[at["rcx"]] = va & -SLOT
        quads[at["rbp"]] = code + LANDED
        self._engine.restore(state)
        self._engine.flush_tlb()
        return self._run_routine(code, START[kind])

    def _run_routine(self, code: int, routine: int) -> Run:
        """Run a routine from the engine's present state to its end, and return the state then."""
        engine, after, at, layout = self._engine, self._after, self._at, self._layout
        done = code + DONE
        error = engine.run(code + routine, done)
        engine.save(after)
        quads, longs = after.quads, after.longs
        rip, rax = quads[at["rip"]], quads[at["rax"]]
        low, high = quads[at["rdx"]], quads[at["rsi"]]
        if self._bits == 32:
            low, high = high << 32 | low, quads[at["rcx"]] << 32 | rax
        return Run(
            error,
            rip == done and quads[at["rdi"]] == MARK,
            longs[layout.vector],
            longs[layout.error_code],
            quads[at["cr2"]],
            rip,
            rax,
            low,
            high,
        )

    def loads_root(self, root: int, cpl: int = 0) -> bool:
        """Return whether MOV to CR3 takes this root; if not, it raised #GP(0). In 32-bit code.

        At CPL 3 it never does. The fetch after it may leave A bits in the tables.
        """
        state = self._state(IN_PLACE, cpl, ac=False)
        code, (load, loaded) = self._code(IN_PLACE, cpl), LOAD_ROOT
        state.quads[self._at["rcx"]] = root
        self._engine.restore(state)
        self._engine.flush_tlb()
        error = self._engine.run(code + load, code + loaded)
        cr3 = self._engine.uc.reg_read(x86.UC_X86_REG_CR3)
        self._engine.save(self._after)
        refused = error == UC_ERR_EXCEPTION and self._after.longs[self._layout.vector] == Vector.GP
        if refused and self._after.quads[self._at["rip"]] == code + load:
            return False
        if cr3 != root:
            raise ProbeError(f"MOV to CR3 of {root:#x} left {cr3:#x} there, error {error}")
        return True

    def faulted_at(self, va: int, kind: AccessType, cpl: int, slot: int) -> int:
        """Return the RIP that a fault of this access has to show."""
        return va if kind is AccessType.EXECUTE else self._code(slot, cpl) + START[kind]

    def _code(self, slot: int, cpl: int) -> int:
        return self._trampoline.slots[slot].view(cpl).code

    def _state(self, number: int, cpl: int, *, ac: bool) -> SavedState:
        """Return the state before an access, and have this slot borrowed.

        A state is made once for all address spaces that it serves: what decides are the control
        registers but CR3. Where the trampoline is seen doesn't: no segment is loaded any more. CR3
        and PKRU are written into the state itself.
        """
        self._switch.select(number)
        key = (*self._control, cpl, ac)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _KEPT:
                self._states.clear()
            if (cpl, ac) not in self._first:
                self._first[cpl, ac] = self._prepare(cpl, ac=ac)
            self._engine.restore(self._first[cpl, ac])
            cr0, cr4, efer = self._control
            cr3 = self._trampoline.slots[number].cr3
            self._engine.control(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)
            state = self._states[key] = SavedState(self._engine.uc)
        state.quads[self._at["cr3"]] = self._trampoline.slots[number].cr3
        state.longs[self._layout.pkru] = self._pkru
        return state

    def _prepare(self, cpl: int, *, ac: bool) -> SavedState:
        """Return a state in which code of this privilege runs, reached as a guest reaches it."""
        slot = self._trampoline.slots[IN_PLACE]  # In a copy of the root, which is always there.
        engine, uc = self._engine, self._engine.uc
        engine.restore(self._reset)
        cr0, cr4, efer = self._control
        engine.control(cr0=cr0, cr3=slot.cr3, cr4=cr4, efer=efer)
        engine.flush_tlb()
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, slot.gdt, 0xFF, 0))
        uc.reg_write(x86.UC_X86_REG_EFLAGS, rflags(ac=ac and cpl == 0))
        if cpl == 3:
            # Writing CS through the API would leave the CPL at 0: only a real IRET changes it.
            word = self._bits // 8
            frame = (slot.user.code + SKIP, USER_CODE, rflags(ac=ac), 0, USER_DATA)
            uc.mem_write(
                self._trampoline.stack_pa,
                b"".join(each.to_bytes(word, "little") for each in frame),
            )
            state = SavedState(uc)
            for name, value in (("rsp", slot.stack), ("rcx", _KERNEL_DATA), ("rdx", USER_DATA)):
                state.quads[self._at[name]] = value
            engine.restore(state)
            end = slot.user.code + DONE
            error = engine.run(slot.kernel.code + ENTER_USER, end)
            reached = SavedState(uc)
            rip = reached.quads[self._at["rip"]]
            if error or rip != end:
                raise ProbeError(f"the probe's own code stopped at {rip:#x}, error {error}")
            if (
                uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE
                or reached.longs[self._layout.mode] & 3 != 3
            ):
                raise ProbeError("the probe did not reach CPL 3")
        saved = SavedState(uc)
        for name in _ZEROED:
            saved.quads[self._at[name]] = 0
        saved.quads[self._at["cr2"]] = NO_CR2
        if saved.longs[self._layout.vector] != NO_VECTOR:
            raise ProbeError("the probe raised an exception before its first access")
        return saved


class WatchingEngine(AccessEngine):
    """Sees the physical address of an access as it is made, and undoes a store.

    For frames that carry no marker: paging structures and addresses without RAM. A fetch
    is stopped when it has been translated, so that nothing found there runs.
    """

    def __init__(self, space: Space, own: tuple[int, int], *, bits: int = 64) -> None:
        super().__init__(space, own, fetch=False, bits=bits)
        self._space = space
        self._seen: list[tuple[int, int, bytes]] = []
        self.uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see)
        self.uc.hook_add(UC_HOOK_MEM_INVALID, self._see)

    def watch(
        self, va: int, kind: AccessType, cpl: int, *, ac: bool, slot: int, stored: int = 0
    ) -> tuple[Run, int | None]:
        """Make one access; return the state after it, and the physical address it was made at.

        A word that was written has its content back when this returns, with the A and D that
        the walk itself may have set in it.
        """
        self._state(slot, cpl, ac=ac)  # What it takes to make one isn't part of the access.
        self._seen.clear()
        run = self.attempt(va, kind, cpl, ac=ac, slot=slot, stored=stored)
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


class SingleAccess:
    """Makes accesses one at a time, in two engines over the same space.

    One runs what is marked; the other only watches, for what isn't.
    """

    def __init__(self, space: Space, own: tuple[int, int], *, bits: int = 64) -> None:
        self._runner = AccessEngine(space, own, fetch=True, bits=bits)
        self._watcher = WatchingEngine(space, own, bits=bits)
        self._workspace: Workspace

    def enter(self, workspace: Workspace) -> None:
        """Make what follows in this workspace."""
        self._workspace = workspace
        for engine in (self._runner, self._watcher):
            engine.enter(workspace)

    def loads_root(self) -> bool:
        """Return whether MOV to CR3 takes the CR3 under test, in 32-bit code."""
        loads = self._watcher.loads_root(self._workspace.trampoline.slots[0].cr3)
        self._workspace.restore_tables()
        return loads

    def make(self, access: Access, slot: int, stored: int, *, marked: bool) -> Observed:
        """Make one access and return what was observed; `ProbeError` if that is no outcome.

        `slot` is which of the trampoline's slots is borrowed, `stored` the byte that a write
        stores, and `marked` says whether a marker may be reached, or only what is to be watched.
        The tables are left as the walk left them.
        """
        run, pa = self._run(access, slot, stored, marked=marked)
        if run.error == UC_ERR_EXCEPTION:
            at = self._runner.faulted_at(access.va, access.type, access.cpl, slot)
            fault = run.fault(at)
            if fault is not None:
                return fault
        elif pa is not None and (
            run.error in TRANSLATED or (run.error == UC_ERR_OK and run.completed)
        ):
            return Observed(Kind.OK, pa=pa)
        raise run.no_outcome(f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}")

    def _run(
        self, access: Access, slot: int, stored: int, *, marked: bool
    ) -> tuple[Run, int | None]:
        """Make one access, and return the state after it and the address it reached.

        The address is what the page itself says, where it carries a marker. Else it is what
        the watcher saw.
        """
        va, kind, cpl, ac = access.va, access.type, access.cpl, bool(access.ac)
        if not marked:
            return self._watcher.watch(va, kind, cpl, ac=ac, slot=slot, stored=stored)
        if kind is AccessType.EXECUTE:
            # Nothing is executed before it is known to be a marker.
            run, seen = self._watcher.watch(va, kind, cpl, ac=ac, slot=slot)
            if (
                seen is not None
                and run.error == UC_ERR_FETCH_PROT
                and self._workspace.is_marked(seen)
            ):
                run = self._runner.attempt(va, kind, cpl, ac=ac, slot=slot)
                return run, run.rax * FRAME | va % FRAME if run.completed else None
            return run, seen
        run = self._runner.attempt(va, kind, cpl, ac=ac, slot=slot, stored=stored)
        if run.error == UC_ERR_EXCEPTION:
            return run, None
        if run.error == UC_ERR_OK:
            written = stored if kind is AccessType.WRITE else None
            pa = decode(run.low, run.high, va=va, stored=written)
            if pa is not None:
                if written is not None:
                    self._workspace.erase(pa)
                return run, pa
        # The store may have hit a table, and what it left of A and D there is not the walk's.
        self._workspace.restore_tables()
        return self._watcher.watch(va, kind, cpl, ac=ac, slot=slot, stored=stored)
