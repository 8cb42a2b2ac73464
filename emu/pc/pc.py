"""A PC: one CPU, RAM, and the devices that an operating system needs to boot."""

import time
from collections import Counter, deque
from collections.abc import Callable

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.control_writes import ControlWrites
from crosswalk.emu.cpu.counting import Cr3Loads, ended_by_bound, instructions_begun
from crosswalk.emu.cpu.cpu import Cpu, Guarded
from crosswalk.emu.cpu.cpuid import answer_cpuid
from crosswalk.emu.cpu.decoding import length_of_store
from crosswalk.emu.cpu.delivery import Event, Kind, TripleFault, deliver, raised
from crosswalk.emu.cpu.engine import AMD_MODELS, MODEL, DirectHooks, open_engine, register_writer
from crosswalk.emu.cpu.events import Fault, NotEmulated
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT, exit_name
from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL, interrupts_enabled
from crosswalk.emu.cpu.svm.hypervisor import GuestHypervisor, SvmFailure
from crosswalk.emu.cpu.system_calls import enter_syscall, enter_sysenter, length_of_system_call
from crosswalk.emu.pc.addresses import IOAPIC_BASE
from crosswalk.emu.pc.board import Board, WayOut
from crosswalk.emu.pc.clock import TSC_HZ
from crosswalk.emu.pc.halting import halted_after, stands_behind_hlt
from crosswalk.emu.pc.msrs import Msrs
from crosswalk.emu.pc.results import Delivered, Ended, Stop
from crosswalk.emu.pc.task_priority import TaskPriority
from crosswalk.emu.pc.unanswered import Target, Unanswered
from crosswalk.emu.pc.watchdog import Watchdog
from crosswalk.walker.architecture import MSR, RFlags, Vector

__all__ = ["Machine"]

_KEPT_EVENTS = 16
_PAGE_FAULT, _SOFTWARE = int(Vector.PF), Kind.SOFTWARE  # Looked up once: it takes its time.
_HIGHEST, _TOP = 1 << 32, (1 << 64) - 1
_VERBS = {
    unicorn.UC_MEM_READ_UNMAPPED: "a read of",
    unicorn.UC_MEM_WRITE_UNMAPPED: "a write to",
    unicorn.UC_MEM_FETCH_UNMAPPED: "a fetch from",
}
_USER = 3
_TRAPS = (Vector.BP, Vector.OF)
"""Vectors that INT3 and INTO have, with which no system is called."""


class Machine:
    """One CPU with RAM from address 0 on, and the devices of a PC (`crosswalk.emu.pc.board`).

    Interrupts arrive where the guest does something that the host has to answer, at the end of the
    block of code, and where it halts. `tick_every` lets the timers' next event come after each so
    many instructions as well, for guests that wait for one without doing anything of that; it
    makes a run slow. A guest ends its run by a write to `exit_port`, if there is one, with the
    value written, twice and one more, as its status.

    `console` collects what the guest sends; `on_console` is called after each byte of it,
    `on_exit` with the number of each exit of a guest under nested paging (`crosswalk.emu.cpu.svm`),
    and `on_system_call` after each system call, its handler's first instruction being next.
    `system_calls` counts these: SYSCALL, SYSENTER, and INT n at privilege level 3 but for INT3
    and INTO. `events` are the last exceptions and interrupts delivered, `counts` how many there
    were by vector and kind, `hypervisor` is what a model with SVM does for one that is the guest,
    `unanswered` is what was asked of hardware that isn't there. `left` is how the guest has ended
    its run by itself, if it has: a run that had already been asked to stop ends as asked. With
    `intercepting` off, writes of control registers and accesses to MSRs are the emulator's alone,
    without what the manual has beyond it, as they are for the guest of a host under nested paging.
    A run depends on the guest and its input alone: two runs are the same, unless the time is up.
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
        self._tick_every = self._until_tick = tick_every
        self._board = Board(
            ram.start + ram.size, sent=self._sent, left=self._left, exit_port=exit_port
        )
        self.left: Ended | None = None
        self._ended: Ended | None = None
        self._active = 0
        # Where a stop of the engine was asked for in its run, and where the CPU stands halted.
        self._asked_at: int | None = None
        self._halted_at: int | None = None
        self.instructions = 0
        self._hooks = DirectHooks(self.engine)
        self._put_rax, self._put_rcx, self._put_rdx = (
            register_writer(self.engine, register)
            for register in (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX)
        )
        self._deferred: deque[Callable[[], None]] = deque()
        self._running = False
        # Whether the next store to a device is left to the CPU: see `_store`.
        self._passing = False
        self._control = ControlWrites(self.cpu, model)
        self.intercepts = self._control.intercepts
        self.intercepting = True
        self._msrs = Msrs(self.cpu, self.intercepts, self._board, self._asked_msr)
        self._task_priority = TaskPriority(self.cpu, self.intercepts, self._board)
        self.hypervisor = (
            GuestHypervisor(self.cpu, ram, self._interrupt) if model == SVM_MODEL else None
        )
        # An address to stop at would be translated first; an exception of that would make the next
        # one a double fault.
        self.engine.ctl_exits_enabled(True)
        self.engine.ctl_set_exits([])
        self._map_devices()
        self._hook()

    @property
    def time(self) -> float:
        """The seconds of the guest's clock since the machine was made."""
        return self._board.clock.now / TSC_HZ

    @property
    def screen(self) -> list[str]:
        """The lines of the text display; none where nothing has been written to it."""
        return self._board.screen(self.ram)

    def stop(self) -> None:
        """End the run with the block of code that runs; to be called from a callback."""
        self._end(Ended(Stop.ASKED))

    def count_loads(self, reached: Callable[[], None]) -> Cr3Loads:
        """Return a count of the loads of CR3 from now on; `reached` as `Cr3Loads` has it."""
        loads = Cr3Loads(reached)
        self._control.follow_roots(loads.made)
        return loads

    def run(
        self,
        *,
        seconds: float,
        idle_seconds: float | None = None,
        instructions: int | None = None,
    ) -> Ended:
        """Run from the CPU's present state until something ends the run; return its end.

        It ends after `seconds` of the host's time at the latest. It ends as idle after
        `idle_seconds` of the guest's own time in which it did nothing but take interrupts and halt:
        no system call, no byte sent. `instructions` bounds the number begun, exactly, and at half
        the speed; either all runs of a machine have such a bound, or none.
        """
        with Watchdog(self.engine, seconds):
            try:
                return self._run(time.monotonic() + seconds, idle_seconds, instructions)
            except SvmFailure as failure:
                return Ended(Stop.STUCK, str(failure))

    def _run(self, deadline: float, idle_seconds: float | None, left: int | None) -> Ended:
        self._ended = None
        while time.monotonic() < deadline:
            self._go_on(idle_seconds)
            if (ended := self._outcome()) is not None:
                return ended
            bound = min((n for n in (left, self._until_tick) if n is not None), default=0)
            begun = self._go(bound)
            self.instructions += begun
            left = None if left is None else left - begun
            self._note_halt(bound)
            while self._deferred:
                self._deferred.popleft()()
            if left == 0:
                self._end(Ended(Stop.COUNTED))
            self._count_down(begun)
            if (ended := self._outcome()) is not None:
                return ended
        return Ended(Stop.TIMEOUT)

    def _outcome(self) -> Ended | None:
        return self._ended

    def _go(self, count: int) -> int:
        """Let the CPU run, for at most `count` instructions if not 0; return how many, if so."""
        self.cpu.load()
        rip = self.cpu.rip
        self._asked_at = None
        if self._own_hypervisor is not None:
            self._own_hypervisor.entering(self.cpu.linear(rip))
        if self.intercepting:
            self.intercepts.begin()
        self._running = True
        try:
            # No address to stop at: see __init__.
            self.engine.emu_start(rip, 0, count=count)
        except unicorn.UcError as error:
            self._end(Ended(Stop.STUCK, str(error)))
        finally:
            self._running = self._passing = False
            self.intercepts.end()
        self._hooks.raise_error()
        return instructions_begun(self.engine, count) if count else 0

    def _note_halt(self, bound: int) -> None:
        """Note whether the engine's run, which had a bound if not 0, ended with a HLT."""
        self._halted_at = None
        goes_on = self._ended is None or self._ended.stop is Stop.ASKED
        if goes_on and not (bound and ended_by_bound(self.engine, bound)):
            self.cpu.load()
            if stands_behind_hlt(self.cpu) and (
                self._asked_at is None or halted_after(self.cpu, self._asked_at)
            ):
                self._halted_at = self.cpu.rip

    def _count_down(self, begun: int) -> None:
        """Let a timer's event come where one is due by the number of instructions."""
        if self._until_tick is not None:
            self._until_tick -= begun
            if not self._until_tick:
                self._until_tick = self._tick_every
                self._board.tick()

    def _go_on(self, idle_seconds: float | None) -> None:
        """Before the engine runs: deliver an interrupt that waits; behind a HLT, wait for one."""
        self._take_virtual_interrupt()
        self.cpu.load()
        if self._board.nmi:
            self._take_nmi()
        elif self._halted_at != self.cpu.rip:
            if self._board.requested:
                self._take_interrupt()
        elif not self._interruptible or not self._board.wait():
            self._end(Ended(Stop.HALTED))
        elif idle_seconds is not None and self._idle_for() > idle_seconds:
            self._active = self._board.clock.now
            self._end(Ended(Stop.IDLE))
        else:
            self._take_interrupt()

    def _idle_for(self) -> float:
        """Return the seconds of the guest's time since it last did something."""
        return (self._board.clock.now - self._active) / TSC_HZ

    def _take_interrupt(self) -> None:
        self.cpu.load()
        if not self._interruptible:
            return
        hypervisor = self._own_hypervisor
        if hypervisor is not None and hypervisor.intercepted(Event(0, Kind.INTERRUPT)):
            return  # It stays requested.
        self._deliver(Event(self._board.acknowledge(), Kind.INTERRUPT))

    def _take_nmi(self) -> None:
        """Deliver the NMI that waits, whatever IF is."""
        event = Event(Vector.NMI, Kind.INTERRUPT)
        if self._own_hypervisor is None or not self._own_hypervisor.intercepted(event):
            self._board.acknowledge_nmi()
            self._deliver(event)

    def _take_virtual_interrupt(self) -> None:
        if self._own_hypervisor is not None:
            event = self._own_hypervisor.virtual_interrupt()
            if event is not None:
                self._deliver(event, injected=True)

    def _attend(self) -> None:
        """Have the run end for an interrupt that waits, if the CPU would take it."""
        if self._waits and self._asked_at is None and self._running and self._wants_interrupts():
            self._ask_to_stop()

    @property
    def _waits(self) -> bool:
        """Whether an interrupt waits for the CPU, or a virtual one for its guest."""
        if self._board.requested or self._board.nmi or self.hypervisor is None:
            return self._board.requested or self._board.nmi
        hypervisor = self._own_hypervisor
        return hypervisor is not None and hypervisor.virtual_pending

    @property
    def _interruptible(self) -> bool:
        """Whether the CPU, whose state is loaded, takes external interrupts now."""
        if self._own_hypervisor is None:
            return self.cpu.interruptible
        return interrupts_enabled(self.cpu, rflags_if=bool(self.cpu.rflags & RFlags.IF))

    def _wants_interrupts(self) -> bool:
        """Return whether the CPU takes interrupts, now or behind the instruction that it is at."""
        if self._board.nmi:
            return True
        if self._own_hypervisor is None:
            return bool(self.cpu.rflags & RFlags.IF)
        self.cpu.load()
        return self._interruptible

    def _ask_to_stop(self) -> None:
        """End the engine's run with the block of code that runs."""
        if self._asked_at is None:
            self._asked_at = self._rip()
        self.engine.emu_stop()

    def _interrupt(self, action: Callable[[], None]) -> None:
        """End the engine's run before the next instruction, and do this then; now if none runs."""
        if not self._running:
            action()
            return
        self._deferred.append(action)
        self._ask_to_stop()

    def _map_devices(self) -> None:
        """Map what isn't RAM below 4 GiB; RAM in the place of the APICs is hidden by them."""
        end = self.ram.start + self.ram.size
        start = min(end, IOAPIC_BASE)
        if end > IOAPIC_BASE:
            self.engine.mem_unmap(IOAPIC_BASE, min(end, _HIGHEST) - IOAPIC_BASE)
        self.engine.mmio_map(
            start, _HIGHEST - start, self._on_memory_read, start, self._on_memory_write, start
        )

    def _hook(self) -> None:
        add = self.engine.hook_add
        self._hooks.exceptions(self._on_exception)
        add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid)
        # With such a hook for an address of RAM, Unicorn makes all stores there the slow way.
        mapped = max(self.ram.start + self.ram.size, _HIGHEST)
        add(unicorn.UC_HOOK_MEM_UNMAPPED, self._on_unmapped, None, mapped, _TOP)
        for called, instruction in (
            (self._on_syscall, x86.UC_X86_INS_SYSCALL),
            (self._on_sysenter, x86.UC_X86_INS_SYSENTER),
            (self._on_cpuid, x86.UC_X86_INS_CPUID),
        ):
            add(unicorn.UC_HOOK_INSN, called, None, 1, 0, instruction)
        self._hooks.instead_of(x86.UC_X86_INS_RDTSC, self._on_rdtsc)
        self._hooks.instead_of(x86.UC_X86_INS_RDTSCP, self._on_rdtscp)
        self._hooks.port_reads(self._on_in)
        self._hooks.port_writes(self._on_out)

    def _sent(self, byte: int) -> None:
        self.console.append(byte)
        self._active = self._board.clock.now
        if self.on_console is not None:
            self.on_console()

    def _end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
        if self._running:  # Else the next run would end at once.
            self._ask_to_stop()

    def _left(self, way: WayOut, status: int) -> None:
        if way is WayOut.EXIT:
            ended = Ended(Stop.EXITED, f"with {status >> 1}", status)
        else:
            ended = Ended(Stop.RESET if way is WayOut.RESET else Stop.OFF)
        self.left = self.left or ended
        self._end(ended)

    def _rip(self) -> int:
        return int(self.engine.reg_read(x86.UC_X86_REG_RIP))

    def _note(self, target: Target, address: int, size: int, *, write: bool) -> None:
        self.unanswered.note(target, address, write=write, size=size, rip=self._rip)

    def _asked_msr(self, number: int, write: bool) -> None:  # noqa: FBT001  # as `Msrs` calls it
        self._note(Target.MSR, number, 8, write=write)

    def _on_memory_read(self, _uc: unicorn.Uc, offset: int, size: int, start: int) -> int:
        if self._gives_way():
            return 0
        value = self._board.read_memory(start + offset, size)
        if value is None:
            self._note(Target.MEMORY, start + offset, size, write=False)
            return (1 << 8 * size) - 1
        return value

    def _on_memory_write(
        self, _uc: unicorn.Uc, offset: int, size: int, value: int, start: int
    ) -> None:
        if self._gives_way():
            return
        pa = start + offset
        interruptible = self._running and not self._passing and self._wants_interrupts()
        if interruptible and self._board.is_device(pa):
            self._interrupt(lambda: self._store(pa, size, value))
        else:
            self._write_device(pa, size, value)

    def _write_device(self, pa: int, size: int, value: int) -> None:
        if not self._board.write_memory(pa, size, value):
            self._note(Target.MEMORY, pa, size, write=True)

    def _store(self, pa: int, size: int, value: int) -> None:
        """Do the store to a device before which the run was ended, so that it ends behind it.

        Only a MOV is all done then; another instruction is left to the CPU.
        """
        self.cpu.load()
        length = length_of_store(self.cpu, size)
        self._passing = not length
        if length:
            self._write_device(pa, size, value)
            self.cpu.skip(length)
            self.cpu.end_shadow()
            self.cpu.store()

    def _gives_way(self) -> bool:
        """Let an access to a device's memory take its time; return whether an interrupt is first.

        Asked to stop in such an access, Unicorn goes back to the instruction's beginning.
        """
        self._board.spend()
        if self._asked_at is None and self._waits:
            self.cpu.load()
            if self._board.nmi or self._interruptible:
                self._ask_to_stop()
        return self._asked_at is not None

    def _on_unmapped(
        self, _uc: unicorn.Uc, kind: int, address: int, size: int, _value: int, _data: object
    ) -> bool:
        """Note an access beyond all that is mapped, which ends the run."""
        self._note(Target.MEMORY, address, size, write=kind == unicorn.UC_MEM_WRITE_UNMAPPED)
        verb = _VERBS[kind]
        self._end(Ended(Stop.STUCK, f"{verb} physical address {address:#x}, where nothing is"))
        return False

    def _on_in(self, port: int, size: int) -> int:
        board = self._board
        board.spend()
        if not board.ports.answers(port):
            self._note(Target.PORT, port, size, write=False)
        value = board.read_port(port, size)
        self._attend()
        return value

    def _on_out(self, port: int, size: int, value: int) -> None:
        board = self._board
        board.spend()
        if not board.ports.answers(port):
            self._note(Target.PORT, port, size, write=True)
        board.write_port(port, size, value)
        self._attend()

    def _on_cpuid(self, uc: unicorn.Uc, _data: object) -> int:
        return int(answer_cpuid(uc, self._model, apic=self._board.apic_enabled))

    def _on_rdtsc(self) -> None:
        stamp = self._board.stamp()
        self._put_rax(stamp & 0xFFFF_FFFF)
        self._put_rdx(stamp >> 32)
        self._attend()

    def _on_rdtscp(self) -> None:
        self._on_rdtsc()
        self._put_rcx(self.cpu.msr(MSR.TSC_AUX) & 0xFFFF_FFFF)

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
                self.cpu.rip -= length  # As in `enter_syscall`.
        else:
            self._called()

    def _on_exception(self, vector: int) -> None:
        if vector >= FIRST_EXIT and self.on_exit is not None:
            self.on_exit(vector)  # For the guest of a host, no time passes in the host.
            return
        self._take_exception(vector)
        self._board.spend()
        self._attend()

    def _take_exception(self, vector: int) -> None:
        code = self.intercepts.exit_code(vector)
        if code is not None:
            self._on_intercept(code)
            return
        hypervisor = self._own_hypervisor
        if hypervisor is not None and vector >= FIRST_EXIT:
            hypervisor.left(vector)
            self.intercepts.renew()
            return
        injected = hypervisor.injected(vector) if hypervisor is not None else None
        if injected is not None:
            self._deliver(injected, injected=True)
        else:
            self._deliver(raised(self.cpu, vector), loaded=hypervisor is None)

    @property
    def _own_hypervisor(self) -> GuestHypervisor | None:
        """What the CPU does for a hypervisor that runs as the guest, if its exits are the CPU's."""
        return self.hypervisor if self.on_exit is None else None

    def _on_intercept(self, code: int) -> None:
        try:
            known = any(
                each.carry_out(code) for each in (self._control, self._msrs, self._task_priority)
            )
        except Fault as fault:
            self._deliver(fault.event)
        except NotEmulated as missing:
            self._end(Ended(Stop.NOT_EMULATED, str(missing)))
        else:
            if not known:
                self._end(Ended(Stop.STUCK, f"{exit_name(code)} intercepted, and by nothing"))
            elif self._own_hypervisor is not None:
                self.cpu.load()
                self._own_hypervisor.entering(self.cpu.linear(self.cpu.rip))
            self._attend()

    def _on_invalid(self, _uc: unicorn.Uc, _data: object) -> bool:
        hypervisor = self._own_hypervisor
        if hypervisor is None or not hypervisor.retries():
            self._deliver(Event(Vector.UD, Kind.EXCEPTION))
        return True

    def _deliver(self, event: Event, *, injected: bool = False, loaded: bool = False) -> None:
        """Have an event's handler entered, or what becomes of it; `injected` is one by VMRUN.

        `loaded` says that the state of the CPU has just been taken over.
        """
        hypervisor = self._own_hypervisor
        if hypervisor is not None:
            if not injected and hypervisor.intercepted(event):
                return
            hypervisor.foresee()
        if not loaded:
            self.cpu.load()
        rip, cpl = self.cpu.rip, self.cpu.cpl
        try:
            delivered = deliver(self.cpu, event, loaded=True)
        except TripleFault as fault:
            if hypervisor is not None and hypervisor.shut_down():
                self.intercepts.renew()
                return
            delivered = [event]
            self._end(Ended(Stop.SHUTDOWN, str(fault)))
        except NotEmulated as missing:
            self._end(Ended(Stop.NOT_EMULATED, str(missing)))
            return
        except Guarded as refusal:
            if hypervisor is None or not hypervisor.refused(refusal):
                self._end(Ended(Stop.REFUSED, str(refusal)))
            return
        self._entered(delivered, rip, cpl)

    def _entered(self, delivered: list[Event], rip: int, cpl: int) -> None:
        """Note what was delivered at this RIP and CPL: the handler of the last event runs."""
        if self._own_hypervisor is not None:
            self._own_hypervisor.entering(self.cpu.linear(self.cpu.rip))
        for each in delivered:
            cr2 = self.cpu.cr2 if each.vector == _PAGE_FAULT else None
            self.events.append(Delivered(each, rip, cpl, cr2, self.cpu.protected))
            self.counts[each.vector, each.kind] += 1
        event = delivered[0]
        called = event.kind is _SOFTWARE and event.vector not in _TRAPS and cpl == _USER
        if called and len(delivered) == 1:
            self._called()

    def _called(self) -> None:
        """Count a system call that has just been made."""
        self.system_calls += 1
        self._active = self._board.clock.now
        if self.on_system_call is not None:
            self.on_system_call()
