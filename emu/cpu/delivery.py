"""Exceptions and interrupts, delivered through the guest's IDT as the CPU does it; and SYSCALL.

Unicorn raises exceptions, but delivers none, and leaves SYSCALL to a hook; SYSRET it does by
itself. 64-bit mode alone: outside long mode gates and stacks are others.

Source: Intel SDM vol. 3A, "Exception and Interrupt Handling in 64-bit Mode", "64-Bit Mode IDT",
"Segment Descriptors", "Task Management in 64-bit Mode", "Interrupt 8—Double Fault Exception (#DF)"
for faults while delivering; vol. 3B, "Instruction-Breakpoint Exception
Condition", for RF in the flags saved; vol. 2B, "SYSCALL—Fast System Call".
"""

import struct
from dataclasses import dataclass
from enum import Enum

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu, Guarded, Segment
from crosswalk.walker.architecture import EFER, MSR, RFlags, Vector
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.outcome import ErrorCode

__all__ = [
    "SYSCALL_LENGTH",
    "Event",
    "Kind",
    "TripleFault",
    "deliver",
    "enter_system_call",
    "mnemonic",
    "raised",
    "system_calls_enabled",
    "vector_name",
]

_NAMES: dict[int, str] = {each: "NMI" if each is Vector.NMI else f"#{each.name}" for each in Vector}
_WITH_ERROR_CODE = {
    *(Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC, Vector.CP)
}
_CONTRIBUTORY = {Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP}
_TRAPS_AND_ABORTS = {Vector.DB, Vector.BP, Vector.OF, Vector.DF, Vector.MC}
_INT3 = b"\xcc"
_EXTERNAL, _IN_IDT, _IN_LDT = 1, 2, 4  # in an error code, the last one in a selector too
_TSS_RSP0, _TSS_IST1 = 4, 36

_GATE_SIZE = 16
_GATE = struct.Struct("<HHBBHIxxxx")
_INTERRUPT_GATE, _TRAP_GATE = 14, 15
# Of a segment descriptor, in its upper 32 bits.
_SEGMENT_PRESENT, _NOT_SYSTEM, _IS_CODE, _CONFORMING = 1 << 15, 1 << 12, 1 << 11, 1 << 10
_LONG, _DEFAULT, _GRANULAR = 1 << 21, 1 << 22, 1 << 23

SYSCALL_LENGTH = 2
"""The length of SYSCALL, in bytes."""

_RCX, _R11 = GENERAL.index("rcx"), GENERAL.index("r11")
# What SYSCALL loads: flat segments, whatever the descriptor tables say.
_FLAT_CODE, _FLAT_STACK, _LIMIT = 0x00A0_9B00, 0x00C0_9300, 0xFFFF_FFFF


class Kind(Enum):
    """Where an event comes from."""

    EXCEPTION = "exception"
    INTERRUPT = "interrupt"
    SOFTWARE = "INT"


@dataclass(frozen=True, slots=True)
class Event:
    """Something to deliver.

    `error_code` counts for the exceptions that have one, `cr2` is set for those that come with
    an address. `length` is that of an INT instruction, in bytes.
    """

    vector: int
    kind: Kind
    error_code: int = 0
    cr2: int | None = None
    length: int = 0


class TripleFault(CrosswalkError):
    """A double fault couldn't be delivered: the CPU shuts down."""


class _Fault(Exception):
    """A fault that the CPU raises while it delivers an event."""

    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__(vector, error_code)
        self.event = Event(vector, Kind.EXCEPTION, error_code, cr2)


@dataclass(frozen=True, slots=True)
class _Gate:
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


def _parse_gate(data: bytes) -> _Gate:
    """Return the gate in `_GATE_SIZE` bytes."""
    low, selector, ist, kind, middle, high = _GATE.unpack(data)
    return _Gate(
        offset=low | middle << 16 | high << 32,
        selector=selector,
        ist=ist & 7,
        dpl=kind >> 5 & 3,
        present=bool(kind & 0x80),
        valid=kind & 0x1F in (_INTERRUPT_GATE, _TRAP_GATE),
        masks_interrupts=kind & 0x1F == _INTERRUPT_GATE,
    )


@dataclass(frozen=True, slots=True)
class _CodeSegment:
    """A code segment's descriptor, with the properties that an entry through a gate checks."""

    segment: Segment
    dpl: int
    present: bool
    valid: bool
    conforming: bool


def _code_segment(selector: int, descriptor: int) -> _CodeSegment:
    """Return the code segment that 8 bytes of a descriptor table describe.

    `valid` says whether it is one, and a 64-bit one.
    """
    flags = descriptor >> 32
    limit = flags & 0xF_0000 | descriptor & 0xFFFF
    if flags & _GRANULAR:
        limit = limit << 12 | 0xFFF
    is_code = flags & (_NOT_SYSTEM | _IS_CODE) == _NOT_SYSTEM | _IS_CODE
    return _CodeSegment(
        # The base of a code segment counts for nothing in 64-bit mode.
        segment=Segment(selector, 0, limit, flags & 0x00F0_FF00),
        dpl=flags >> 13 & 3,
        present=bool(flags & _SEGMENT_PRESENT),
        valid=is_code and flags & (_LONG | _DEFAULT) == _LONG,
        conforming=bool(flags & _CONFORMING),
    )


def vector_name(vector: int) -> str:
    """Return a vector's number, with the name of its exception if it has one."""
    return f"{vector} ({_NAMES[vector]})" if vector in _NAMES else str(vector)


def mnemonic(vector: int) -> str:
    """Return the name of a vector's exception, or the INT that has this vector."""
    return _NAMES.get(vector, f"INT {vector:#x}")


def raised(cpu: Cpu, vector: int) -> Event:
    """Return the event that `cpu` has just raised, of the vector that Unicorn's hook got."""
    cpu.load()
    if not cpu.software:
        return Event(vector, Kind.EXCEPTION, cpu.error_code)
    before = cpu.read(cpu.rip - 1, 1)
    length = 1 if vector == Vector.BP and before == _INT3 else 2
    return Event(vector, Kind.SOFTWARE, length=length)


def deliver(cpu: Cpu, event: Event) -> list[Event]:
    """Have `cpu` enter the handler of `event`, and return what was tried, the event first.

    The handler of the last event returned is the one that runs: `event` itself, or what errors
    in the guest's tables made of it. RIP has to be where the handler is to return to: at the
    instruction at fault, or past an INT. A page fault while tables are read or the frame is
    written says P = 0 unless it is a write to a page that can be read.

    Raises `TripleFault` where even a double fault can't be delivered, and `Guarded`
    where the CPU's guard does, with the CPU as it was.
    """
    history = [event]
    cpu.load()
    before = cpu.snapshot()
    rflags = cpu.rflags
    while True:
        try:
            _enter(cpu, history[-1], rflags)
        except _Fault as fault:
            cpu.revert(before)
            if history[-1].kind is Kind.SOFTWARE:
                cpu.rip -= history[-1].length
                before = cpu.snapshot()
            history.append(_combined(history, fault.event))
        except Guarded:
            cpu.revert(before)
            raise
        else:
            return history


def _combined(history: list[Event], fault: Event) -> Event:
    """Return the event that a fault becomes while the last event is delivered: it or #DF."""
    first = history[-1]
    if first.kind is not Kind.EXCEPTION:
        return fault
    if first.vector == Vector.DF:
        names = ", ".join(vector_name(each.vector) for each in (*history, fault))
        raise TripleFault(f"triple fault: {names}")
    contribute = first.vector in _CONTRIBUTORY and fault.vector in _CONTRIBUTORY
    after_page_fault = first.vector == Vector.PF and fault.vector in (
        *_CONTRIBUTORY,
        Vector.PF,
    )
    if contribute or after_page_fault:
        return Event(Vector.DF, Kind.EXCEPTION, 0, fault.cr2)
    return fault


def _enter(cpu: Cpu, event: Event, rflags: int) -> None:
    """Enter the handler of `event`, or raise `_Fault`."""
    external = 0 if event.kind is Kind.SOFTWARE else _EXTERNAL
    cpl, code, stack = cpu.cpl, cpu.segment("cs"), cpu.segment("ss")
    rip, rsp = cpu.rip, cpu.rsp
    # From here on memory is reached with the supervisor's rights.
    cpu.forget_exception()
    cpu.enter(code, 0)
    cpu.store()

    gate = _gate(cpu, event, cpl, external)
    target = _target(cpu, gate.selector, cpl, external)
    new_cpl = cpl if target.conforming else target.dpl
    top = rsp
    if gate.ist:
        top = _from_tss(cpu, _TSS_IST1 + 8 * (gate.ist - 1), external)
    elif new_cpl < cpl:
        top = _from_tss(cpu, _TSS_RSP0 + 8 * new_cpl, external)
    is_fault = event.kind is Kind.EXCEPTION and event.vector not in _TRAPS_AND_ABORTS
    saved = rflags | RFlags.RF if is_fault else rflags
    if event.kind is Kind.SOFTWARE:
        saved &= ~RFlags.RF  # Unicorn keeps what IRET loaded to the end of a block.
    frame = [stack.selector, rsp, saved, code.selector, rip]
    if event.kind is Kind.EXCEPTION and event.vector in _WITH_ERROR_CODE:
        frame.append(event.error_code)
    cpu.rsp = _pushed(cpu, top & ~0xF, frame, external)

    if event.cr2 is not None:
        cpu.cr2 = event.cr2
    if new_cpl != cpl:
        cpu.set_segment("ss", Segment(new_cpl, 0, 0, new_cpl << 13))
    segment = target.segment
    selector = segment.selector & ~3 | new_cpl
    cpu.enter(Segment(selector, segment.base, segment.limit, segment.flags), new_cpl)
    cpu.rip = gate.offset
    cpu.store()
    cleared = RFlags.TF | RFlags.NT | RFlags.RF | RFlags.VM
    cpu.rflags = rflags & ~(cleared | RFlags.IF if gate.masks_interrupts else cleared)


def _gate(cpu: Cpu, event: Event, cpl: int, external: int) -> _Gate:
    idt = cpu.segment("idt")
    error = event.vector * 8 | _IN_IDT | external
    at = event.vector * _GATE_SIZE
    if at + _GATE_SIZE - 1 > idt.limit:
        raise _Fault(Vector.GP, error)
    gate = _parse_gate(_read(cpu, idt.base + at, _GATE_SIZE))
    if not gate.valid or (event.kind is Kind.SOFTWARE and gate.dpl < cpl):
        raise _Fault(Vector.GP, error)
    if not gate.present:
        raise _Fault(Vector.NP, error)
    if not cpu.canonical(gate.offset):
        raise _Fault(Vector.GP, external)
    return gate


def _target(cpu: Cpu, selector: int, cpl: int, external: int) -> _CodeSegment:
    table = cpu.segment("ldt" if selector & _IN_LDT else "gdt")
    error = selector & ~3 | external
    at = selector & ~7
    if not selector & ~3 or at + 7 > table.limit:
        raise _Fault(Vector.GP, error)
    descriptor = int.from_bytes(_read(cpu, table.base + at, 8), "little")
    target = _code_segment(selector, descriptor)
    if not target.valid or target.dpl > cpl:
        raise _Fault(Vector.GP, error)
    if not target.present:
        raise _Fault(Vector.NP, error)
    return target


def _from_tss(cpu: Cpu, at: int, external: int) -> int:
    """Return a stack pointer that the TSS holds."""
    tss = cpu.segment("tr")
    if at + 7 > tss.limit:
        raise _Fault(Vector.TS, tss.selector & ~3 | external)
    return int.from_bytes(_read(cpu, tss.base + at, 8), "little")


def _pushed(cpu: Cpu, top: int, frame: list[int], external: int) -> int:
    """Push the values of a frame, and return where the last one lies."""
    for value in frame:
        top = top - 8 & (1 << 64) - 1
        if not cpu.canonical(top):
            raise _Fault(Vector.SS, external)
        if not cpu.write(top, value):
            present = ErrorCode.P if cpu.read(top, 8) is not None else 0
            raise _Fault(Vector.PF, int(ErrorCode.WR | present), top)
    return top


def _read(cpu: Cpu, va: int, size: int) -> bytes:
    data = cpu.read(va, size)
    if data is None:
        raise _Fault(Vector.PF, 0, va)
    return data


def system_calls_enabled(cpu: Cpu) -> bool:
    """Return whether EFER.SCE is set; where it isn't, SYSCALL is an invalid opcode."""
    return bool(cpu.engine.reg_read(x86.UC_X86_REG_MSR, MSR.EFER) & EFER.SCE)


def enter_system_call(cpu: Cpu) -> None:
    """Do what SYSCALL does in 64-bit code, RIP being at the instruction.

    RIP is left `SYSCALL_LENGTH` short of the handler: Unicorn moves it on afterwards.
    """
    read = cpu.engine.reg_read
    star, target, mask = (
        read(x86.UC_X86_REG_MSR, each) for each in (MSR.STAR, MSR.LSTAR, MSR.FMASK)
    )
    cpu.load()
    rflags = cpu.rflags
    cpu.set_general(_RCX, cpu.rip + SYSCALL_LENGTH)
    cpu.set_general(_R11, rflags & ~RFlags.RF)
    selector = star >> 32 & 0xFFFC
    cpu.enter(Segment(selector, 0, _LIMIT, _FLAT_CODE), 0)
    cpu.set_segment("ss", Segment(selector + 8, 0, _LIMIT, _FLAT_STACK))
    cpu.rip = target - SYSCALL_LENGTH
    cpu.store()
    cpu.rflags = rflags & ~(mask | RFlags.RF) | RFlags.FIXED
