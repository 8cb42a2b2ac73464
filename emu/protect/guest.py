"""The built-in guest, booted and taken over as a guest under nested paging."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import unicorn
from numpy.typing import NDArray
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu, Guarded, Segment
from crosswalk.emu.cpu.delivery import Event, Kind, deliver
from crosswalk.emu.cpu.engine import open_engine
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_MODEL, HOST_START, Exit, Host
from crosswalk.emu.load.guest import Booted
from crosswalk.emu.protect.events import (
    Fault,
    GuestEvent,
    describe_event,
    predict_event,
)
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import FrameTables
from crosswalk.emu.protect.pins import INTERCEPTED, LONGEST, Pins
from crosswalk.guest import places
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import CR4, EFER, MSR, RFlags, Vector
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, U64, Segments

__all__ = ["Guest"]

HOST_FRAMES = 64
_LEAVE = 0x20
_CODE, _DATA = Segment(0x10, 0, 0xFFFF_FFFF, 0x00A0_9B00), Segment(0x18, 0, 0xFFFF_FFFF, 0xC0_9300)
_GDT = places.KERNEL + places.DESCRIPTORS
_TSS, _IDT = _GDT + 0x80, _GDT + 0x100
_GDT_LIMIT, _TSS_LIMIT, _IDT_LIMIT = 0x3F, 0x67, 0x20F
_TASK = Segment(0x30, _TSS, _TSS_LIMIT, 0x8B00)
_RAX, _RBX = GENERAL.index("rax"), GENERAL.index("rbx")
_RDI, _R15 = GENERAL.index("rdi"), GENERAL.index("r15")
_INT_LENGTH, _VMMCALL_LENGTH = 2, 3
_CONTROL = {ExitCode.CR0_WRITE, ExitCode.CR4_WRITE, ExitCode.MSR}
_SECONDS = 20


@dataclass(frozen=True, slots=True)
class _Saved:
    guest: "Guest"
    ram: U64
    cpu: bytes

    def read(self, pa: int, size: int) -> bytes:
        """Return what the guest's RAM was."""
        return self.ram.view(np.uint8)[pa : pa + size].tobytes()

    def restore(self) -> None:
        """Put RAM and CPU back to this state."""
        np.copyto(self.guest.ram.words, self.ram)
        self.guest.cpu.revert(self.cpu)
        self.guest.engine.ctl_flush_tb()


class Guest:
    """The guest on Unicorn's CPU with SVM, its nested tables of AMD's format; a `GuestMachine`.

    Unicorn delivers no exceptions: each one is an event, and the guest goes on where its R15 says.
    The INT by which user code ends isn't delivered, that of the kernel's is, by this host.

    Protection keys, which the model with nested paging lacks, are off.
    """

    def __init__(self, booted: Booted) -> None:
        self.booted = booted
        self.ram = booted.ram
        self.host_memory = Host.memory(HOST_FRAMES)
        self.engine = open_engine(self.ram, self.host_memory, model=HOST_MODEL)
        self.cpu = Cpu(self.engine, self.ram)
        self.host = Host(self.cpu, self.host_memory)
        self.memory = booted.memory
        self.tables = FrameTables(self.host.pool, self.host.pool_start, FRAMES)
        self.pins = Pins(self.cpu, self.host)
        self.hypercall: Callable[[int, int, int], int] | None = None
        self.events: list[tuple[GuestEvent, int]] = []
        self.left_user = self.delivered = False
        self._limit = 0
        self._set_registers()
        self.engine.ctl_exits_enabled(True)
        self.engine.ctl_set_exits([])
        self.engine.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)

    @property
    def context(self) -> PagingContext:
        """The registers that the guest's paging depends on now; EFER as it would be without SVM."""
        read = self.engine.reg_read
        booted = self.booted.context
        return PagingContext(
            cr0=read(x86.UC_X86_REG_CR0),
            cr3=read(x86.UC_X86_REG_CR3),
            cr4=read(x86.UC_X86_REG_CR4),
            efer=read(x86.UC_X86_REG_MSR, MSR.EFER) & ~EFER.SVME,
            pkru=0,
            maxphyaddr=booted.maxphyaddr,
        )

    @property
    def user_result(self) -> int:
        """RAX, as user code left it."""
        self.cpu.load()
        return self.cpu.general(_RAX)

    def enter(self) -> None:
        """Make it a guest under its nested tables, with CR0, CR4 and EFER intercepted."""
        self.cpu.guard = self._guard
        self.host.enter(self.tables.root, cr_writes=INTERCEPTED, efer=True)

    def flush(self) -> None:
        """Have the CPU use the nested tables, and code, as they are now."""
        self.host.flush()
        self.engine.ctl_flush_tb()

    def nested_words(self) -> U64:
        """Return the nested tables as the CPU finds them, a copy."""
        return self.host.pool.copy()

    def predict(self, access: Access) -> GuestEvent | None:
        """Predict an access with the nested walk: the event that ends it, None if it succeeds."""
        memory = Segments([(0, self.ram.bytes), (HOST_START, self.host_memory.bytes)])
        return predict_event(memory, self.context, self.tables.root, access)

    def departure(self, _predicted: GuestEvent | None, _observed: GuestEvent | None) -> str:
        """Return no name: the events of this scenario are as predicted."""
        return ""

    def run(self, rip: int, *, faults: int = 1) -> None:
        """Run kernel code at `rip` on the kernel's stack up to its HLT.

        Raises `CrosswalkError` where it doesn't get there, or has more than `faults` events.
        """
        self.events, self.left_user, self.delivered, self._limit = [], False, False, faults
        with self.cpu.changed():
            self.cpu.enter(_CODE, 0)
            self.cpu.set_segment("ss", _DATA)
            self.cpu.rsp = places.KERNEL + places.STACK + places.STACK_PAGES * FRAME
            self.cpu.rip = rip
            self.cpu.forget_exception()
        try:
            self.engine.emu_start(rip, 0, timeout=_SECONDS * 1_000_000)
        except unicorn.UcError as error:
            raise CrosswalkError(f"the guest can't go on: {error}") from error
        if len(self.events) > faults:
            raise CrosswalkError(f"more events than expected: {describe_event(self.events[-1][0])}")

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes of the guest's RAM."""
        return self.ram.read(pa, size)

    def words(self, addresses: Sequence[int]) -> U64:
        """Return words of the guest's RAM."""
        found: U64 = self.ram.words[np.array(addresses, np.intp) // 8]
        return found

    def write(self, pa: int, data: bytes) -> None:
        """Write bytes of the guest's RAM."""
        self.ram.write(pa, data)

    @contextmanager
    def patched(self, at: int, frames: NDArray[np.intp], data: NDArray[np.uint8]) -> Iterator[None]:
        """Have `data` at an offset of these frames meanwhile."""
        pages = self.ram.bytes.reshape(FRAMES, FRAME)
        place = slice(at, at + data.shape[1])
        kept = pages[frames, place].copy()
        pages[frames, place] = data
        self.engine.ctl_flush_tb()
        try:
            yield
        finally:
            pages[frames, place] = kept
            self.engine.ctl_flush_tb()

    @contextmanager
    def preserved(self, pa: int, size: int) -> Iterator[None]:
        """Put this RAM back, at the end, to what it is now."""
        part = self.ram.bytes[pa : pa + size]
        kept = part.copy()
        try:
            yield
        finally:
            part[:] = kept

    def save(self) -> _Saved:
        """Save the state."""
        self.cpu.load()
        return _Saved(self, self.ram.words.copy(), self.cpu.snapshot())

    def _set_registers(self) -> None:
        context, write = self.booted.context, self.engine.reg_write
        write(x86.UC_X86_REG_CR4, context.cr4 & ~CR4.PKE)
        write(x86.UC_X86_REG_MSR, (MSR.EFER, context.efer & ~EFER.LMA))
        write(x86.UC_X86_REG_CR0, context.cr0)
        write(x86.UC_X86_REG_CR3, context.cr3)
        write(x86.UC_X86_REG_GDTR, (0, _GDT, _GDT_LIMIT, 0))
        write(x86.UC_X86_REG_IDTR, (0, _IDT, _IDT_LIMIT, 0))
        write(x86.UC_X86_REG_RFLAGS, RFlags.FIXED)
        with self.cpu.changed():
            self.cpu.enter(_CODE, 0)
            for name in ("ds", "es", "ss", "fs", "gs"):
                self.cpu.set_segment(name, _DATA)
            self.cpu.set_segment("tr", _TASK)
            self.cpu.rip = places.KERNEL + places.AGENT

    def _on_exception(self, _engine: unicorn.Uc, number: int, _data: object) -> None:
        cpu = self.cpu
        left = self.host.left(number)
        if left is not None and self._handled(left):
            return
        cpu.load()
        cr2 = cpu.cr2 if number == Vector.PF else 0
        event: GuestEvent = left or Fault(number, cpu.error_code, cr2)
        if left is None and number == _LEAVE and cpu.software:
            refused = self._interrupted()
            if refused is None:
                self.engine.emu_stop()
                return
            event = refused
        self.events.append((event, cpu.general(_RDI)))
        cpu.forget_exception()
        cpu.rip = cpu.general(_R15)
        cpu.store()
        if len(self.events) > self._limit:
            self.engine.emu_stop()

    def _handled(self, left: Exit) -> bool:
        """Carry out a hypercall, or the write of a control register if it clears no pinned bit."""
        cpu = self.cpu
        if left.code == ExitCode.VMMCALL and self.hypercall is not None:
            cpu.load()
            answer = self.hypercall(cpu.general(_RAX), cpu.general(_RBX), cpu.cpl)
            with cpu.changed():
                cpu.set_general(_RAX, answer)
                cpu.rip += _VMMCALL_LENGTH
            return True
        if left.code not in _CONTROL:
            return False
        cpu.load()
        on_page = min(LONGEST, FRAME - cpu.rip % FRAME)
        instruction = cpu.read(cpu.rip, LONGEST) or cpu.read(cpu.rip, on_page) or b""
        return not self.pins.handle(left.code, instruction)

    def _interrupted(self) -> GuestEvent | None:
        """Take an INT: it ends user code; from the kernel, its handler is entered.

        Returns the event, if one occurs, that keeps the CPU from entering the handler.
        """
        if self.cpu.cpl:
            self.left_user = True
            return None
        try:
            deliver(self.cpu, Event(_LEAVE, Kind.SOFTWARE, length=_INT_LENGTH))
        except _Refused as refused:
            self.cpu.load()
            return refused.event
        self.delivered = True
        return None

    def _guard(self, va: int, write: bool) -> None:  # noqa: FBT001  # as `Cpu.guard` has it
        kind = AccessType.WRITE if write else AccessType.READ
        event = self.predict(Access(va, kind))
        if isinstance(event, Exit):
            raise _Refused(event)


class _Refused(Guarded):
    """Nested tables refuse an access that the delivery of an exception needs."""

    def __init__(self, event: Exit) -> None:
        super().__init__(describe_event(event))
        self.event = event
