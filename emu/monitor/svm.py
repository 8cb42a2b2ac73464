"""What SVM calls things, for a monitor: places in a VMCB, segments as it has them, what is written.

Source: AMD APM vol. 2, "Layout of VMCB".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from crosswalk.guest.monitor import places
from crosswalk.guest.monitor.commands import Command, store, write_msr
from crosswalk.walker.architecture import EFER, MSR

__all__ = ["SvmExit", "Vmcb", "VmcbSegment", "svm_on", "vmcb_words"]

_INVALID = 0xFFFF_FFFF
"""The lower half of the exit code where VMRUN refuses the state, -1; QEMU has no upper half."""

_OWN_EFER = int(EFER.LME | EFER.LMA)


class Vmcb:
    """Offsets of words in a VMCB.

    CONTROL_INTERCEPTS: reads and writes of control and debug registers. EXCEPTION_INTERCEPTS:
    vectors, and instructions and events in the upper half. SVM_INTERCEPTS: more instructions, those
    of SVM first. ASID has TLB_CONTROL in its upper half: 1 flushes all. CPL is byte 3 of its word.
    """

    CONTROL_INTERCEPTS = 0x000
    EXCEPTION_INTERCEPTS = 0x008
    SVM_INTERCEPTS = 0x010
    IO_MAP, MSR_MAP = 0x040, 0x048
    ASID = 0x058
    INTERRUPTS = 0x060
    SHADOW = 0x068
    EXIT_CODE, EXIT_INFO_1, EXIT_INFO_2, EXIT_EVENT = 0x070, 0x078, 0x080, 0x088
    NESTED, NESTED_CR3 = 0x090, 0x0B0
    ENTRY_EVENT, CLEAN = 0x0A8, 0x0C0
    ES, CS, SS, DS, FS, GS = (0x400 + 16 * at for at in range(6))
    GDTR, LDTR, IDTR, TR = (0x460 + 16 * at for at in range(4))
    CPL, EFER = 0x4C8, 0x4D0
    CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP = (0x548 + 8 * at for at in range(7))
    RSP, RAX = 0x5D8, 0x5F8
    CR2, PAT = 0x640, 0x668


@dataclass(frozen=True, slots=True)
class VmcbSegment:
    """A segment register; `attributes` are bits 55:52 and 47:40 of a descriptor, in 12 bits."""

    selector: int = 0
    attributes: int = 0
    limit: int = 0xFFFF_FFFF
    base: int = 0

    def words(self, at: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the two words of a VMCB that hold it from the offset `at` on, with offsets."""
        return (at, self.selector | self.attributes << 16 | self.limit << 32), (at + 8, self.base)


@dataclass(frozen=True, slots=True)
class SvmExit:
    """An exit: its code and what the VMCB says besides; registers as `REGISTERS`, RAX in place."""

    code: int
    info_1: int
    info_2: int
    rip: int
    rax: int
    registers: tuple[int, ...]

    FIELDS: ClassVar = (Vmcb.EXIT_CODE, Vmcb.EXIT_INFO_1, Vmcb.EXIT_INFO_2, Vmcb.RIP, Vmcb.RAX)
    """What RUN_VMCB is to read."""

    @property
    def entered(self) -> bool:
        """Whether the guest was entered; else its state was refused."""
        return self.code & _INVALID != _INVALID

    @classmethod
    def of(cls, payload: Sequence[int]) -> "SvmExit":
        """Return what an answer of RUN_VMCB with these fields says."""
        code, info_1, info_2, rip, rax = payload[-len(cls.FIELDS) :]
        registers = payload[: -len(cls.FIELDS) - 1]
        return cls(code, info_1, info_2, rip, rax, (rax, *registers[1:]))


def svm_on(base: int, *, nxe: bool) -> Command:
    """Return what switches SVM on for a monitor at `base`, with the host's NXE as given."""
    efer = _OWN_EFER | EFER.SVME | (EFER.NXE if nxe else 0)
    return write_msr([(MSR.EFER, int(efer)), (MSR.VM_HSAVE_PA, base + places.HOST_SAVE)])


def vmcb_words(at: int, values: Iterable[tuple[int, int]]) -> Command:
    """Return what writes words of a VMCB that lies at `at`: offset and value of each."""
    return store((at + offset, value) for offset, value in values)
