"""Exceptions and interrupts, delivered through the guest's IDT as the CPU does it.

Unicorn raises exceptions, but delivers none. 64-bit mode alone: outside long mode gates and
stacks are others.

Source: Intel SDM vol. 3A, "Exception and Interrupt Handling in 64-bit Mode"; "Interrupt 8—Double
Fault Exception (#DF)" for faults while delivering; vol. 3B, "Instruction-Breakpoint Exception
Condition", for RF in the flags saved.
"""

from dataclasses import dataclass
from enum import Enum

from crosswalk.emu.cpu.cpu import Cpu, Guarded, Segment
from crosswalk.emu.cpu.descriptors import GATE_SIZE, CodeSegment, Gate, code_segment, parse_gate
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Event", "Kind", "TripleFault", "deliver", "mnemonic", "raised", "vector_name"]

_NAMES = {
    0: "#DE",
    1: "#DB",
    2: "NMI",
    3: "#BP",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    8: "#DF",
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    18: "#MC",
    19: "#XM",
    20: "#VE",
    21: "#CP",
}
_DOUBLE, _INVALID_TSS, _NOT_PRESENT, _STACK, _PROTECTION, _PAGE_FAULT = 8, 10, 11, 12, 13, 14
_WITH_ERROR_CODE = {8, 10, 11, 12, 13, 14, 17, 21}
_CONTRIBUTORY = {0, 10, 11, 12, 13, 21}
_TRAPS_AND_ABORTS = {1, 3, 4, 8, 18}
_BREAKPOINT, _INT3 = 3, b"\xcc"
_EXTERNAL, _IN_IDT, _IN_LDT = 1, 2, 4  # in an error code, the last one in a selector too
_PRESENT, _WRITE = 1, 2  # in a page fault's error code
_TSS_RSP0, _TSS_IST1 = 4, 36


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
    """What the CPU finds wrong while it delivers an event."""

    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__(vector, error_code)
        self.event = Event(vector, Kind.EXCEPTION, error_code, cr2)


def vector_name(vector: int) -> str:
    """Return a vector's number, with the name of its exception if it has one."""
    return f"{vector} ({_NAMES[vector]})" if vector in _NAMES else str(vector)


def mnemonic(vector: int) -> str:
    """Return the name of a vector's exception, or the INT that has this vector."""
    return _NAMES.get(vector, f"INT {vector:#x}")


def raised(cpu: Cpu, vector: int) -> Event:
    """Return the event that `cpu` has just raised, as a hook of Unicorn tells its vector."""
    cpu.load()
    if not cpu.software:
        return Event(vector, Kind.EXCEPTION, cpu.error_code)
    before = cpu.read(cpu.rip - 1, 1)
    length = 1 if vector == _BREAKPOINT and before == _INT3 else 2
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
    """Return what the CPU makes of a fault while it delivers the last event (table 6-5)."""
    first = history[-1]
    if first.kind is not Kind.EXCEPTION:
        return fault
    if first.vector == _DOUBLE:
        names = ", ".join(vector_name(each.vector) for each in (*history, fault))
        raise TripleFault(f"triple fault: {names}")
    contribute = first.vector in _CONTRIBUTORY and fault.vector in _CONTRIBUTORY
    after_page_fault = first.vector == _PAGE_FAULT and fault.vector in (
        *_CONTRIBUTORY,
        _PAGE_FAULT,
    )
    if contribute or after_page_fault:
        return Event(_DOUBLE, Kind.EXCEPTION, 0, fault.cr2)
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


def _gate(cpu: Cpu, event: Event, cpl: int, external: int) -> Gate:
    idt = cpu.segment("idt")
    error = event.vector * 8 | _IN_IDT | external
    at = event.vector * GATE_SIZE
    if at + GATE_SIZE - 1 > idt.limit:
        raise _Fault(_PROTECTION, error)
    gate = parse_gate(_read(cpu, idt.base + at, GATE_SIZE))
    if not gate.valid or (event.kind is Kind.SOFTWARE and gate.dpl < cpl):
        raise _Fault(_PROTECTION, error)
    if not gate.present:
        raise _Fault(_NOT_PRESENT, error)
    if not cpu.canonical(gate.offset):
        raise _Fault(_PROTECTION, external)
    return gate


def _target(cpu: Cpu, selector: int, cpl: int, external: int) -> CodeSegment:
    table = cpu.segment("ldt" if selector & _IN_LDT else "gdt")
    error = selector & ~3 | external
    at = selector & ~7
    if not selector & ~3 or at + 7 > table.limit:
        raise _Fault(_PROTECTION, error)
    descriptor = int.from_bytes(_read(cpu, table.base + at, 8), "little")
    target = code_segment(selector, descriptor)
    if not target.valid or target.dpl > cpl:
        raise _Fault(_PROTECTION, error)
    if not target.present:
        raise _Fault(_NOT_PRESENT, error)
    return target


def _from_tss(cpu: Cpu, at: int, external: int) -> int:
    """Return a stack pointer that the TSS holds."""
    tss = cpu.segment("tr")
    if at + 7 > tss.limit:
        raise _Fault(_INVALID_TSS, tss.selector & ~3 | external)
    return int.from_bytes(_read(cpu, tss.base + at, 8), "little")


def _pushed(cpu: Cpu, top: int, frame: list[int], external: int) -> int:
    """Push the values of a frame, and return where the last one lies."""
    for value in frame:
        top = top - 8 & (1 << 64) - 1
        if not cpu.canonical(top):
            raise _Fault(_STACK, external)
        if not cpu.write(top, value):
            present = _PRESENT if cpu.read(top, 8) is not None else 0
            raise _Fault(_PAGE_FAULT, _WRITE | present, top)
    return top


def _read(cpu: Cpu, va: int, size: int) -> bytes:
    data = cpu.read(va, size)
    if data is None:
        raise _Fault(_PAGE_FAULT, 0, va)
    return data
