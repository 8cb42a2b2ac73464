"""A PC: one CPU, RAM, and the devices that an operating system needs to boot."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.counting import Cr3Loads, instructions_begun
from crosswalk.emu.cpu.cpu import Cpu, Guarded
from crosswalk.emu.cpu.cpuid import answer_cpuid
from crosswalk.emu.cpu.delivery import Event, Kind, TripleFault, deliver, raised
from crosswalk.emu.cpu.engine import AMD_MODELS, MODEL, hook_instruction, open_engine
from crosswalk.emu.cpu.events import Fault, NotEmulated
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT
from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL
from crosswalk.emu.cpu.svm.hypervisor import GuestHypervisor, SvmFailure
from crosswalk.emu.cpu.system_calls import enter_syscall, enter_sysenter, length_of_system_call
from crosswalk.emu.pc.devices import (
    CMOS_PORTS,
    PIC_PORTS,
    PIT_PORTS,
    RESET_PORT,
    UART_IRQ,
    UART_PORTS,
    Clock,
    Cmos,
    DebugExit,
    Pic,
    Ports,
    ResetLine,
    Uart,
    line_vector,
)
from crosswalk.emu.pc.unanswered import Target, Unanswered
from crosswalk.walker.architecture import RFlags, Vector

__all__ = ["Delivered", "Ended", "Machine", "Stop"]

_TIMER_IRQ = 0
_KEPT_EVENTS = 16
_HLT = b"\xf4"
_HIGHEST = 1 << 32
_VERBS = {
    unicorn.UC_MEM_READ_UNMAPPED: "a read of",
    unicorn.UC_MEM_WRITE_UNMAPPED: "a write to",
    unicorn.UC_MEM_FETCH_UNMAPPED: "a fetch from",
}
_USER = 3
_TRAPS = (Vector.BP, Vector.OF)
"""Vectors that INT3 and INTO have, with which no system is called."""


class Stop(Enum):
    """The reason why a run ended."""

    ASKED = "stopped on request"
    IDLE = "idle"
    HALTED = "halted for good: no interrupt can wake the CPU"
    RESET = "the guest asked for a reset"
    SHUTDOWN = "the CPU shut down"
    STUCK = "the emulator can't go on"
    TIMEOUT = "the time is up"
    REFUSED = "the host refused to go on"
    NOT_EMULATED = "the guest asked for what isn't emulated"
    COUNTED = "as many instructions as asked for"
    EXITED = "the guest exited"


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run: its reason, and a line of detail, or nothing.

    `status` is that of a guest that exited by itself (`DebugExit`).
    """

    stop: Stop
    detail: str = ""
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivered event, and the RIP and privilege level at which it occurred.

    `cr2` is the address of a page fault.
    """

    event: Event
    rip: int
    cpl: int
    cr2: int | None


class Machine:
    """One CPU with RAM from address 0, a UART, timer, interrupt controllers and CMOS.

    A guest ends its run by a write to `exit_port` (`DebugExit`), if there is one. `tick_every`
    lets the timer's next tick come after each so many instructions, for guests that wait for one
    without doing anything that lets time pass; it makes a run slow.

    `console` collects what the guest sends; `on_console` is called after each byte of it,
    `on_exit` with the number of each exit of a guest under nested paging (`crosswalk.emu.cpu.svm`),
    and `on_system_call` after each system call, its handler's first instruction being next.
    `system_calls` counts these: SYSCALL, and INT n at privilege level 3 but for #BP's and #OF's
    vectors.
    `events` are the last exceptions and interrupts delivered, `counts` how many there were by
    vector and kind, `hypervisor` is what a model with SVM does for one that runs as the guest,
    `unanswered` is what was asked of hardware that isn't there. A run depends on the guest and its
    input alone: two runs are the same, unless the time is up.
    """

    def __init__(
        self,
        ram: Ram,
        *,
        model: int = MODEL,
        exit_port: int | None = None,
        tick_every: int | None = None,
    ) -> None:
        self.ram = ram
        self.engine = open_engine(ram, model=model)
        self._model = model
        self.cpu = Cpu(self.engine, ram)
        self.console = bytearray()
        self.on_console: Callable[[], None] | None = None
        self.on_exit: Callable[[int], None] | None = None
        self.on_system_call: Callable[[], None] | None = None
        self.events: deque[Delivered] = deque(maxlen=_KEPT_EVENTS)
        self.counts: Counter[tuple[int, Kind]] = Counter()
        self.system_calls = 0
        self.unanswered = Unanswered()
        self._exit_port = exit_port
        self._tick_every = self._until_tick = tick_every
        self._clock = Clock()
        self._uart = Uart(self._sent)
        self._pics = (Pic(), Pic())
        self._ports = Ports()
        self._ended: Ended | None = None
        self._idle_ticks = 0
        self.instructions = 0
        self._hooks: list[object] = []
        self._deferred: deque[Callable[[], None]] = deque()
        self._running = False
        self._loads: Cr3Loads | None = None
        self.hypervisor = (
            GuestHypervisor(self.cpu, ram, self._interrupt) if model == SVM_MODEL else None
        )
        # An address to stop at would be translated first; an exception of that would make the next
        # one a double fault.
        self.engine.ctl_exits_enabled(True)
        self.engine.ctl_set_exits([])
        self._attach_devices()
        self._hook()

    def stop(self) -> None:
        """End the run with the block of code that runs; to be called from a callback."""
        self._end(Ended(Stop.ASKED))

    def count_loads(self, reached: Callable[[], None]) -> Cr3Loads:
        """Return a count of the loads of CR3 from now on; `reached` as `Cr3Loads` has it."""
        self._loads = Cr3Loads(self.cpu, reached, self._interrupt)
        return self._loads

    def run(
        self, *, seconds: float, idle_ticks: int | None = None, instructions: int | None = None
    ) -> Ended:
        """Run from the CPU's present state until something ends the run; return its end.

        It ends after `seconds` of the host's time at the latest. It ends as idle after `idle_ticks`
        timer ticks in a row in which the guest only halted again: no system call, no byte sent.
        `instructions` bounds the number begun, exactly, and at half the speed; either all runs of a
        machine have such a bound, or none.
        """
        deadline = time.monotonic() + seconds
        left = instructions
        self._ended = None
        while (remaining := deadline - time.monotonic()) > 0:
            bounds = [each for each in (left, self._until_tick) if each is not None]
            begun = self._go(remaining, min(bounds, default=0))
            self.instructions += begun
            left = None if left is None else left - begun
            ticked = self._counted_down(begun)
            halted = not self._deferred and not ticked
            while self._deferred:
                self._deferred.popleft()()
            if left == 0:
                self._end(Ended(Stop.COUNTED))
            if halted and self._outcome() is None:
                self._wake(idle_ticks)
            if (ended := self._outcome()) is not None:
                return ended
        return Ended(Stop.TIMEOUT)

    def _outcome(self) -> Ended | None:
        return self._ended

    def _counted_down(self, begun: int) -> bool:
        """Let a tick come where it is due by the number of instructions; return whether it was."""
        if self._until_tick is None:
            return False
        self._until_tick -= begun
        if self._until_tick:
            return False
        self._until_tick = self._tick_every
        self._clock.wait()
        vector = line_vector(*self._pics, _TIMER_IRQ)
        self.cpu.load()
        if vector is not None and self.cpu.rflags & RFlags.IF:
            self._deliver(Event(vector, Kind.INTERRUPT))
        return True

    def _go(self, seconds: float, count: int) -> int:
        """Let the CPU run, for at most `count` instructions if not 0; return how many, if so."""
        self.cpu.load()
        rip = self.cpu.rip
        if self._loads is not None:
            self._loads.entering(rip)
        self._running = True
        try:
            # No address to stop at: see __init__.
            self.engine.emu_start(rip, 0, timeout=int(seconds * 1e6) + 1, count=count)
        except unicorn.UcError as error:
            self._end(Ended(Stop.STUCK, str(error)))
        finally:
            self._running = False
        return instructions_begun(self.engine, count) if count else 0

    def _interrupt(self, action: Callable[[], None]) -> None:
        self._deferred.append(action)
        self.engine.emu_stop()

    def _attach_devices(self) -> None:
        self._ports.attach(self._uart, *UART_PORTS)
        for pic, ports in zip(self._pics, PIC_PORTS, strict=True):
            self._ports.attach(pic, *ports)
        self._ports.attach(Cmos(), *CMOS_PORTS)
        self._ports.attach(self._clock, *PIT_PORTS)
        self._ports.attach(ResetLine(lambda: self._end(Ended(Stop.RESET))), RESET_PORT)
        if self._exit_port is not None:
            self._ports.attach(DebugExit(self._exited), self._exit_port)
        end = self.ram.start + self.ram.size
        if end < _HIGHEST:
            self.engine.mmio_map(
                end, _HIGHEST - end, self._on_memory_read, end, self._on_memory_write, end
            )

    def _hook(self) -> None:
        add = self.engine.hook_add
        add(unicorn.UC_HOOK_INTR, self._on_exception)
        add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid)
        add(unicorn.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        for called, instruction in (
            (self._on_in, x86.UC_X86_INS_IN),
            (self._on_out, x86.UC_X86_INS_OUT),
            (self._on_syscall, x86.UC_X86_INS_SYSCALL),
            (self._on_sysenter, x86.UC_X86_INS_SYSENTER),
            (self._on_cpuid, x86.UC_X86_INS_CPUID),
        ):
            add(unicorn.UC_HOOK_INSN, called, None, 1, 0, instruction)
        for instruction in (x86.UC_X86_INS_RDTSC, x86.UC_X86_INS_RDTSCP):
            self._hooks.append(hook_instruction(self.engine, instruction, self._on_rdtsc))

    def _sent(self, byte: int) -> None:
        self.console.append(byte)
        self._idle_ticks = 0
        if self.on_console is not None:
            self.on_console()

    def _end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
        if self._running:  # Else the next run would end at once.
            self.engine.emu_stop()

    def _exited(self, status: int) -> None:
        self._end(Ended(Stop.EXITED, f"status {status}", status))

    def _rip(self) -> int:
        return int(self.engine.reg_read(x86.UC_X86_REG_RIP))

    def _note(self, target: Target, address: int, size: int, *, write: bool) -> None:
        self.unanswered.note(target, address, write=write, size=size, rip=self._rip)

    def _on_memory_read(self, _uc: unicorn.Uc, offset: int, size: int, start: int) -> int:
        self._note(Target.MEMORY, start + offset, size, write=False)
        return (1 << 8 * size) - 1

    def _on_memory_write(
        self, _uc: unicorn.Uc, offset: int, size: int, _value: int, start: int
    ) -> None:
        self._note(Target.MEMORY, start + offset, size, write=True)

    def _on_unmapped(
        self, _uc: unicorn.Uc, kind: int, address: int, size: int, _value: int, _data: object
    ) -> bool:
        """Note an access beyond all that is mapped, which ends the run."""
        self._note(Target.MEMORY, address, size, write=kind == unicorn.UC_MEM_WRITE_UNMAPPED)
        verb = _VERBS[kind]
        self._end(Ended(Stop.STUCK, f"{verb} physical address {address:#x}, where nothing is"))
        return False

    def _on_in(self, _uc: unicorn.Uc, port: int, size: int, _data: object) -> int:
        if not self._ports.answers(port):
            self._note(Target.PORT, port, size, write=False)
        return self._ports.read(port, size)

    def _on_out(self, _uc: unicorn.Uc, port: int, size: int, value: int, _data: object) -> None:
        if not self._ports.answers(port):
            self._note(Target.PORT, port, size, write=True)
        self._ports.write(port, size, value)

    def _on_cpuid(self, uc: unicorn.Uc, _data: object) -> int:
        return int(answer_cpuid(uc, self._model))

    def _on_rdtsc(self) -> None:
        stamp = self._clock.stamp()
        self.engine.reg_write(x86.UC_X86_REG_RAX, stamp & 0xFFFF_FFFF)
        self.engine.reg_write(x86.UC_X86_REG_RDX, stamp >> 32)

    def _on_syscall(self, _uc: unicorn.Uc, _data: object) -> None:
        self._system_call(enter_syscall)

    def _on_sysenter(self, _uc: unicorn.Uc, _data: object) -> None:
        self._system_call(enter_sysenter)

    def _system_call(self, enter: Callable[..., None]) -> None:
        length = length_of_system_call(self.cpu)
        try:
            enter(self.cpu, length, amd=self._model in AMD_MODELS)
        except Fault as fault:
            self._deliver(fault.event)
            with self.cpu.changed():
                self.cpu.rip -= length
        else:
            self._called()

    def _on_exception(self, _uc: unicorn.Uc, vector: int, _data: object) -> None:
        if vector >= FIRST_EXIT and self.on_exit is not None:
            self.on_exit(vector)
            return
        if self.hypervisor is None or self.on_exit is not None:
            self._deliver(raised(self.cpu, vector))
            return
        try:
            if vector >= FIRST_EXIT:
                self.hypervisor.left(vector)
            else:
                self._deliver(self.hypervisor.injected(vector) or raised(self.cpu, vector))
        except SvmFailure as failure:
            self._end(Ended(Stop.STUCK, str(failure)))

    def _on_invalid(self, _uc: unicorn.Uc, _data: object) -> bool:
        if self.hypervisor is not None and self.hypervisor.retries():
            return True
        self._deliver(Event(Vector.UD, Kind.EXCEPTION))
        return True

    def _deliver(self, event: Event) -> None:
        hypervisor = self.hypervisor if self.on_exit is None else None
        if hypervisor is not None:
            hypervisor.guard()
        self.cpu.load()
        rip, cpl = self.cpu.rip, self.cpu.cpl
        try:
            delivered = deliver(self.cpu, event)
        except TripleFault as fault:
            if hypervisor is not None and hypervisor.shut_down():
                return
            delivered = [event]
            self._end(Ended(Stop.SHUTDOWN, str(fault)))
        except NotEmulated as missing:
            self._end(Ended(Stop.NOT_EMULATED, str(missing)))
            return
        except Guarded as refusal:
            if hypervisor is None or not hypervisor.refused(event, refusal):
                self._end(Ended(Stop.REFUSED, str(refusal)))
            return
        if self._loads is not None:
            self._loads.entering(self.cpu.rip)
        for each in delivered:
            cr2 = self.cpu.cr2 if each.vector == Vector.PF else None
            self.events.append(Delivered(each, rip, cpl, cr2))
            self.counts[each.vector, each.kind] += 1
        called = event.kind is Kind.SOFTWARE and event.vector not in _TRAPS and cpl == _USER
        if called and delivered == [event]:
            self._called()

    def _called(self) -> None:
        """Count a system call that has just been made."""
        self.system_calls += 1
        self._idle_ticks = 0
        if self.on_system_call is not None:
            self.on_system_call()

    def _wake(self, idle_ticks: int | None) -> None:
        """Continue after a HLT, with the next interrupt."""
        self.cpu.load()
        if self.cpu.code(-1, 1) != _HLT:
            return  # The time is up.
        vector = line_vector(*self._pics, UART_IRQ) if self._uart.interrupting else None
        if vector is None:
            vector = line_vector(*self._pics, _TIMER_IRQ)
            self._clock.wait()
            self._idle_ticks += 1
        if vector is None or not self.cpu.rflags & RFlags.IF:
            self._end(Ended(Stop.HALTED))
        elif idle_ticks is not None and self._idle_ticks > idle_ticks:
            self._end(Ended(Stop.IDLE))
        else:
            self._deliver(Event(vector, Kind.INTERRUPT))
