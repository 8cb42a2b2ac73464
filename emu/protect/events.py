"""Events that end a guest's operation early: an exit or an exception; and their prediction."""

from dataclasses import dataclass

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import HOST_EFER, Exit
from crosswalk.walker.access import Access
from crosswalk.walker.architecture import CR0, CR4, Vector
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedPageFault
from crosswalk.walker.nested.translate import translate_nested
from crosswalk.walker.outcome import GeneralProtection, PageFault

__all__ = ["Fault", "GuestEvent", "describe_event", "predict_event"]

_CAUSE = 0x1F


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception in the guest; `cr2` is 0 unless it is a page fault."""

    vector: int
    error_code: int
    cr2: int


GuestEvent = Exit | Fault
"""An event that ends an operation early: a #VMEXIT, or an exception in the guest."""


def describe_event(event: GuestEvent) -> str:
    """Return the event in a few words."""
    if isinstance(event, Fault):
        return f"vector {event.vector}, error code {event.error_code:#x}, at {event.cr2:#x}"
    where = "" if event.gpa is None else f" at {event.gpa:#x}, error code {event.error_code:#x}"
    return f"exit {exit_name(event.code)}{where}"


def predict_event(
    memory: PhysicalMemory, context: PagingContext, nested_cr3: int, access: Access
) -> GuestEvent | None:
    """Predict a guest access with the nested walk: the event that ends it, None if it succeeds.

    `memory` is system-physical, `context` has the guest's registers.
    """
    host = PagingContext(
        cr0=CR0.PG | CR0.PE,
        cr3=nested_cr3,
        cr4=CR4.PAE,
        efer=HOST_EFER,
        pkru=0,
        maxphyaddr=MAXPHYADDR,
    )
    outcome = translate_nested(memory, NestedContext(context, host), access)
    if isinstance(outcome, NestedPageFault):
        return Exit(ExitCode.NPF, outcome.error_code & _CAUSE, outcome.gpa)
    if isinstance(outcome, PageFault):
        return Fault(Vector.PF, outcome.error_code, outcome.cr2)
    if isinstance(outcome, GeneralProtection):
        return Fault(Vector.GP, 0, 0)
    return None
