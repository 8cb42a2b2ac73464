"""What a CPU reads and writes by itself while it delivers an event: tables, the TSS, the frame.

All of it with the supervisor's rights, which the CPU has to have when these functions are called.
Where the CPU can't, `Fault` is raised.

Source: Intel SDM vol. 3A, "Segment Descriptors", "Error Code", "Page-Fault Exceptions" for implicit
supervisor-mode accesses; vol. 2A, "INT n/INTO/INT3/INT1—Call to Interrupt Procedure", for what is
checked in which order.
"""

import struct

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.descriptors import Descriptor, parse_descriptor
from crosswalk.emu.cpu.events import IN_LDT, Fault
from crosswalk.walker.architecture import PAGE_BYTES, Vector
from crosswalk.walker.outcome import ErrorCode

__all__ = [
    "code_descriptor",
    "descriptor",
    "mark_accessed",
    "push",
    "read_system",
    "read_tss",
]

_GP = int(Vector.GP)
_QUAD, _MOST = 8, 10
_FRAMES = {
    (size, count): struct.Struct(f"<{count}{letter}")
    for size, letter in ((2, "H"), (4, "I"), (_QUAD, "Q"))
    for count in range(1, _MOST)
}
_DESCRIPTOR_BYTES, _ACCESS_BYTE, _ACCESSED = 8, 5, 1


def read_system(cpu: Cpu, va: int, size: int) -> bytes:
    """Return `size` bytes at `va`, or raise the page fault."""
    data = cpu.read(va, size)
    if data is None:
        raise Fault(Vector.PF, 0, va)
    return data


def read_tss(cpu: Cpu, at: int, size: int, external: int) -> bytes:
    """Return `size` bytes at an offset of the TSS; #TS where its limit is below them."""
    base, limit = cpu.table("tr")
    if at + size - 1 > limit:
        raise Fault(Vector.TS, cpu.selector("tr") & ~3 | external)
    return read_system(cpu, base + at, size)


def descriptor(cpu: Cpu, selector: int, vector: int, external: int) -> Descriptor:
    """Return what a selector names; the exception `vector` for a null selector or one beyond."""
    if not selector & ~3:
        raise Fault(vector, external)
    base, limit = cpu.table("ldt" if selector & IN_LDT else "gdt")
    at = selector & ~7
    if at + _DESCRIPTOR_BYTES - 1 > limit:
        raise Fault(vector, selector & ~3 | external)
    return parse_descriptor(selector, read_system(cpu, base + at, _DESCRIPTOR_BYTES))


def code_descriptor(cpu: Cpu, selector: int, cpl: int, external: int) -> Descriptor:
    """Return the code segment that a gate's selector names, present and not less privileged."""
    target = descriptor(cpu, selector, _GP, external)
    if not target.code or target.dpl > cpl:
        raise Fault(_GP, selector & ~3 | external)
    if not target.present:
        raise Fault(Vector.NP, selector & ~3 | external)
    return target


def mark_accessed(cpu: Cpu, selector: int) -> None:
    """Set the accessed flag in the descriptor of a segment that is loaded."""
    base, _ = cpu.table("ldt" if selector & IN_LDT else "gdt")
    at = base + (selector & ~7) + _ACCESS_BYTE
    value = read_system(cpu, at, 1)[0]
    _write(cpu, at, bytes([value | _ACCESSED]))


def push(cpu: Cpu, bottom: int, values: list[int], size: int) -> None:
    """Write values of `size` bytes each, the last one to `bottom`, the first one first.

    A fault is that of the first value that can't be written.
    """
    if size == 2:  # What is pushed to a 32-bit frame has no more bits.
        values = [value & 0xFFFF for value in values]
    frame = _FRAMES[size, len(values)].pack(*reversed(values))
    first = bottom + len(frame) - size
    if bottom % PAGE_BYTES + len(frame) <= PAGE_BYTES:
        if not cpu.push(bottom, frame, first):
            _refused(cpu, first)
        return
    for at in range(len(frame) - size, -1, -size):
        _write(cpu, bottom + at, frame[at : at + size])


def _write(cpu: Cpu, va: int, data: bytes) -> None:
    refused = cpu.write(va, data)
    if refused is not None:
        _refused(cpu, refused)


def _refused(cpu: Cpu, va: int) -> None:
    present = ErrorCode.P if cpu.read(va, 1) is not None else 0
    raise Fault(Vector.PF, int(ErrorCode.WR | present), va)
