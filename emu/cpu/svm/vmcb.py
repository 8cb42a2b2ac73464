"""The virtual machine control block, as VMRUN reads it.

Source: AMD APM vol. 2, "Layout of VMCB", "VMRUN Instruction", "Instruction Intercepts".
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crosswalk.emu.cpu.cpu import Segment

__all__ = ["Intercepts", "StateSave", "control_area", "exit_info_2", "intercepts_of", "pack_state"]

_SIZE, _STATE = 0x1000, 0x400
_CR_WRITES, _EXCEPTIONS, _GENERAL, _SVM = 0x002, 0x008, 0x00C, 0x010
_MSR_MAP, _ASID, _NESTED, _NESTED_CR3, _EXIT_INFO_2 = 0x048, 0x058, 0x090, 0x0B0, 0x080
_SHUTDOWN, _MSR, _INVLPGA = 1 << 31, 1 << 28, 1 << 26
# VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT: all that reaches past nested paging.
_ALL_OF_SVM = 0x7F
_SEGMENTS = {"es": 0x00, "cs": 0x10, "ss": 0x20, "ds": 0x30, "gdt": 0x60, "idt": 0x80}
_CPL = 0x0CB
_WORDS = {
    "efer": 0x0D0,
    "cr4": 0x148,
    "cr3": 0x150,
    "cr0": 0x158,
    "dr7": 0x160,
    "dr6": 0x168,
    "rflags": 0x170,
    "rip": 0x178,
    "rsp": 0x1D8,
    "rax": 0x1F8,
    "cr2": 0x240,
    "pat": 0x268,
}


@dataclass(frozen=True, slots=True)
class Intercepts:
    """What ends a guest's run besides nested page faults and the instructions of SVM.

    `cr_writes` are numbers of control registers, `exceptions` vectors; `msr_map` is the physical
    address of an MSR permission map, or None: no MSR is intercepted.
    """

    cr_writes: frozenset[int] = frozenset()
    exceptions: frozenset[int] = frozenset()
    msr_map: int | None = None


@dataclass(frozen=True, slots=True)
class StateSave:
    """The guest's state that VMRUN loads; `words` are registers by lower-case name."""

    segments: dict[str, Segment]
    cpl: int
    words: dict[str, int]


def control_area(nested_cr3: int, intercepts: Intercepts) -> bytes:
    """Return the first half of a VMCB: nested paging on, ASID 1."""
    block = bytearray(_STATE)
    general = _SHUTDOWN | _INVLPGA
    if intercepts.msr_map is not None:
        general |= _MSR
        struct.pack_into("<Q", block, _MSR_MAP, intercepts.msr_map)
    struct.pack_into("<H", block, _CR_WRITES, _mask(intercepts.cr_writes))
    struct.pack_into("<I", block, _EXCEPTIONS, _mask(intercepts.exceptions))
    struct.pack_into("<II", block, _GENERAL, general, _ALL_OF_SVM)
    struct.pack_into("<I", block, _ASID, 1)
    struct.pack_into("<Q", block, _NESTED, 1)
    struct.pack_into("<Q", block, _NESTED_CR3, nested_cr3)
    return bytes(block)


def pack_state(state: StateSave) -> bytes:
    """Return the second half of a VMCB, the state-save area."""
    block = bytearray(_SIZE - _STATE)
    for name, at in _SEGMENTS.items():
        segment = state.segments[name]
        attributes = segment.flags >> 8 & 0xFF | segment.flags >> 12 & 0xF00
        struct.pack_into(
            "<HHIQ", block, at, segment.selector, attributes, segment.limit, segment.base
        )
    block[_CPL] = state.cpl
    for name, value in state.words.items():
        struct.pack_into("<Q", block, _WORDS[name], value)
    return bytes(block)


def exit_info_2(block: bytes) -> int:
    """Return EXITINFO2 of a VMCB: the guest physical address of a nested page fault."""
    value: int = struct.unpack_from("<Q", block, _EXIT_INFO_2)[0]
    return value


def intercepts_of(block: bytes) -> bytes:
    """Return the 8 bytes of a VMCB with the intercepts that are no register's or exception's."""
    return block[_GENERAL : _GENERAL + 8]


def _mask(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)
