"""Exceptions and interrupts, delivered through the guest's IDT or IVT as the CPU does it.

Unicorn raises exceptions, but delivers none. Gates, frames and stacks are those of IA-32e mode
here; `crosswalk.emu.cpu.legacy_delivery` has those of protected and of real-address mode.

Source: Intel SDM vol. 3A, "Exception and Interrupt Handling in 64-bit Mode", "64-Bit Mode IDT",
"Segment Descriptors", "Task Management in 64-bit Mode", "Interrupt 8—Double Fault Exception (#DF)"
for faults while delivering; vol. 3B, "Instruction-Breakpoint Exception
Condition", for RF in the flags saved.
"""

from crosswalk.emu.cpu.cpu import Cpu, Guarded
from crosswalk.emu.cpu.descriptors import LONG_GATE_BYTES, Gate, GateType, Segment, parse_long_gate
from crosswalk.emu.cpu.events import (
    EXTERNAL,
    IN_IDT,
    WITH_ERROR_CODE,
    Event,
    Fault,
    Kind,
    TripleFault,
    combined,
    mnemonic,
    saved_flags,
    vector_name,
)
from crosswalk.emu.cpu.legacy_delivery import enter_protected, enter_real
from crosswalk.emu.cpu.system_memory import (
    code_descriptor,
    mark_accessed,
    push,
    read_system,
    read_tss,
)
from crosswalk.walker.architecture import RFlags, Vector

__all__ = [
    "Event",
    "Kind",
    "TripleFault",
    "deliver",
    "mnemonic",
    "raised",
    "vector_name",
]

_TSS_RSP0, _TSS_IST1 = 4, 36
# Looked up once: an access to a member of an enumeration takes longer than what it is for.
_SOFTWARE, _EXCEPTION = Kind.SOFTWARE, Kind.EXCEPTION
_GP, _NP, _SS = int(Vector.GP), int(Vector.NP), int(Vector.SS)
_RF = int(RFlags.RF)
_CLEARED = ~(RFlags.TF | RFlags.NT | RFlags.RF | RFlags.VM)
_CLEARED_AND_MASKED = _CLEARED & ~RFlags.IF
_GATES = frozenset({int(GateType.INTERRUPT), int(GateType.TRAP)})
_TOP = (1 << 64) - 1
# Of one byte each, by the vectors that they alone have.
_SHORT_INTS = {Vector.DB: b"\xf1", Vector.BP: b"\xcc", Vector.OF: b"\xce"}


def raised(cpu: Cpu, vector: int) -> Event:
    """Return the event that `cpu` has just raised, of the vector that Unicorn's hook got."""
    cpu.load()
    if not cpu.software:
        return Event(vector, Kind.EXCEPTION, cpu.error_code)
    short = _SHORT_INTS.get(Vector(vector)) if vector in _SHORT_INTS else None
    length = 1 if short is not None and cpu.code(-1, 1) == short else 2
    return Event(vector, Kind.SOFTWARE, length=length)


def deliver(cpu: Cpu, event: Event, *, loaded: bool = False) -> list[Event]:
    """Have `cpu` enter the handler of `event`, and return what was tried, the event first.

    The handler of the last event returned is the one that runs: `event` itself, or what errors
    in the guest's tables made of it. RIP has to be where the handler is to return to: at the
    instruction at fault, or past an INT. A page fault while tables are read or the frame is
    written says P = 0 unless it is a write to a page that can be read. `loaded` says that the state
    of `cpu` has just been taken over.

    Raises `TripleFault` where even a double fault can't be delivered, `NotEmulated` for a task
    gate and in virtual-8086 mode, and `Guarded` where the CPU's guard does, with the CPU as it was.
    """
    history = [event]
    if not loaded:
        cpu.load()
    before = cpu.snapshot()
    rflags = cpu.rflags
    enter = _enter if cpu.long_mode else enter_protected if cpu.protected else enter_real
    while True:
        try:
            enter(cpu, history[-1], rflags)
        except Fault as fault:
            cpu.revert(before)
            _look(cpu, fault.event, history[-1])
            if history[-1].kind is _SOFTWARE:
                cpu.skip(-history[-1].length)
                before = cpu.snapshot()
            event = combined(history, fault.event)
            if event is not fault.event:
                _look(cpu, event, history[-1])
            history.append(event)
        except Guarded as refusal:
            refusal.during = history[-1]
            cpu.revert(before)
            raise
        except BaseException:
            cpu.revert(before)
            raise
        else:
            return history


def _look(cpu: Cpu, event: Event, during: Event) -> None:
    """Have an event that another one's delivery raised be looked at, if somebody wants to."""
    if cpu.intercept is None:
        return
    try:
        cpu.intercept(event, during)
    except Guarded as refusal:
        refusal.during = during
        raise


def _enter(cpu: Cpu, event: Event, rflags: int) -> None:
    """Enter the handler of `event`, or raise `Fault`."""
    vector, kind = event.vector, event.kind
    external = 0 if kind is _SOFTWARE else EXTERNAL
    cpl, code, stack = cpu.cpl, cpu.selector("cs"), cpu.selector("ss")
    rip, rsp = cpu.rip, cpu.rsp
    cpu.forget_exception()
    if cpl:  # From here on memory is reached with the supervisor's rights.
        cpu.set_cpl(0)
        cpu.store()

    gate = _gate(cpu, event, cpl, external)
    target = code_descriptor(cpu, gate.selector, cpl, external)
    if not target.is_64_bit_code:
        raise Fault(_GP, gate.selector & ~3 | external)
    new_cpl = cpl if target.conforming else target.dpl
    top = rsp
    if gate.ist:
        top = _from_tss(cpu, _TSS_IST1 + 8 * (gate.ist - 1), external)
    elif new_cpl < cpl:
        top = _from_tss(cpu, _TSS_RSP0 + 8 * new_cpl, external)
    frame = [stack, rsp, saved_flags(event, rflags), code, rip]
    if kind is _EXCEPTION and vector in WITH_ERROR_CODE:
        frame.append(event.error_code)
    cpu.rsp = _pushed(cpu, top & ~0xF, frame, external)
    if not target.accessed:
        mark_accessed(cpu, gate.selector)

    if event.cr2 is not None:
        cpu.cr2 = event.cr2
    null = Segment(new_cpl, 0, 0, new_cpl << 13) if new_cpl != cpl else None
    entered = target.segment.at(new_cpl)
    if entered.base:  # In 64-bit mode it counts for nothing.
        entered = entered._replace(base=0)
    cpu.enter(entered, new_cpl, null)
    cpu.rip = gate.offset
    cpu.store()
    cpu.rflags = rflags & (_CLEARED_AND_MASKED if gate.masks_interrupts else _CLEARED)


def _gate(cpu: Cpu, event: Event, cpl: int, external: int) -> Gate:
    base, limit = cpu.table("idt")
    error = event.vector * 8 | IN_IDT | external
    at = event.vector * LONG_GATE_BYTES
    if at + LONG_GATE_BYTES - 1 > limit:
        raise Fault(_GP, error)
    gate = parse_long_gate(read_system(cpu, base + at, LONG_GATE_BYTES))
    if gate.type not in _GATES or (not external and gate.dpl < cpl):
        raise Fault(_GP, error)
    if not gate.present:
        raise Fault(_NP, error)
    if not cpu.canonical(gate.offset):
        raise Fault(_GP, external)
    return gate


def _from_tss(cpu: Cpu, at: int, external: int) -> int:
    """Return a stack pointer that the TSS holds."""
    return int.from_bytes(read_tss(cpu, at, 8, external), "little")


def _pushed(cpu: Cpu, top: int, frame: list[int], external: int) -> int:
    """Push the values of a frame, and return where the last one lies."""
    bottom = top - 8 * len(frame)
    if bottom >= 0 and cpu.canonical(bottom) and cpu.canonical(top - 8):
        push(cpu, bottom, frame, 8)
        return bottom
    for value in frame:
        top = top - 8 & _TOP
        if not cpu.canonical(top):
            raise Fault(_SS, external)
        push(cpu, top, [value], 8)
    return top
