"""A guest's own hypervisor: the parts of SVM that Unicorn leaves undone.

Unicorn executes VMRUN, checks what a guest does against the intercepts and the nested tables, and
reports an exit to the hook of exceptions; there it stays in guest mode. What #VMEXIT does is done
here: the guest's state goes into its VMCB, the host's comes back, and the CPU goes on behind the
VMRUN. So is what VMRUN has to refuse, and the events that it injects, for every VMRUN but the first
at its place: the exit after that shows where to look.

Source: AMD APM vol. 2, "VMRUN Instruction", "#VMEXIT", "Canonicalization and Consistency Checks",
"Event Injection", "Intercepts During IDT Interrupt Delivery", "Injecting Virtual (INTR)
Interrupts", "Nested Paging".
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu, Guarded
from crosswalk.emu.cpu.events import WITH_ERROR_CODE, Event, Kind
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.entry_checks import refusal
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT, ExitCode
from crosswalk.emu.cpu.svm.guest_mode import GuestMode, clear_gif, guest_mode, leave_guest_mode
from crosswalk.emu.cpu.svm.memory_operands import accesses
from crosswalk.emu.cpu.svm.nested_walk import (
    FINAL,
    TABLE,
    Access,
    NestedFault,
    Tables,
    linear_to_system,
    nested_fault,
)
from crosswalk.emu.cpu.svm.ports import port_access
from crosswalk.emu.cpu.svm.vmcb import VMCB_SEGMENTS, General, Interrupts, Vmcb
from crosswalk.emu.cpu.svm.watched_code import VMRUN, WatchedCode
from crosswalk.walker.architecture import CR0, CR4, EFER, MSR, RFlags, Vector
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import ErrorCode

__all__ = ["ControlRegisters", "GuestHypervisor", "NestedRoot", "SvmFailure"]

# VMRUN, VMLOAD, VMSAVE, STGI, CLGI, INVLPGA: invalid without EFER.SVME, and never with it.
_ONLY_SVME = {VMRUN[:2] + bytes([last]) for last in (0xD8, 0xDA, 0xDB, 0xDC, 0xDD, 0xDF)}
_INVALID = (1 << 64) - 1
_VALID, _KIND, _HAS_ERROR, _ERROR = 1 << 31, 7 << 8, 1 << 11, 32
_EXTERNAL, _NMI, _EXCEPTION, _SOFTWARE = 0 << 8, 2 << 8, 3 << 8, 4 << 8
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "dr6", "dr7")
_NO_BREAKPOINTS = 0x400
_V_PRIORITY, _V_VECTOR = 16, 32
_CODE_BYTES, _USER, _TOP = 15, 3, (1 << 64) - 1
_KINDS = {
    _EXTERNAL: Kind.INTERRUPT,
    _NMI: Kind.INTERRUPT,
    _EXCEPTION: Kind.EXCEPTION,
    _SOFTWARE: Kind.SOFTWARE,
}


class SvmFailure(CrosswalkError):
    """A guest's hypervisor asked for what isn't done here, or Unicorn showed something unknown."""


class _NestedExit(Guarded):
    """The delivery of an event would meet a nested page fault."""

    def __init__(self, fault: NestedFault) -> None:
        super().__init__(f"nested page fault at {fault.gpa:#x}")
        self.fault = fault


class _Intercepted(Guarded):
    """The delivery of an event raised another one, which the guest's host intercepts."""

    def __init__(self, event: Event) -> None:
        super().__init__(f"vector {event.vector} is intercepted")
        self.event = event


class ControlRegisters(NamedTuple):
    """The registers that select paging."""

    cr0: int
    cr3: int
    cr4: int
    efer: int


@dataclass(frozen=True, slots=True)
class NestedRoot:
    """The nested tables of the guest that a hypervisor ran last, and both sides' registers.

    `vmcb` is the physical address of its VMCB. `host` are the hypervisor's registers at VMRUN;
    those of the guest are of now where it runs (`running`), else of its last exit.
    """

    vmcb: int
    nested_cr3: int
    running: bool
    guest: ControlRegisters
    host: ControlRegisters


class GuestHypervisor:
    """What `cpu`, with `ram`, does for a hypervisor that runs on it as the guest.

    `interrupt` ends the run before the next instruction, has its argument called, and goes on.
    `exits` counts exits by code, -1 for a VMRUN that was refused.

    Methods raise `SvmFailure` where the guest's hypervisor wants what isn't done here.
    """

    def __init__(self, cpu: Cpu, ram: Ram, interrupt: Callable[[Callable[[], None]], None]) -> None:
        self.exits: Counter[int] = Counter()
        self._cpu, self._ram, self._interrupt = cpu, ram, interrupt
        self._watched: WatchedCode | None = None
        self._pending: tuple[Vmcb, int, Event] | None = None
        self._virtual: int | None = None  # The vector of an interrupt that is pending.
        self._last: GuestMode | None = None

    def entering(self, va: int) -> None:
        """Look for VMRUN from now on, and in the block of code at `va`, where a run starts."""
        if self._watched is None:
            self._watched = WatchedCode(
                self._cpu, self._code, self._interrupt, self._on_vmrun, self._on_port
            )
        self._watched.entering(va)

    def left(self, number: int) -> None:
        """Do the #VMEXIT of the number that Unicorn's hook of exceptions got."""
        mode = self._mode()
        code, info = number - FIRST_EXIT, self._cpu.error_code & 0xFFFF_FFFF
        if mode is None:
            raise SvmFailure(f"exit {code:#x} where no guest runs")
        if code == ExitCode.NPF:
            info = self._nested_info(mode, info)
        self._exit(mode, code, info)

    def injected(self, vector: int) -> Event | None:
        """Return the event that VMRUN has just injected, if that is what the hook got."""
        if self._pending is None:
            return None
        (vmcb, vmcb_word, event), self._pending = self._pending, None
        vmcb["entry_event"] = vmcb_word
        if event.vector != vector:
            raise SvmFailure(f"vector {vector} came where {event.vector} was injected")
        return event

    def retries(self) -> bool:
        """Return whether the instruction at RIP, found invalid, is valid by now.

        Unicorn translates what follows a WRMSR to EFER together with it, by the SVME of before.
        """
        cpu = self._cpu
        cpu.load()
        if not (cpu.efer & EFER.SVME and cpu.protected):
            return False
        rip = cpu.linear(cpu.rip)
        if self._code(rip, len(VMRUN))[0] not in _ONLY_SVME:
            return False
        self.entering(rip)
        return True

    def foresee(self) -> None:
        """Have a delivery that follows end in an exit where it has to, and only in a guest's."""
        mode = self._mode()
        self._cpu.guard = self._cpu.intercept = None
        if mode is None:
            return

        def intercept(event: Event, _during: Event) -> None:
            if event.kind is Kind.EXCEPTION and mode.exceptions >> event.vector & 1:
                raise _Intercepted(event)

        self._cpu.intercept = intercept
        if mode.nested_cr3 is None:
            return
        guest, nested = self._guest_tables(), self._nested_tables(mode)

        def check(va: int, write: bool) -> None:  # noqa: FBT001  # as `Cpu.guard` is called
            access = Access.WRITE if write else Access.READ
            fault = nested_fault(self._word, guest, nested, va, access)
            if fault is not None:
                raise _NestedExit(fault)

        self._cpu.guard = check

    def refused(self, why: Guarded) -> bool:
        """Do the #VMEXIT that ended an event's delivery; return False if it wasn't one."""
        mode, event = self._mode(), why.during
        if mode is None or event is None or not isinstance(why, _NestedExit | _Intercepted):
            return False
        if event.kind is Kind.SOFTWARE:
            with self._cpu.changed():  # The INT is to be executed once more.
                self._cpu.skip(-event.length)
        if isinstance(why, _Intercepted):
            return self.intercepted(why.event, event)
        self._vmcb(mode)["exit_info_2"] = why.fault.gpa
        self._exit(mode, ExitCode.NPF, why.fault.info, _interrupted(event))
        return True

    def intercepted(self, event: Event, during: Event | None = None) -> bool:
        """Do the #VMEXIT of an event that comes of another one's delivery, or from outside.

        Return False where it is no exit: no guest runs, or its host wants none.
        """
        mode = self._mode()
        if mode is None:
            return False
        code = _exit_code(event)
        if event.kind is Kind.EXCEPTION:
            wanted = bool(mode.exceptions >> event.vector & 1)
        else:
            wanted = bool(mode.general & (1 << code - ExitCode.INTR))
        if not wanted:
            return False
        if event.vector == Vector.PF and event.cr2 is not None:
            self._vmcb(mode)["exit_info_2"] = event.cr2
        self._exit(mode, code, event.error_code, 0 if during is None else _interrupted(during))
        return True

    def shut_down(self) -> bool:
        """Do the #VMEXIT of a guest's shutdown; return False where that is none."""
        mode = self._mode()
        if mode is None or not mode.general & General.SHUTDOWN:
            return False
        self._exit(mode, ExitCode.SHUTDOWN, 0)
        return True

    @property
    def nested_root(self) -> NestedRoot | None:
        """The nested tables in use, or used last; None where no VMRUN with nested paging was."""
        mode = self._mode()
        running = mode is not None
        mode = self._last if mode is None else mode
        if mode is None or mode.nested_cr3 is None:
            return None
        cpu = self._cpu
        read = cpu.engine.reg_read
        saved = _block(self._ram, cpu.msr(MSR.VM_HSAVE_PA))
        vmcb = self._vmcb(mode)
        guest = _registers(vmcb)
        if running:
            guest = ControlRegisters(cpu.cr0, read(x86.UC_X86_REG_CR3), cpu.cr4, cpu.efer)
        return NestedRoot(mode.vmcb, mode.nested_cr3, running, guest, _registers(saved))

    def _mode(self) -> GuestMode | None:
        self._cpu.load()
        return guest_mode(self._cpu)

    def _vmcb(self, mode: GuestMode) -> Vmcb:
        return _block(self._ram, mode.vmcb)

    def _exit(self, mode: GuestMode, code: int, info_1: int, event: int = 0) -> None:
        """Leave the guest: save it, report why, and go on with the host."""
        cpu, vmcb = self._cpu, self._vmcb(mode)
        self._save_guest(vmcb, mode)
        leave_guest_mode(cpu)
        cpu.forget_exception()
        cpu.store()
        for name, number in (("efer", MSR.EFER), ("pat", MSR.PAT)):
            if name == "efer" or mode.nested_cr3 is not None:
                vmcb[name] = cpu.engine.reg_read(x86.UC_X86_REG_MSR, number)
        vmcb["exit_code"], vmcb["exit_info_1"], vmcb["exit_event"] = code, info_1, event
        vmcb["entry_event"] &= ~_VALID
        self.exits[code] += 1
        self._last = mode
        self._load_host()

    def _save_guest(self, vmcb: Vmcb, mode: GuestMode) -> None:
        cpu, read = self._cpu, self._cpu.engine.reg_read
        for name in VMCB_SEGMENTS:
            vmcb.set_segment(name, cpu.segment(name))
        for name in _CONTROL:
            vmcb[name] = read(getattr(x86, f"UC_X86_REG_{name.upper()}"))
        vmcb["rflags"], vmcb["rip"], vmcb["rsp"] = cpu.rflags, cpu.rip, cpu.rsp
        vmcb["rax"], vmcb["cpl"] = cpu.general(0), cpu.cpl
        vmcb["shadow"] = int(mode.shadow)
        vmcb["interrupts"] = _with_tpr(vmcb["interrupts"], mode)
        self._keep_virtual(vmcb)

    def _load_host(self) -> None:
        """Load what VMRUN saved of the host; the CPU isn't in guest mode any more."""
        cpu, write = self._cpu, self._cpu.engine.reg_write
        saved = _block(self._ram, cpu.engine.reg_read(x86.UC_X86_REG_MSR, MSR.VM_HSAVE_PA))
        # Without paging first: that is what makes the mode be found anew.
        write(x86.UC_X86_REG_CR0, int(CR0.PE))
        write(x86.UC_X86_REG_MSR, (MSR.EFER, saved["efer"]))
        write(x86.UC_X86_REG_CR4, saved["cr4"])
        write(x86.UC_X86_REG_CR3, saved["cr3"])
        write(x86.UC_X86_REG_CR0, saved["cr0"] | CR0.PE)
        write(x86.UC_X86_REG_DR7, _NO_BREAKPOINTS)
        with cpu.changed():
            for name in VMCB_SEGMENTS:
                cpu.set_segment(name, saved.segment(name))
            cpu.enter(saved.segment("cs"), 0)
            cpu.rip, cpu.rsp = saved["rip"], saved["rsp"]
            cpu.set_general(0, saved["rax"])
        cpu.rflags = saved["rflags"] & ~RFlags.VM
        cpu.guard = cpu.intercept = None
        cpu.engine.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    # VMRUN.

    def _on_vmrun(self, va: int) -> None:
        cpu = self._cpu
        if self._mode() is not None or cpu.cpl or not cpu.efer & EFER.SVME:
            return  # An exit by itself, or an exception.
        if self._code(va, len(VMRUN))[0] != VMRUN:
            return
        try:
            vmcb = _block(self._ram, cpu.general(0))
        except SvmFailure:
            return  # Told at the exit.
        if refusal(vmcb, cpu.cr0) is not None:
            self._interrupt(lambda: self._turned_back(vmcb, _INVALID))
            return
        self._virtual = self._virtual_interrupt(vmcb)
        self._pending = self._injection(vmcb)
        if (
            self._virtual is None
            or self._pending
            or not self._takes_virtual(
                vmcb["rflags"], vmcb["interrupts"], shadow=bool(vmcb["shadow"] & 1)
            )
        ):
            return
        if vmcb["general"] & General.VINTR:
            self._interrupt(lambda: self._turned_back(vmcb, ExitCode.VINTR))
            return
        event = vmcb["entry_event"]
        self._pending = vmcb, event, Event(self._virtual, Kind.INTERRUPT)
        vmcb["entry_event"] = self._virtual | _EXCEPTION | _VALID
        self._virtual = None

    def _turned_back(self, vmcb: Vmcb, code: int) -> None:
        """End a VMRUN that isn't executed: the exit changes nothing of the guest's state."""
        vmcb["exit_code"], vmcb["exit_info_1"], vmcb["exit_info_2"] = code, 0, 0
        vmcb["exit_event"] = 0
        vmcb["entry_event"] &= ~_VALID
        self._keep_virtual(vmcb)
        with self._cpu.changed():
            self._cpu.skip(len(VMRUN))
            clear_gif(self._cpu)
        self.exits[-1 if code == _INVALID else code] += 1

    def _injection(self, vmcb: Vmcb) -> tuple[Vmcb, int, Event] | None:
        """Return what VMRUN is to inject, its VMCB and word there, and have it come to the hook."""
        word = vmcb["entry_event"]
        if not word & _VALID:
            return None
        kind = word & _KIND
        if kind == _EXTERNAL:
            # Unicorn would deliver it by itself, with nobody told.
            vmcb["entry_event"] = word & ~_KIND | _EXCEPTION
        return vmcb, word, _event(word)

    # Virtual interrupts.

    @property
    def virtual_pending(self) -> bool:
        """Whether a guest has a virtual interrupt to take."""
        return self._virtual is not None

    def virtual_interrupt(self) -> Event | None:
        """Return the virtual interrupt that a guest takes now, to be delivered.

        None where there is none, and where taking it is an exit, which is done.
        """
        mode, vector = self._mode(), self._virtual
        if mode is None or vector is None:
            return None
        word = _with_tpr(self._vmcb(mode)["interrupts"], mode)
        if not self._takes_virtual(self._cpu.rflags, word, shadow=mode.shadow):
            return None
        if mode.general & General.VINTR:
            self._exit(mode, ExitCode.VINTR, 0)
            return None
        self._virtual = None
        return Event(vector, Kind.INTERRUPT)

    def _virtual_interrupt(self, vmcb: Vmcb) -> int | None:
        """Return the vector of a pending one, and take it away from Unicorn.

        That would take it only where no exit comes first, and keeps it for the host otherwise.
        """
        word = vmcb["interrupts"]
        # A flag's own complement has no bits above those that have a name: the vector's.
        vmcb["interrupts"] = word & ~int(Interrupts.V_IRQ)
        return word >> _V_VECTOR & 0xFF if word & Interrupts.V_IRQ else None

    @staticmethod
    def _takes_virtual(rflags: int, word: int, *, shadow: bool) -> bool:
        priority = (word >> _V_PRIORITY & 0xF) > (word & 0xF) or bool(word & Interrupts.V_IGN_TPR)
        return priority and not shadow and bool(rflags & RFlags.IF)

    def _keep_virtual(self, vmcb: Vmcb) -> None:
        """Tell the host of a virtual interrupt that its guest hasn't taken."""
        if self._virtual is not None:
            vmcb["interrupts"] |= Interrupts.V_IRQ
            self._virtual = None

    # Ports.

    def _on_port(self, va: int) -> None:
        cpu, mode = self._cpu, self._mode()
        if mode is None or not mode.general & General.IOIO or va != cpu.linear(cpu.rip):
            return
        access = port_access(cpu, self._code(va, _CODE_BYTES)[0])
        if access is None:
            return
        vmcb = self._vmcb(mode)
        if any(
            self._word((vmcb["io_map"] & ~(FRAME - 1)) + port // 8, 1) >> port % 8 & 1
            for port in range(access.port, access.port + access.size)
        ):
            self._interrupt(lambda: self._port_exit(access.info, access.length))

    def _port_exit(self, info: int, length: int) -> None:
        mode = self._mode()
        if mode is not None:
            self._vmcb(mode)["exit_info_2"] = self._cpu.rip + length
            self._exit(mode, ExitCode.IOIO, info)

    # Nested page faults.

    def _nested_info(self, mode: GuestMode, info: int) -> int:
        """Return EXITINFO1 of a nested page fault, of which Unicorn has the lower half.

        A walk of the guest's tables counts as a write. So where a write was refused, the accesses
        of the instruction are looked at for the one that meets this fault.
        """
        if not info & ErrorCode.WR:
            return info | FINAL
        gpa = self._vmcb(mode)["exit_info_2"]
        guest, nested = self._guest_tables(), self._nested_tables(mode)
        cpu = self._cpu
        code, _ = self._code(cpu.linear(cpu.rip), _CODE_BYTES)
        written = False
        for va, access in accesses(cpu, code):
            fault = nested_fault(self._word, guest, nested, va, access, user=cpu.cpl == _USER)
            if fault is not None and fault.gpa == gpa:
                return info | fault.info & (FINAL | TABLE)
            written = written or access is Access.WRITE
        return info | (FINAL if written else TABLE)

    def _code(self, va: int, size: int) -> tuple[bytes, bool]:
        """Return up to `size` bytes at a linear address, and whether a guest runs.

        The state of the CPU is loaded; it doesn't walk for them where a guest's walk may end in an
        exit.
        """
        mode = guest_mode(self._cpu)
        if mode is None or mode.nested_cr3 is None:
            return self._cpu.read(va, size) or b"", mode is not None
        guest, nested = self._guest_tables(), self._nested_tables(mode)
        found = b""
        while len(found) < size:
            at = va + len(found) & _TOP
            pa = linear_to_system(self._word, guest, nested, at)
            if pa is None:
                break
            part = min(size - len(found), FRAME - at % FRAME)
            found += self._word(pa, part).to_bytes(part, "little")
        return found, True

    def _word(self, pa: int, size: int) -> int:
        """Return so many bytes of memory; where there is no RAM, all bits are ones."""
        start, end = self._ram.start, self._ram.start + self._ram.size
        if not start <= pa <= end - size:
            return (1 << 8 * size) - 1
        return int.from_bytes(self._ram.read(pa, size), "little")

    def _nested_tables(self, mode: GuestMode) -> Tables:
        # Whether entries of 4 bytes may be large Unicorn takes from the guest's CR4.
        pse = bool(self._cpu.cr4 & CR4.PSE)
        root = mode.nested_cr3 or 0
        return Tables.nested(root, pae=mode.pae, long=mode.long, nxe=mode.nxe, pse=pse)

    def _guest_tables(self) -> Tables:
        cpu = self._cpu
        cr3 = cpu.engine.reg_read(x86.UC_X86_REG_CR3)
        return Tables.of(cpu.cr0, cr3, cpu.cr4, cpu.efer)


def _registers(block: Vmcb) -> ControlRegisters:
    return ControlRegisters(*(block[name] for name in ControlRegisters._fields))


def _block(ram: Ram, pa: int) -> Vmcb:
    try:
        return Vmcb(ram, pa)
    except BadInput as error:
        raise SvmFailure(str(error)) from None


def _with_tpr(word: int, mode: GuestMode) -> int:
    """Return the word of a VMCB for virtual interrupts with V_TPR as it is now.

    Only with V_INTR_MASKING does its guest write it, by CR8, and does Unicorn take it over.

    Source: AMD APM vol. 2, "Injecting Virtual (INTR) Interrupts".
    """
    return word & ~0xF | mode.v_tpr & 0xF if word & Interrupts.V_INTR_MASKING else word


def _event(word: int) -> Event:
    """Return the event of a VMCB's word; an INT's has no length, as RIP is behind it."""
    error_code = word >> _ERROR if word & _HAS_ERROR else 0
    return Event(word & 0xFF, _KINDS[word & _KIND], error_code)


def _interrupted(event: Event) -> int:
    """Return the word of a VMCB for an event whose delivery an exit ended."""
    if event.kind is Kind.INTERRUPT:
        return event.vector | _VALID | (_NMI if event.vector == Vector.NMI else _EXTERNAL)
    if event.kind is Kind.SOFTWARE and event.length != 1:
        return event.vector | _VALID | _SOFTWARE
    # INT3 and INTO count as exceptions here.
    error = _HAS_ERROR | event.error_code << _ERROR if event.vector in WITH_ERROR_CODE else 0
    return event.vector | _VALID | _EXCEPTION | error


def _exit_code(event: Event) -> int:
    if event.kind is Kind.EXCEPTION:
        return 0x40 + event.vector
    if event.kind is Kind.SOFTWARE:
        return ExitCode.SWINT
    return ExitCode.NMI if event.vector == Vector.NMI else ExitCode.INTR
