"""The host of a Linux kernel in Unicorn, by SVM: it enforces protection, and handles exits."""

from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Guarded
from crosswalk.emu.cpu.engine import attach
from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import Exit, Host
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.facts import (
    LONGEST_INSTRUCTION,
    GuestState,
    cpu_state,
    host_context,
    instruction_size,
    read_code,
)
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.rules import Cause, Grants
from crosswalk.emu.protect.permissions import READ_WRITE, FrameTables, Permissions
from crosswalk.emu.protect.pins import INTERCEPTED, LONGEST, Pins
from crosswalk.walker.architecture import GIB, MIB
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.outcome import NestedError
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Protection", "Refusal"]

_CONTROL = {ExitCode.CR0_WRITE, ExitCode.CR3_WRITE, ExitCode.CR4_WRITE, ExitCode.MSR}
_TABLES_ABOVE = 6
"""Nested tables above the last level: the root, the one below it, and one for each of 4 GiB."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the host refused: the exit, where the guest was, and why it was refused."""

    left: Exit
    rip: int
    cpl: int
    detail: str

    def __str__(self) -> str:
        place = "" if self.left.gpa is None else f" at {self.left.gpa:#x}"
        return (
            f"{exit_name(self.left.code)}{place}, RIP {self.rip:#x}, CPL {self.cpl}: {self.detail}"
        )


class Protection(Enforcement):
    """The host of a booting kernel, from its first instruction on, or from where it is now.

    `kernel` is what `boot`, on the host's model, boots. Before `enforce` nothing is withheld.
    `keeps` as `Enforcement` has it.
    A refused exit ends the run: `refusal` says which.

    Raises `BadInput` where the CPU can't be taken into guest mode.
    """

    def __init__(self, boot: Boot, kernel: GuestImage, *, keeps: bool = True) -> None:
        machine = boot.machine
        machine.intercepting = False  # Exits are this host's.
        self.boot, self.machine = boot, machine
        size = machine.ram.size
        needed = _TABLES_ABOVE + -(-size // (2 * MIB))
        self.host_memory = Host.memory(needed)  # The engine doesn't keep it alive.
        attach(machine.engine, self.host_memory)
        self.host = Host(machine.cpu, self.host_memory)
        words = self.host.pool[: needed * (FRAME // 8)]
        nested = FrameTables(words, self.host.pool_start, size // FRAME)
        super().__init__(boot.memory, kernel, nested, keeps=keeps)
        if size < 4 * GIB:  # Devices.
            self.nested.set(size, 4 * GIB - size, READ_WRITE)
        self.refusal: Refusal | None = None
        self._pins = Pins(machine.cpu, self.host)
        self.host.enter(self.nested.root, efer=True)
        self.host.intercept(frozenset(), efer=False)
        machine.on_exit = self._on_exit

    def enforce(self) -> Grants:
        """Grant what the kernel's mappings allow now, and no more, from here on."""
        self.machine.cpu.load()
        grants = self.begin(self.context)
        self._pins.begin()
        self.resume(grants.permissions)
        return grants

    def resume(self, permissions: Permissions) -> None:
        """Enforce these permissions of frames, and pin control registers if `pins` are on."""
        self.nested.grant(permissions)
        self.open = set()
        self.intercept()
        self.machine.cpu.guard = self._guard
        self.flush()

    def suspend(self) -> None:
        """Stop enforcing: grant everything, and pin nothing."""
        self.machine.cpu.guard = None
        self.nested.grant_all()
        self.host.intercept(frozenset(), efer=False)
        self.flush()

    @property
    def pinned(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""
        return self._pins.names

    @property
    def state(self) -> GuestState:
        """The guest's registers now."""
        return cpu_state(self.machine.cpu)

    @property
    def context(self) -> PagingContext:
        """The guest's paging now; EFER is that of when the CPU's state was taken over."""
        read = self.machine.engine.reg_read
        control = (read(each) for each in (x86.UC_X86_REG_CR0, x86.UC_X86_REG_CR3))
        return host_context(*control, read(x86.UC_X86_REG_CR4), self.machine.cpu.efer)

    def read_back(self) -> Permissions:
        """Return what the entries of the nested tables grant each frame."""
        return self.nested.read_back()

    def intercept(self) -> None:
        """Have writes to pinned registers exit, INVLPG, and writes to CR3 where a frame is open."""
        writes = (INTERCEPTED if self.pins else frozenset()) | ({3} if self.open else frozenset())
        self.host.intercept(writes, efer=self.pins, invlpg=True)

    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""
        self.host.flush()

    def _on_exit(self, number: int) -> None:
        found = self.host.left(number)
        if found is None:
            raise CrosswalkError(f"{number:#x} is no exit")
        self.exits[exit_name(found.code)] += 1
        if not self._pins.kept:
            self._refuse(found, "an exit before protection began")
        elif found.code == ExitCode.NPF and found.gpa is not None:
            self._on_fault(found, found.gpa)
        elif found.code in _CONTROL:
            self._on_control(found)
        elif found.code == ExitCode.INVLPG:
            self._on_invlpg(found)
        else:
            self._refuse(found, "an instruction that reaches past nested paging")

    def _on_fault(self, found: Exit, gpa: int) -> None:
        frame = gpa // FRAME
        write, fetch = (bool(found.error_code & bit) for bit in (NestedError.WR, NestedError.ID))
        known = frame < self.rights.count and (write or fetch)
        if not known or self.decide(frame, write=write, fetch=fetch) is Cause.REFUSED:
            self._refuse(found, Cause.REFUSED.value)

    def _on_control(self, found: Exit) -> None:
        code = read_code(self.state, self.memory, LONGEST)
        if refusal := self._pins.handle(found.code, code):
            self._refuse(found, refusal)
        elif found.code == ExitCode.CR3_WRITE:
            self.root_written()
        elif found.code == ExitCode.CR4_WRITE:
            self.flushed()

    def _on_invlpg(self, found: Exit) -> None:
        state = self.state
        size = instruction_size(state, read_code(state, self.memory, LONGEST_INSTRUCTION))
        if not size:
            self._refuse(found, "an INVLPG that can't be decoded")
            return
        with self.machine.cpu.changed():
            self.machine.cpu.rip += size
        self.flush()
        self.flushed()

    def _refuse(self, found: Exit, detail: str) -> None:
        cpu = self.machine.cpu
        self.refusal = Refusal(found, cpu.rip, cpu.cpl, detail)
        self.machine.stop()

    def _guard(self, va: int, write: bool) -> None:  # noqa: FBT001  # as `Cpu.guard` is called
        if not write:
            return  # All of RAM can be read.
        leaf = find_leaf(self.memory, self.context, va)
        if leaf is None:
            return
        frame = (leaf.pa + va % leaf.size) // FRAME
        if frame >= self.rights.count or self.nested.granted[frame] & Permission.WRITE:
            return
        if not self.grants.sealed[frame]:
            # The kernel's own tables decide what may be a stack: others may be forged.
            self.follow()
            self.released(frame)
            if self.rights.own[frame] & Permission.WRITE and not self.later.frames[frame]:
                self.grant_writing(frame)
                return
        raise Guarded(f"{va:#x} of frame {frame * FRAME:#x} isn't granted for an event's frame")
