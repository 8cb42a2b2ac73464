"""Events that a CPU delivers: exceptions, interrupts, INT instructions; their vectors and names.

Source: Intel SDM vol. 3A, "Exception and Interrupt Vectors", "Error Code", "Interrupt 8—Double
Fault Exception (#DF)" for faults while delivering.
"""

from enum import Enum
from typing import NamedTuple

from crosswalk.walker.architecture import RFlags, Vector
from crosswalk.walker.errors import CrosswalkError

__all__ = [
    "EXTERNAL",
    "IN_IDT",
    "IN_LDT",
    "WITH_ERROR_CODE",
    "Event",
    "Fault",
    "Kind",
    "NotEmulated",
    "TripleFault",
    "combined",
    "mnemonic",
    "saved_flags",
    "vector_name",
]

_NAMES: dict[int, str] = {each: "NMI" if each is Vector.NMI else f"#{each.name}" for each in Vector}
_RF = int(RFlags.RF)
_CONTRIBUTORY = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP})

WITH_ERROR_CODE = frozenset(
    {*(Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC, Vector.CP)}
)
"""The vectors of exceptions that push an error code, outside real mode."""

_TRAPS_AND_ABORTS = frozenset({Vector.DB, Vector.BP, Vector.OF, Vector.DF, Vector.MC})
"""The vectors of exceptions that aren't faults: the flags that they save have RF as it was."""

EXTERNAL, IN_IDT, IN_LDT = 1, 2, 4
"""Bits of an error code that names a descriptor; the last one is in a selector, too."""


class Kind(Enum):
    """Where an event comes from."""

    EXCEPTION = "exception"
    INTERRUPT = "interrupt"
    SOFTWARE = "INT"

    __hash__ = object.__hash__  # An enumeration's own takes longer; each event is counted by it.


class Event(NamedTuple):
    """Something to deliver.

    `error_code` counts for the exceptions that have one, `cr2` is set for those that come with
    an address. `length` is that of an INT instruction, in bytes.
    """

    vector: int
    kind: Kind
    error_code: int = 0
    cr2: int | None = None
    length: int = 0


_EXCEPTION, _SOFTWARE = Kind.EXCEPTION, Kind.SOFTWARE


class TripleFault(CrosswalkError):
    """A double fault couldn't be delivered: the CPU shuts down."""


class NotEmulated(CrosswalkError):
    """The guest asked for something that this CPU doesn't do; the message says what."""


class Fault(Exception):
    """A fault that the CPU raises while it delivers an event, or in place of an instruction."""

    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__(vector, error_code)
        self.event = Event(vector, Kind.EXCEPTION, error_code, cr2)


def vector_name(vector: int) -> str:
    """Return a vector's number, with the name of its exception if it has one."""
    return f"{vector} ({_NAMES[vector]})" if vector in _NAMES else str(vector)


def mnemonic(vector: int) -> str:
    """Return the name of a vector's exception, or the INT that has this vector."""
    return _NAMES.get(vector, f"INT {vector:#x}")


def saved_flags(event: Event, rflags: int) -> int:
    """Return the flags that an event's delivery saves: RF is set by faults alone.

    Source: Intel SDM vol. 3B, "Instruction-Breakpoint Exception Condition".
    """
    kind = event.kind
    if kind is _SOFTWARE:
        return rflags & ~_RF  # Unicorn keeps what IRET loaded to the end of a block.
    if kind is _EXCEPTION and event.vector not in _TRAPS_AND_ABORTS:
        return rflags | _RF
    return rflags


def combined(history: list[Event], fault: Event) -> Event:
    """Return the event that a fault becomes while the last event is delivered: it or #DF.

    `history` are the events that were to be delivered so far.

    Raises `TripleFault` where the last one is #DF.
    """
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
