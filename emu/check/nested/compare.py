"""Whether an outcome that was observed under nested paging is one that was predicted."""

from dataclasses import dataclass

from crosswalk.walker.access import Access
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

__all__ = ["NestedDivergence", "agrees", "restates"]

_STAGE = int(NestedError.FINAL | NestedError.TABLE)


@dataclass(frozen=True, slots=True)
class NestedDivergence:
    """An access of which the walker and the emulated CPU say different things.

    `known` are the ids of the emulator's known departures that explain it together; none if
    nothing does. `manual` is given where the two say the same, and a second statement of the
    manual's rules something else: a departure that the walker shares with the emulator.
    """

    access: Access
    predicted: NestedOutcome
    observed: NestedOutcome
    known: tuple[str, ...] = ()
    manual: NestedOutcome | None = None


def agrees(memory: PhysicalMemory, predicted: NestedOutcome, observed: NestedOutcome) -> bool:
    """Return whether an observed outcome is among those that a prediction allows.

    Kind, address, error code and CR2 have to be equal, but for bits of EXITINFO1 that are left
    open; FINAL and TABLE where it was observed which it is. Of an access that succeeded the changed
    words have to be equal too; of one that faulted each bit set has to be one that may be.
    """
    match predicted, observed:
        case Translation(), Translation():
            same = (predicted.pa, predicted.entries) == (observed.pa, observed.entries)
        case PageFault(), PageFault():
            same = (predicted.error_code, predicted.cr2) == (observed.error_code, observed.cr2)
        case GeneralProtection(), GeneralProtection():
            same = True
        case NestedPageFault(), NestedPageFault():
            told = ~0 if observed.error_code & _STAGE else ~_STAGE
            same = predicted.gpa == observed.gpa
            differs = predicted.error_code & told ^ observed.error_code
            same &= not differs & ~predicted.open
        case _:
            return False
    return same and _may_change(memory, predicted, observed)


def restates(memory: PhysicalMemory, predicted: NestedOutcome, manual: NestedOutcome) -> bool:
    """Return whether a prediction and a second statement of the manual's rules are the same.

    What a prediction leaves open has to be what the manual does: else to leave all open would do.
    """
    open_bits = [each.open for each in (predicted, manual) if isinstance(each, NestedPageFault)]
    return agrees(memory, predicted, manual) and len(set(open_bits)) < 2


def _may_change(memory: PhysicalMemory, predicted: NestedOutcome, observed: NestedOutcome) -> bool:
    allowed = dict(predicted.entries)
    for pa, value in observed.entries:
        before = memory.word(pa) or 0
        if value & before != before or value & ~(allowed.get(pa, 0) | before):
            return False
    return True
