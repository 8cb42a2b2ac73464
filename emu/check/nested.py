"""The walk in two dimensions, put to a CPU in guest mode."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Protocol

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.nested_emulated import EMULATOR, MANUAL, emulated
from crosswalk.walker.access import Access
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.nested.translate import translate_nested
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation

__all__ = [
    "KINDS",
    "NestedDivergence",
    "NestedObserver",
    "NestedPredictor",
    "NestedVerdict",
    "agrees",
    "check_nested",
    "kind_of",
    "known_nested",
    "restates",
]


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
            known = ~0 if observed.error_code & _STAGE else ~_STAGE
            same = predicted.gpa == observed.gpa
            differs = predicted.error_code & known ^ observed.error_code
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


def known_nested(
    memory: PhysicalMemory, context: NestedContext, divergence: NestedDivergence
) -> NestedDivergence:
    """Return the divergence, marked with the fewest departures that explain it, if any do.

    They do if the walker predicts what the manual says, by a second statement of it, and what was
    observed is exactly what the departures make of that.
    """
    access, observed = divergence.access, divergence.observed
    by_manual = emulated(memory, context, access, MANUAL)
    if by_manual is None or not restates(memory, divergence.predicted, by_manual):
        return divergence
    table = departures(Scope.NESTED)
    for count in range(1, len(table) + 1):
        for some in combinations(table, count):
            deviations = reduce(or_, (each.deviation for each in some))
            expected = emulated(memory, context, access, deviations)
            if (
                expected is not None
                and expected.entries == observed.entries
                and agrees(memory, expected, observed)
            ):
                return replace(divergence, known=tuple(each.id for each in some))
    return divergence


NestedPredictor = Callable[[PhysicalMemory, NestedContext, Access], NestedOutcome]


class NestedObserver(Protocol):
    """What says how an access under a pair of layouts went: a prober, or what one left behind."""

    def probe(self, access: Access) -> NestedOutcome:
        """Return what was observed of the access."""
        ...


_CAUSES = ("not present", "rights", "reserved bit")
KINDS = (
    "translation",
    "#GP",
    *(f"#PF, {each}" for each in _CAUSES),
    *(f"nested, table, {each}" for each in _CAUSES),
    *(f"nested, page, {each}" for each in _CAUSES),
)
"""The kinds of outcome that are counted: whose fault, at what, and why."""


@dataclass(frozen=True, slots=True)
class NestedVerdict:
    """What a check of one pair of layouts found.

    `counts` are the accesses by kind of predicted outcome, `known` those explained by each
    departure of the emulator (one may need several), `explained` how many accesses that are.
    `fatal` are the accesses that weren't made, because the emulator wouldn't survive them.
    """

    probes: int
    divergences: tuple[NestedDivergence, ...]
    explained: int
    known: dict[str, int]
    counts: dict[str, int]
    fatal: tuple[Access, ...]

    @property
    def agreements(self) -> int:
        """The number of accesses of which walker and CPU say the same."""
        return self.probes - len(self.divergences) - self.explained


def check_nested(
    prober: NestedObserver,
    memory: PhysicalMemory,
    context: NestedContext,
    accesses: Sequence[Access],
    *,
    predict: NestedPredictor = translate_nested,
) -> NestedVerdict:
    """Make accesses under a pair of layouts, which `prober` has entered, and compare.

    `predict` says whose predictions are checked. Agreements are compared with a second
    statement of the manual's rules as well: where the emulator departs from them, it proves
    nothing. An access that would end the emulator isn't made.
    """
    divergences: list[NestedDivergence] = []
    fatal: list[Access] = []
    known: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    explained = 0
    for access in accesses:
        if emulated(memory, context, access, EMULATOR) is None:
            fatal.append(access)
            continue
        predicted = predict(memory, context, access)
        counts[kind_of(predicted)] += 1
        observed = prober.probe(access)
        if agrees(memory, predicted, observed):
            manual = emulated(memory, context, access, MANUAL)
            if manual is None or not restates(memory, predicted, manual):
                divergences.append(NestedDivergence(access, predicted, observed, manual=manual))
            continue
        found = known_nested(memory, context, NestedDivergence(access, predicted, observed))
        if found.known:
            explained += 1
            known.update(found.known)
        else:
            divergences.append(found)
    return NestedVerdict(
        len(accesses) - len(fatal),
        tuple(divergences),
        explained,
        dict(sorted(known.items())),
        dict(counts),
        tuple(fatal),
    )


def kind_of(outcome: NestedOutcome) -> str:
    """Return the kind of an outcome, one of `KINDS`."""
    match outcome:
        case PageFault():
            return f"#PF, {_cause(outcome.error_code)}"
        case GeneralProtection():
            return "#GP"
        case NestedPageFault():
            at = "table" if outcome.error_code & NestedError.TABLE else "page"
            return f"nested, {at}, {_cause(outcome.error_code)}"
    return "translation"


def _cause(code: int) -> str:
    if code & ErrorCode.RSVD:
        return _CAUSES[2]
    return _CAUSES[1] if code & ErrorCode.P else _CAUSES[0]
