"""Delivery outside IA-32e mode: through the IDT of protected mode, and through real mode's IVT.

16- and 32-bit gates, stacks and TSS. Where a gate would have the CPU switch tasks, and in
virtual-8086 mode, `NotEmulated` is raised.

Source: Intel SDM vol. 3A, "Exception- or Interrupt-Handler Procedures", "Task-State Segment (TSS)",
"16-Bit Task-State Segment (TSS)"; vol. 2A, "INT n/INTO/INT3/INT1—Call to Interrupt Procedure", for
the order of checks and error codes; vol. 3B, "Interrupt and Exception Handling" in real-address
mode.
"""

import struct
from typing import NamedTuple, NoReturn

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.descriptors import (
    BIG,
    PROTECTED_GATE_BYTES,
    Descriptor,
    Gate,
    GateType,
    Segment,
    parse_protected_gate,
)
from crosswalk.emu.cpu.events import (
    EXTERNAL,
    IN_IDT,
    WITH_ERROR_CODE,
    Event,
    Fault,
    Kind,
    NotEmulated,
    mnemonic,
    saved_flags,
)
from crosswalk.emu.cpu.system_memory import (
    code_descriptor,
    descriptor,
    mark_accessed,
    push,
    read_system,
    read_tss,
)
from crosswalk.walker.architecture import RFlags, Vector

__all__ = ["enter_protected", "enter_real"]

# Looked up once: an access to a member of an enumeration takes longer than what it is for.
_SOFTWARE, _EXCEPTION = Kind.SOFTWARE, Kind.EXCEPTION
_TS = int(Vector.TS)
_GP, _TASK, _VM = int(Vector.GP), int(GateType.TASK), int(RFlags.VM)
_SHORT_GATES = frozenset({int(GateType.INTERRUPT_16), int(GateType.TRAP_16)})
_GATES = _SHORT_GATES | {int(GateType.INTERRUPT), int(GateType.TRAP), _TASK}
_CLEARED = ~(RFlags.TF | RFlags.NT | RFlags.RF | RFlags.VM)
_CLEARED_AND_MASKED = _CLEARED & ~RFlags.IF
_TSS_32 = 1 << 11
"""The bit of a TSS descriptor's type, among its segment's flags, that tells 32-bit ones."""
_STACK_32, _STACK_16 = struct.Struct("<IH"), struct.Struct("<HH")
_IVT_ENTRY = 4
_TOP_32 = 0xFFFF_FFFF


class _Stack(NamedTuple):
    """The stack that a frame is pushed to: its segment, and the stack pointer before."""

    segment: Segment
    pointer: int
    loaded: Descriptor | None = None


def enter_protected(cpu: Cpu, event: Event, rflags: int) -> None:
    """Enter the handler of `event` in protected mode, or raise `Fault` or `NotEmulated`."""
    if rflags & _VM:
        software = event.kind is Kind.SOFTWARE
        name = f"INT {event.vector:#x}" if software else mnemonic(event.vector)
        raise NotEmulated(f"{name} in virtual-8086 mode")
    external = 0 if event.kind is _SOFTWARE else EXTERNAL
    cpl, code = cpu.cpl, cpu.selector("cs")
    rsp, eip = cpu.rsp, cpu.rip & _TOP_32
    cpu.forget_exception()
    if cpl:  # From here on memory is reached with the supervisor's rights.
        cpu.set_cpl(0)
        cpu.store()

    gate = _gate(cpu, event, cpl, external)
    target = code_descriptor(cpu, gate.selector, cpl, external)
    new_cpl = cpl if target.conforming else target.dpl
    size = 2 if gate.type in _SHORT_GATES else 4
    frame = [saved_flags(event, rflags), code, eip]
    if new_cpl < cpl:
        stack = _inner_stack(cpu, new_cpl, external)
        frame = [cpu.selector("ss"), rsp & _TOP_32, *frame]
    else:
        stack = _Stack(cpu.segment("ss"), rsp & _TOP_32)
    if event.kind is _EXCEPTION and event.vector in WITH_ERROR_CODE:
        frame.append(event.error_code)
    if gate.offset > target.segment.limit:
        raise Fault(Vector.GP, external)
    pointer = _push_to(cpu, stack, frame, size, external)

    if not target.accessed:
        mark_accessed(cpu, gate.selector)
    new_stack = None
    if stack.loaded is not None:
        if not stack.loaded.accessed:
            mark_accessed(cpu, stack.segment.selector)
        new_stack = stack.segment
    cpu.rsp = _merged(rsp, pointer, stack)
    if event.cr2 is not None:
        cpu.cr2 = event.cr2
    cpu.enter(target.segment.at(new_cpl), new_cpl, new_stack)
    cpu.rip = gate.offset
    cpu.store()
    cpu.rflags = rflags & (_CLEARED_AND_MASKED if gate.masks_interrupts else _CLEARED)


def _gate(cpu: Cpu, event: Event, cpl: int, external: int) -> Gate:
    base, limit = cpu.table("idt")
    error = event.vector * 8 | IN_IDT | external
    at = event.vector * PROTECTED_GATE_BYTES
    if at + PROTECTED_GATE_BYTES - 1 > limit:
        raise Fault(_GP, error)
    gate = parse_protected_gate(read_system(cpu, base + at, PROTECTED_GATE_BYTES))
    if gate.type not in _GATES or (not external and gate.dpl < cpl):
        raise Fault(_GP, error)
    if not gate.present:
        raise Fault(Vector.NP, error)
    if gate.type == _TASK:
        raise NotEmulated(f"a task switch, by the task gate of vector {event.vector}")
    return gate


def _inner_stack(cpu: Cpu, level: int, external: int) -> _Stack:
    """Return the stack that the TSS has for a privilege level."""
    if cpu.segment_flags("tr") & _TSS_32:
        pointer, number = _STACK_32.unpack(read_tss(cpu, 4 + 8 * level, 6, external))
    else:
        pointer, number = _STACK_16.unpack(read_tss(cpu, 2 + 4 * level, 4, external))
    found = descriptor(cpu, number, _TS, external)
    if number & 3 != level or found.dpl != level or not found.writable:
        raise Fault(_TS, number & ~3 | external)
    if not found.present:
        raise Fault(Vector.SS, number & ~3 | external)
    return _Stack(found.segment, pointer, found)


def _push_to(cpu: Cpu, stack: _Stack, frame: list[int], size: int, external: int) -> int:
    """Push values of `size` bytes to a stack; return its pointer then. #SS where it has no room.

    A stack may wrap from one value to the next.
    """
    segment = stack.segment
    mask, base = _TOP_32 if segment.flags & BIG else 0xFFFF, segment.base
    top = stack.pointer & mask
    bottom = top - size * len(frame)
    if bottom >= 0:
        if not segment.reaches(bottom, top - 1):
            _no_room(stack, external)
        if base + top <= 1 << 32:
            push(cpu, base + bottom, frame, size)
            return bottom
    for number in range(1, len(frame) + 1):
        at = top - size * number & mask
        if not segment.reaches(at, at + size - 1):
            _no_room(stack, external)
    for number, value in enumerate(frame, 1):
        push(cpu, base + (top - size * number & mask) & _TOP_32, [value], size)
    return bottom & mask


def _no_room(stack: _Stack, external: int) -> NoReturn:
    loaded = 0 if stack.loaded is None else stack.segment.selector & ~3
    raise Fault(Vector.SS, loaded | external)


def _merged(rsp: int, pointer: int, stack: _Stack) -> int:
    """Return the stack pointer; of that of a 16-bit stack, the upper half is as it was."""
    if stack.segment.flags & BIG:
        return pointer
    upper = stack.pointer if stack.loaded else rsp
    return upper & 0xFFFF_0000 | pointer


def enter_real(cpu: Cpu, event: Event, rflags: int) -> None:
    """Enter the handler of `event` in real-address mode, or raise `Fault`.

    No error code is pushed there; those of a `Fault` tell where it came from.
    """
    external = 0 if event.kind is Kind.SOFTWARE else EXTERNAL
    code, ip = cpu.segment("cs"), cpu.rip
    stack = _Stack(cpu.segment("ss"), cpu.rsp & _TOP_32)
    cpu.forget_exception()
    ivt, at = cpu.segment("idt"), event.vector * _IVT_ENTRY
    if at + _IVT_ENTRY - 1 > ivt.limit:
        raise Fault(Vector.GP, event.vector * 8 | IN_IDT | external)
    entry = read_system(cpu, ivt.base + at, _IVT_ENTRY)
    pointer = _push_to(cpu, stack, [rflags, code.selector, ip], 2, external)
    cpu.rsp = _merged(cpu.rsp, pointer, stack)
    selector = int.from_bytes(entry[2:], "little")
    cpu.enter(code._replace(selector=selector, base=selector << 4), 0)
    cpu.rip = int.from_bytes(entry[:2], "little")
    cpu.store()
    cpu.rflags = rflags & ~(RFlags.IF | RFlags.TF | RFlags.AC | RFlags.RF)
