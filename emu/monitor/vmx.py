"""VMX as data: fields of the VMCS, controls, what a CPU can, exit reasons; no decisions.

Source: Intel SDM vol. 3D, "Field Encoding in VMCS", "VMX Capability Reporting Facility", "VMX Basic
Exit Reasons"; vol. 3C, "VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control
Fields".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from crosswalk.walker.errors import BadInput

__all__ = [
    "CAPABILITY_MSRS",
    "REASON_FAILED_ENTRY",
    "Capabilities",
    "Controls",
    "EntryControl",
    "ExitControl",
    "ExitReason",
    "Field",
    "Pin",
    "Primary",
    "Secondary",
    "msr_bit",
    "reason_name",
]


class Field(IntEnum):
    """Fields of the VMCS, by encoding; the host's are the monitor's."""

    VPID = 0x0000

    ES_SELECTOR = 0x0800
    CS_SELECTOR = 0x0802
    SS_SELECTOR = 0x0804
    DS_SELECTOR = 0x0806
    FS_SELECTOR = 0x0808
    GS_SELECTOR = 0x080A
    LDTR_SELECTOR = 0x080C
    TR_SELECTOR = 0x080E

    IO_BITMAP_A = 0x2000
    IO_BITMAP_B = 0x2002
    MSR_BITMAP = 0x2004
    EXIT_MSR_STORE = 0x2006
    EXIT_MSR_LOAD = 0x2008
    ENTRY_MSR_LOAD = 0x200A
    TSC_OFFSET = 0x2010
    EPTP = 0x201A
    XSS_EXITING = 0x202C

    GUEST_PHYSICAL_ADDRESS = 0x2400

    VMCS_LINK = 0x2800
    DEBUGCTL = 0x2802
    PAT = 0x2804
    EFER = 0x2806
    PDPTE0 = 0x280A
    PDPTE1 = 0x280C
    PDPTE2 = 0x280E
    PDPTE3 = 0x2810

    PIN_CONTROLS = 0x4000
    PRIMARY_CONTROLS = 0x4002
    EXCEPTION_BITMAP = 0x4004
    PAGE_FAULT_MASK = 0x4006
    PAGE_FAULT_MATCH = 0x4008
    CR3_TARGET_COUNT = 0x400A
    EXIT_CONTROLS = 0x400C
    EXIT_MSR_STORE_COUNT = 0x400E
    EXIT_MSR_LOAD_COUNT = 0x4010
    ENTRY_CONTROLS = 0x4012
    ENTRY_MSR_LOAD_COUNT = 0x4014
    ENTRY_EVENT = 0x4016
    ENTRY_EVENT_ERROR = 0x4018
    ENTRY_INSTRUCTION_LENGTH = 0x401A
    TPR_THRESHOLD = 0x401C
    SECONDARY_CONTROLS = 0x401E

    INSTRUCTION_ERROR = 0x4400
    EXIT_REASON = 0x4402
    EXIT_EVENT = 0x4404
    EXIT_EVENT_ERROR = 0x4406
    IDT_VECTORING = 0x4408
    IDT_VECTORING_ERROR = 0x440A
    INSTRUCTION_LENGTH = 0x440C
    INSTRUCTION_INFORMATION = 0x440E

    ES_LIMIT = 0x4800
    CS_LIMIT = 0x4802
    SS_LIMIT = 0x4804
    DS_LIMIT = 0x4806
    FS_LIMIT = 0x4808
    GS_LIMIT = 0x480A
    LDTR_LIMIT = 0x480C
    TR_LIMIT = 0x480E
    GDTR_LIMIT = 0x4810
    IDTR_LIMIT = 0x4812
    ES_RIGHTS = 0x4814
    CS_RIGHTS = 0x4816
    SS_RIGHTS = 0x4818
    DS_RIGHTS = 0x481A
    FS_RIGHTS = 0x481C
    GS_RIGHTS = 0x481E
    LDTR_RIGHTS = 0x4820
    TR_RIGHTS = 0x4822
    INTERRUPTIBILITY = 0x4824
    ACTIVITY = 0x4826
    SYSENTER_CS = 0x482A
    PREEMPTION_TIMER = 0x482E

    CR0_MASK = 0x6000
    CR4_MASK = 0x6002
    CR0_SHADOW = 0x6004
    CR4_SHADOW = 0x6006

    QUALIFICATION = 0x6400
    GUEST_LINEAR_ADDRESS = 0x640A

    CR0 = 0x6800
    CR3 = 0x6802
    CR4 = 0x6804
    ES_BASE = 0x6806
    CS_BASE = 0x6808
    SS_BASE = 0x680A
    DS_BASE = 0x680C
    FS_BASE = 0x680E
    GS_BASE = 0x6810
    LDTR_BASE = 0x6812
    TR_BASE = 0x6814
    GDTR_BASE = 0x6816
    IDTR_BASE = 0x6818
    DR7 = 0x681A
    RSP = 0x681C
    RIP = 0x681E
    RFLAGS = 0x6820
    PENDING_DEBUG = 0x6822
    SYSENTER_ESP = 0x6824
    SYSENTER_EIP = 0x6826


class Pin(IntFlag):
    """Pin-based VM-execution controls."""

    EXTERNAL_INTERRUPT_EXITING = 1 << 0
    NMI_EXITING = 1 << 3
    VIRTUAL_NMIS = 1 << 5
    PREEMPTION_TIMER = 1 << 6


class Primary(IntFlag):
    """Primary processor-based VM-execution controls."""

    TSC_OFFSETTING = 1 << 3
    HLT_EXITING = 1 << 7
    INVLPG_EXITING = 1 << 9
    RDTSC_EXITING = 1 << 12
    CR3_LOAD_EXITING = 1 << 15
    CR3_STORE_EXITING = 1 << 16
    CR8_LOAD_EXITING = 1 << 19
    CR8_STORE_EXITING = 1 << 20
    MOV_DR_EXITING = 1 << 23
    IO_EXITING = 1 << 24
    IO_BITMAPS = 1 << 25
    MONITOR_TRAP = 1 << 27
    MSR_BITMAPS = 1 << 28
    SECONDARY = 1 << 31


class Secondary(IntFlag):
    """Secondary processor-based VM-execution controls."""

    EPT = 1 << 1
    DESCRIPTOR_TABLE_EXITING = 1 << 2
    RDTSCP = 1 << 3
    VPID = 1 << 5
    UNRESTRICTED_GUEST = 1 << 7
    INVPCID = 1 << 12
    EPT_VIOLATION_VE = 1 << 18
    XSAVES = 1 << 20
    MODE_BASED_EXECUTE = 1 << 22


class ExitControl(IntFlag):
    """Primary VM-exit controls."""

    SAVE_DEBUG = 1 << 2
    HOST_64_BITS = 1 << 9
    SAVE_PAT = 1 << 18
    LOAD_PAT = 1 << 19
    SAVE_EFER = 1 << 20
    LOAD_EFER = 1 << 21
    SAVE_PREEMPTION_TIMER = 1 << 22


class EntryControl(IntFlag):
    """VM-entry controls."""

    LOAD_DEBUG = 1 << 2
    GUEST_64_BITS = 1 << 9
    LOAD_PAT = 1 << 14
    LOAD_EFER = 1 << 15


class ExitReason(IntEnum):
    """Basic exit reasons."""

    EXCEPTION = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    TASK_SWITCH = 9
    CPUID = 10
    GETSEC = 11
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CONTROL_REGISTER = 28
    MOV_DR = 29
    IO = 30
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILED_STATE = 33
    ENTRY_FAILED_MSR = 34
    MWAIT = 36
    MONITOR_TRAP = 37
    MONITOR = 39
    PAUSE = 40
    GDTR_OR_IDTR = 46
    LDTR_OR_TR = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    INVPCID = 58
    VMFUNC = 59


REASON_FAILED_ENTRY = 1 << 31
"""Of the field EXIT_REASON: the guest wasn't entered."""


def reason_name(reason: int) -> str:
    """Return the name of a basic exit reason, or its number."""
    try:
        return ExitReason(reason).name
    except ValueError:
        return f"exit {reason}"


def msr_bit(number: int, *, write: bool) -> tuple[int, int]:
    """Return where an MSR is in an MSR bitmap: the byte, and the bit's value.

    Source: Intel SDM vol. 3C, "MSR-Bitmap Address".
    """
    high = 0x400 * (number >= 0xC000_0000)
    return 0x800 * write + high + (number & 0x1FFF) // 8, 1 << (number & 7)


CAPABILITY_MSRS = {
    "basic": 0x480,
    "pin": 0x48D,
    "primary": 0x48E,
    "exit": 0x48F,
    "entry": 0x490,
    "misc": 0x485,
    "cr0_fixed0": 0x486,
    "cr0_fixed1": 0x487,
    "cr4_fixed0": 0x488,
    "cr4_fixed1": 0x489,
    "secondary": 0x48B,
    "ept_vpid": 0x48C,
}
"""The MSRs that say what VMX can: of the controls the TRUE ones, which every CPU with EPT has but
the very first."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The values of `CAPABILITY_MSRS`.

    Of controls the lower half has the bits that have to be set, the upper half those that may be.
    """

    basic: int
    pin: int
    primary: int
    exit: int
    entry: int
    misc: int
    cr0_fixed0: int
    cr0_fixed1: int
    cr4_fixed0: int
    cr4_fixed1: int
    secondary: int
    ept_vpid: int

    @property
    def mbec(self) -> bool:
        """Whether the CPU has mode-based execute control for EPT."""
        return bool(self.secondary >> 32 & Secondary.MODE_BASED_EXECUTE)


@dataclass(frozen=True, slots=True)
class Controls:
    """What is wanted of the controls, beyond the bits that a CPU forces.

    The guest is in 64-bit mode at the entry with `EntryControl.GUEST_64_BITS`.
    """

    pin: Pin = Pin(0)  # noqa: RUF009  # A flag is a number.
    primary: Primary = Primary.SECONDARY
    secondary: Secondary = Secondary.EPT
    exit: ExitControl = ExitControl.HOST_64_BITS | ExitControl.SAVE_EFER | ExitControl.LOAD_EFER
    entry: EntryControl = EntryControl.GUEST_64_BITS | EntryControl.LOAD_EFER

    def fields(self, cpu: Capabilities) -> Mapping[Field, int]:
        """Return the fields with these controls and those that the CPU forces.

        Raises `BadInput` for what the CPU lacks.

        Source: Intel SDM vol. 3D, "VM-Execution Controls".
        """
        wanted: tuple[tuple[Field, IntFlag, int], ...] = (
            (Field.PIN_CONTROLS, self.pin, cpu.pin),
            (Field.PRIMARY_CONTROLS, self.primary, cpu.primary),
            (Field.SECONDARY_CONTROLS, self.secondary, cpu.secondary),
            (Field.EXIT_CONTROLS, self.exit, cpu.exit),
            (Field.ENTRY_CONTROLS, self.entry, cpu.entry),
        )
        if self.secondary & Secondary.MODE_BASED_EXECUTE and not cpu.mbec:
            raise BadInput("the CPU has no mode-based execute control for EPT")
        found = {}
        for field, bits, allowed in wanted:
            if lacking := int(bits) & ~(allowed >> 32):
                name = type(bits)(lacking).name or f"{lacking:#x}"
                raise BadInput(f"the CPU lacks {name} of {field.name}")
            found[field] = int(bits) | allowed & 0xFFFF_FFFF
        return found
