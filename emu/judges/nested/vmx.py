"""Intel's VMX with EPT, as a machine has it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.code import SYSCALL_AT
from crosswalk.emu.judges.nested.outcomes import Left
from crosswalk.emu.judges.nested.workspace import QUIET_ROOT
from crosswalk.emu.monitor.guest import long_mode
from crosswalk.emu.monitor.monitor import Greeting
from crosswalk.emu.monitor.vmx import (
    CAPABILITY_MSRS,
    REASON_FAILED_ENTRY,
    Capabilities,
    Controls,
    ExitReason,
    Field,
    Primary,
    Secondary,
    reason_name,
)
from crosswalk.guest.monitor.commands import (
    REGISTERS,
    Answer,
    Command,
    RunFlag,
    Status,
    cpuid,
    read_msr,
    run,
    set_registers,
    vmx_on,
    write_fields,
    write_msr,
)
from crosswalk.walker.architecture import CR4, EFER, MSR, Vector
from crosswalk.walker.context import Vendor
from crosswalk.walker.nested.context import EptCapability, EptContext, NestedContext
from crosswalk.walker.nested.ept import EptEntry
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation, Qualification

__all__ = ["EptEntries", "Vmx"]

_WIDTHS, _FEATURES, _BASICS = (0x8000_0008, 0), (0x8000_0001, 0), (1, 0)
_HAS_1G, _HAS_VMX = 1 << 26, 1 << 5
_ALL = 0xFFFF_FFFF
_WRITE_BACK = 6 << 3
_USED = EptEntry.R | EptEntry.X | EptEntry.XU | EptEntry.A
_CODE, _DATA = 0xA09B, 0xC093
# SYSCALL's CS and SS, then the base of SYSRET's.
_STAR = 0x10 << 32 | 0x18 << 48
_PRIMARY = (
    Primary.SECONDARY
    | Primary.HLT_EXITING
    | Primary.INVLPG_EXITING
    | Primary.RDTSC_EXITING
    | Primary.CR8_LOAD_EXITING
    | Primary.CR8_STORE_EXITING
    | Primary.MOV_DR_EXITING
    | Primary.IO_EXITING
)
"""What instructions of no mark may do is an exit; MOV to CR3 is none."""
_FIELDS = (
    Field.EXIT_REASON,
    Field.QUALIFICATION,
    Field.GUEST_PHYSICAL_ADDRESS,
    Field.GUEST_LINEAR_ADDRESS,
    Field.EXIT_EVENT,
    Field.EXIT_EVENT_ERROR,
    Field.RIP,
)


class EptEntries:
    """Entries of EPT."""

    def table(self, pa: int) -> int:
        """Return an entry that leads to a table."""
        return pa | int(_USED | EptEntry.W)

    def page(self, pa: int, *, writable: bool) -> int:
        """Return an entry of the last level, of write-back memory."""
        return pa | _WRITE_BACK | int(_USED | EptEntry.D | (EptEntry.W if writable else 0))


class Vmx:
    """VMX with EPT, whose VMCS the monitor has."""

    keeps_code = True
    enters_anywhere = False

    def __init__(self) -> None:
        self.form = EptEntries()
        self._cpu: Capabilities | None = None
        self._width, self._page1gb, self._cr3 = 40, True, 0

    @property
    def version(self) -> str:
        """What CPU it is."""
        return f"VMX, {self._width} bits"

    def began(self, greeting: Greeting) -> list[Command]:  # noqa: ARG002  # VMX needs no place.
        """Return what asks for the CPU, and enters VMX operation."""
        return [
            cpuid(_WIDTHS, _FEATURES, _BASICS),
            vmx_on().may_fail(),
            read_msr(*CAPABILITY_MSRS.values()).may_fail(),
            write_msr([(MSR.STAR, _STAR), (MSR.LSTAR, SYSCALL_AT), (MSR.FMASK, 0)]),
        ]

    def learn(self, answers: Sequence[Answer]) -> None:
        """Take what the CPU has."""
        leaves, entered, found, _ = answers
        widths, _, _, features, _, basics = leaves.words
        self._width, self._page1gb = widths & 0xFF, bool(features >> 32 & _HAS_1G)
        self._cpu = None
        if basics & _HAS_VMX and entered.status is found.status is Status.OK:
            self._cpu = Capabilities(**dict(zip(CAPABILITY_MSRS, found.words, strict=True)))

    def refuses(self, context: NestedContext) -> Reason | None:
        """Return why a context can't be had, or None."""
        host, cpu, text = context.host, self._cpu, ""
        if not isinstance(host, EptContext):
            text = "the CPU has EPT, not AMD's nested paging"
        elif cpu is None:
            text = "the CPU has no VMX"
        elif context.guest.levels != 4 or host.levels != 4:
            text = "5-level paging under EPT, and 5-level EPT"
        elif context.guest.pke:
            text = "protection keys under EPT"
        elif host.mbec and not cpu.mbec:
            text = "the CPU has no mode-based execute control for EPT"
        elif host.accessed_dirty and not self._capabilities & EptCapability.ACCESSED_DIRTY:
            text = "the CPU's EPT has no accessed and dirty flags"
        return Reason(Unjudged.NOT_SHOWN, text) if text else None

    @property
    def _capabilities(self) -> EptCapability:
        value = 0 if self._cpu is None else self._cpu.ept_vpid
        return EptCapability(value & int(sum(EptCapability)))

    def met(self, context: NestedContext) -> NestedContext:
        """Return a context with this CPU's width, 1-GiB pages and EPT capabilities.

        CR4.PGE is set: without it the TLB would not keep the code that accesses.
        """
        guest = replace(
            context.guest,
            cr4=context.guest.cr4 | int(CR4.PGE),
            maxphyaddr=self._width,
            page1gb=self._page1gb,
            vendor=Vendor.INTEL,
        )
        host = replace(context.ept, maxphyaddr=self._width, capabilities=self._capabilities)
        return NestedContext(guest, host)

    def host_root(self, context: NestedContext) -> int:
        """Return the first table of the EPT."""
        return context.ept.root

    def enter(self, context: NestedContext) -> list[Command]:
        """Return what writes all fields that accesses leave alone."""
        self._cr3 = context.guest.cr3
        assert self._cpu is not None  # noqa: S101  # Else the context was refused.
        secondary = Secondary.EPT
        if self._cpu.secondary >> 32 & Secondary.DESCRIPTOR_TABLE_EXITING:
            secondary |= Secondary.DESCRIPTOR_TABLE_EXITING
        if context.ept.mbec:
            secondary |= Secondary.MODE_BASED_EXECUTE
        guest = replace(context.guest, efer=context.guest.efer | int(EFER.SCE))
        fields = {
            **long_mode(guest, self._cpu, rip=0),
            **Controls(primary=_PRIMARY, secondary=secondary).fields(self._cpu),
            Field.EXCEPTION_BITMAP: _ALL,
            Field.EPTP: context.ept.eptp,
        }
        return [write_fields(fields.items())]

    def run(
        self, rip: int, cpl: int, *, quiet: bool, rflags: int, registers: Mapping[str, int]
    ) -> list[Command]:
        """Return what runs the guest until it is left."""
        fields = {
            Field.RIP: rip,
            Field.RSP: registers.get("rsp", 0),
            Field.RFLAGS: rflags,
            Field.CR3: QUIET_ROOT if quiet else self._cr3,
            Field.CS_SELECTOR: 0x10 | cpl,
            Field.CS_RIGHTS: _CODE | cpl << 5,
            Field.SS_SELECTOR: 0x18 | cpl,
            Field.SS_RIGHTS: _DATA | cpl << 5,
            Field.INTERRUPTIBILITY: 0,
            Field.PENDING_DEBUG: 0,
            Field.ACTIVITY: 0,
        }
        return [
            write_fields(fields.items()),
            set_registers([registers.get(name, 0) for name in REGISTERS]),
            run(_FIELDS, RunFlag.INVEPT),
        ]

    def left(self, answer: Answer) -> Left:
        """Return how the guest was left."""
        *registers, _handled = answer.words[: len(REGISTERS) + 1]
        reason, qualification, gpa, gla, event, error, rip = answer.words[len(REGISTERS) + 1 :]
        rax, rsi = (registers[REGISTERS.index(name)] for name in ("rax", "rsi"))
        left = Left(rip, rax, rsi, what=reason_name(reason & 0xFFFF))
        if reason & REASON_FAILED_ENTRY:
            return replace(left, other=f"the guest isn't entered: {left.what}")
        match reason & 0xFFFF:
            case ExitReason.EXCEPTION:
                vector = event & 0xFF
                address = qualification if vector == Vector.PF else 0
                return replace(left, vector=vector, error_code=error, address=address)
            case ExitReason.EPT_VIOLATION:
                linear = gla if qualification & Qualification.GLA_VALID else 0
                return replace(left, fault=EptViolation(qualification, gpa, linear))
            case ExitReason.EPT_MISCONFIGURATION:
                return replace(left, fault=EptMisconfiguration(gpa))
            case ExitReason.TRIPLE_FAULT:
                return replace(left, other="the guest shuts down")
        return left
