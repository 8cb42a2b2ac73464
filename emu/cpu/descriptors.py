"""Descriptors, as the guest lays them out in memory for the CPU to read.

Source: Intel SDM vol. 3A, "Segment Descriptors", "64-Bit Mode IDT" (gates), "Task Management in
64-bit Mode" (the TSS).
"""

import struct
from dataclasses import dataclass

from crosswalk.emu.cpu.cpu import Segment

__all__ = ["GATE_SIZE", "CodeSegment", "Gate", "code_segment", "parse_gate"]

GATE_SIZE = 16
_GATE = struct.Struct("<HHBBHIxxxx")
_INTERRUPT_GATE, _TRAP_GATE = 14, 15
_PRESENT, _NOT_SYSTEM, _CODE, _LONG, _DEFAULT = 1 << 15, 1 << 12, 1 << 11, 1 << 21, 1 << 22
_GRANULAR = 1 << 23
_CONFORMING = 1 << 10


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate of the IDT: where its handler is, and how it is entered.

    `ist` is 0 for none, else 1 to 7. `valid` says whether it is a 64-bit interrupt or trap gate.
    """

    offset: int
    selector: int
    ist: int
    dpl: int
    present: bool
    valid: bool
    masks_interrupts: bool


def parse_gate(data: bytes) -> Gate:
    """Return the gate in `GATE_SIZE` bytes."""
    low, selector, ist, kind, middle, high = _GATE.unpack(data)
    return Gate(
        offset=low | middle << 16 | high << 32,
        selector=selector,
        ist=ist & 7,
        dpl=kind >> 5 & 3,
        present=bool(kind & 0x80),
        valid=kind & 0x1F in (_INTERRUPT_GATE, _TRAP_GATE),
        masks_interrupts=kind & 0x1F == _INTERRUPT_GATE,
    )


@dataclass(frozen=True, slots=True)
class CodeSegment:
    """A code segment's descriptor, with what an entry through a gate asks of it."""

    segment: Segment
    dpl: int
    present: bool
    valid: bool
    conforming: bool


def code_segment(selector: int, descriptor: int) -> CodeSegment:
    """Return the code segment that 8 bytes of a descriptor table describe.

    `valid` says whether it is one, and a 64-bit one.
    """
    flags = descriptor >> 32
    limit = flags & 0xF_0000 | descriptor & 0xFFFF
    if flags & _GRANULAR:
        limit = limit << 12 | 0xFFF
    is_code = flags & (_NOT_SYSTEM | _CODE) == _NOT_SYSTEM | _CODE
    return CodeSegment(
        # The base of a code segment counts for nothing in 64-bit mode.
        segment=Segment(selector, 0, limit, flags & 0x00F0_FF00),
        dpl=flags >> 13 & 3,
        present=bool(flags & _PRESENT),
        valid=is_code and flags & (_LONG | _DEFAULT) == _LONG,
        conforming=bool(flags & _CONFORMING),
    )
