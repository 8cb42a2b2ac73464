"""Events that end a guest's operation early: an exit or an exception; and their prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from crosswalk.emu.check.departures import Departure, Scope, departures, named
from crosswalk.emu.check.nested_deviations import Deviation
from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import HOST_EFER, Exit
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import CR0, CR4, Vector
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import (
    EptMisconfiguration,
    EptViolation,
    NestedError,
    NestedPageFault,
    Qualification,
)
from crosswalk.walker.nested.translate import translate_nested
from crosswalk.walker.outcome import GeneralProtection, PageFault

__all__ = [
    "Fault",
    "GuestEvent",
    "departure_of",
    "departures_of",
    "describe_event",
    "predict_event",
    "same_event",
    "withheld_right",
]

_CAUSE = 0x1F
_NPT_ACCESSES = {
    int(NestedError.P | NestedError.US): AccessType.READ,
    int(NestedError.P | NestedError.US | NestedError.WR): AccessType.WRITE,
    int(NestedError.P | NestedError.US | NestedError.ID): AccessType.EXECUTE,
}
_EPT_ACCESSES = {
    int(Qualification.READ): AccessType.READ,
    int(Qualification.WRITE): AccessType.WRITE,
    int(Qualification.FETCH): AccessType.EXECUTE,
}
_EPT_ACCESS = sum(_EPT_ACCESSES)
_EPT_RIGHTS = Qualification.READABLE | Qualification.WRITABLE | Qualification.EXECUTABLE
_EPT_PAGE = Qualification.PAGE | Qualification.GLA_VALID


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception in the guest; `cr2` is 0 unless it is a page fault."""

    vector: int
    error_code: int
    cr2: int


@dataclass(frozen=True, slots=True)
class VmExit:
    """A VM exit of Intel's that no EPT entry caused: `what` did."""

    what: str


GuestEvent = Exit | Fault | EptViolation | EptMisconfiguration | VmExit
"""An event that ends an operation early: a #VMEXIT, a VM exit, or an exception in the guest."""


def describe_event(event: GuestEvent) -> str:
    """Return the event in a few words."""
    if isinstance(event, VmExit):
        return f"VM exit: {event.what}"
    if isinstance(event, EptMisconfiguration):
        return f"EPT misconfiguration at {event.gpa:#x}"
    if isinstance(event, EptViolation):
        return f"EPT violation at {event.gpa:#x}, qualification {event.qualification:#x}"
    if isinstance(event, Fault):
        return f"vector {event.vector}, error code {event.error_code:#x}, at {event.cr2:#x}"
    where = "" if event.gpa is None else f" at {event.gpa:#x}, error code {event.error_code:#x}"
    return f"exit {exit_name(event.code)}{where}"


def withheld_right(event: GuestEvent | None) -> tuple[int, AccessType] | None:
    """Return the address and the access of an event by which a right to a page was withheld.

    None for others, and where nothing at all is granted.
    """
    access: AccessType | None = None
    if isinstance(event, EptViolation):
        made = event.qualification & _EPT_ACCESS
        if event.qualification & _EPT_RIGHTS and event.qualification & _EPT_PAGE == _EPT_PAGE:
            access = _EPT_ACCESSES.get(made)
        return None if access is None else (event.gpa, access)
    if isinstance(event, Exit) and event.code == ExitCode.NPF and event.gpa is not None:
        access = _NPT_ACCESSES.get(event.error_code)
        return None if access is None else (event.gpa, access)
    return None


def same_event(predicted: GuestEvent | None, observed: GuestEvent | None) -> bool:
    """Return whether an event is the predicted one, but for bits that the manual leaves open."""
    if not isinstance(predicted, EptViolation) or not isinstance(observed, EptViolation):
        if isinstance(predicted, EptMisconfiguration) and isinstance(observed, EptMisconfiguration):
            return predicted.gpa == observed.gpa
        return predicted == observed
    differing = (predicted.qualification ^ observed.qualification) & ~predicted.open
    same_address = (predicted.gpa, predicted.gla) == (observed.gpa, observed.gla)
    return same_address and not differing


def departures_of(name: str, version: str) -> tuple[Departure, ...]:
    """Return the known departures of a machine, by its name and version, in two dimensions."""
    who = f"{name.partition(':')[0]} {version.rsplit(maxsplit=1)[-1]}"
    return departures(Scope.NESTED, who=who)


def departure_of(
    which: Sequence[Departure], predicted: GuestEvent | None, observed: GuestEvent | None
) -> str:
    """Return the names of the fewest departures that make the observed event of a predicted one.

    An empty text where none do.
    """
    if not isinstance(predicted, EptViolation):
        return ""
    for count in range(1, len(which) + 1):
        for some in combinations(which, count):
            changed = predicted
            for each in some:
                changed = _departed(changed, each.deviation)
            if changed != predicted and same_event(changed, observed):
                return named(some)
    return ""


def _departed(predicted: EptViolation, deviation: Deviation) -> EptViolation:
    made = predicted.qualification
    user = made & Qualification.USER_EXECUTABLE
    if deviation is Deviation.BIT_13 and user and not made & Qualification.FETCH:
        return replace(predicted, qualification=made ^ user | Qualification.SHADOW_STACK)
    if deviation is Deviation.TABLE_WRITE and not made & Qualification.PAGE:
        return replace(predicted, qualification=made & ~Qualification.READ)
    return predicted


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
