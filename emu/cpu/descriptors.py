"""Gates and segment descriptors, parsed from their bytes.

Source: Intel SDM vol. 3A, "Segment Descriptors", "Code- and Data-Segment Descriptor Types", "System
Descriptor Types", "IDT Descriptors", "64-Bit Mode IDT".
"""

import functools
import struct
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "BIG",
    "LONG_GATE_BYTES",
    "PROTECTED_GATE_BYTES",
    "Descriptor",
    "Gate",
    "GateType",
    "Segment",
    "parse_descriptor",
    "parse_long_gate",
    "parse_protected_gate",
]

LONG_GATE_BYTES, PROTECTED_GATE_BYTES = 16, 8
"""The size of a gate in the IDT, in IA-32e mode and outside."""

_LONG_GATE = struct.Struct("<HHBBHIxxxx")
_PROTECTED_GATE = struct.Struct("<HHxBH")
_TYPE, _PRESENT_GATE = 0x1F, 0x80
_KEPT = 4096
# Of a segment descriptor, in its upper 32 bits.
_PRESENT, _NOT_SYSTEM, _IS_CODE, _CONFORMING_OR_DOWN = 1 << 15, 1 << 12, 1 << 11, 1 << 10
_WRITABLE, _ACCESSED = 1 << 9, 1 << 8
_LONG, _GRANULAR = 1 << 21, 1 << 23
_KEPT_FLAGS = 0x00F0_FF00

BIG = 1 << 22
"""The flag D or B among the flags of a segment."""


class Segment(NamedTuple):
    """A segment or table register: selector, base, limit in bytes, and flags.

    `flags` are the upper 32 bits of the descriptor, without those of base and limit.
    """

    selector: int
    base: int
    limit: int
    flags: int

    @property
    def long(self) -> bool:
        """Whether this is a segment of 64-bit code, in IA-32e mode."""
        return bool(self.flags & _LONG)

    @property
    def big(self) -> bool:
        """The D or B flag: operands and addresses, or the stack pointer, have 32 bits, not 16."""
        return bool(self.flags & BIG)

    def at(self, rpl: int) -> "Segment":
        """Return this segment with another RPL in its selector."""
        if self.selector & 3 == rpl:
            return self
        return self._replace(selector=self.selector & ~3 | rpl)

    def reaches(self, first: int, last: int) -> bool:
        """Return whether the limit allows the bytes from offset `first` to `last` of data."""
        if self.flags & (_NOT_SYSTEM | _IS_CODE | _CONFORMING_OR_DOWN) == (
            _NOT_SYSTEM | _CONFORMING_OR_DOWN
        ):
            return self.limit < first <= last <= (0xFFFF_FFFF if self.big else 0xFFFF)
        return first <= last <= self.limit


class GateType(IntEnum):
    """Types of a gate."""

    TASK = 0x05
    INTERRUPT_16, TRAP_16 = 0x06, 0x07
    INTERRUPT, TRAP = 0x0E, 0x0F


class Gate(NamedTuple):
    """A gate of the IDT: where its handler is, and how it is entered.

    `type` is one of `GateType`, or of what is no gate of an IDT; interrupt gates mask interrupts.
    `ist` is 0 for none, else 1 to 7.
    """

    offset: int
    selector: int
    ist: int
    dpl: int
    present: bool
    type: int
    masks_interrupts: bool


@functools.lru_cache(maxsize=_KEPT)
def parse_long_gate(data: bytes) -> Gate:
    """Return the gate in `LONG_GATE_BYTES` bytes."""
    low, selector, ist, kind, middle, high = _LONG_GATE.unpack(data)
    return Gate(
        offset=low | middle << 16 | high << 32,
        selector=selector,
        ist=ist & 7,
        dpl=kind >> 5 & 3,
        present=bool(kind & _PRESENT_GATE),
        type=kind & _TYPE,
        masks_interrupts=kind & _TYPE in (GateType.INTERRUPT, GateType.INTERRUPT_16),
    )


@functools.lru_cache(maxsize=_KEPT)
def parse_protected_gate(data: bytes) -> Gate:
    """Return the gate in `PROTECTED_GATE_BYTES` bytes; a 16-bit gate's offset has 16 bits."""
    low, selector, kind, high = _PROTECTED_GATE.unpack(data)
    short = kind & _TYPE in (GateType.INTERRUPT_16, GateType.TRAP_16)
    return Gate(
        offset=low if short else low | high << 16,
        selector=selector,
        ist=0,
        dpl=kind >> 5 & 3,
        present=bool(kind & _PRESENT_GATE),
        type=kind & _TYPE,
        masks_interrupts=kind & _TYPE in (GateType.INTERRUPT, GateType.INTERRUPT_16),
    )


class Descriptor(NamedTuple):
    """A segment's descriptor: its segment, and the properties that loading it checks.

    64-bit code is what has L set and D clear.
    """

    segment: Segment
    dpl: int
    present: bool
    code: bool
    conforming: bool
    writable: bool
    accessed: bool
    is_64_bit_code: bool


@functools.lru_cache(maxsize=_KEPT)
def parse_descriptor(selector: int, data: bytes) -> Descriptor:
    """Return the segment that 8 bytes of a descriptor table describe.

    `code` and `writable` tell a code segment, and a data segment that can be written.
    """
    low, flags = struct.unpack("<II", data)
    limit = flags & 0xF_0000 | low & 0xFFFF
    if flags & _GRANULAR:
        limit = limit << 12 | 0xFFF
    base = low >> 16 | (flags & 0xFF) << 16 | flags & 0xFF00_0000
    code = flags & (_NOT_SYSTEM | _IS_CODE) == _NOT_SYSTEM | _IS_CODE
    data_segment = flags & (_NOT_SYSTEM | _IS_CODE) == _NOT_SYSTEM
    return Descriptor(
        segment=Segment(selector, base, limit, flags & _KEPT_FLAGS),
        dpl=flags >> 13 & 3,
        present=bool(flags & _PRESENT),
        code=code,
        conforming=code and bool(flags & _CONFORMING_OR_DOWN),
        writable=data_segment and bool(flags & _WRITABLE),
        accessed=bool(flags & _ACCESSED),
        is_64_bit_code=code and flags & (_LONG | BIG) == _LONG,
    )
