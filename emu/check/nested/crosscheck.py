"""The cross-check in two dimensions: what the walker predicts, put to a CPU in guest mode."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from crosswalk.emu.check.nested.compare import NestedDivergence, agrees, restates
from crosswalk.emu.check.nested.departures import known_nested
from crosswalk.emu.check.nested.emulated import EMULATOR, MANUAL, emulated
from crosswalk.walker.access import Access
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.nested.translate import translate_nested
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault

__all__ = ["KINDS", "NestedObserver", "NestedPredictor", "NestedVerdict", "check_nested", "kind_of"]

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

    `predict` says whose predictions are checked. What the emulator agrees to is held against a
    second statement of the manual's rules, too: where it departs from them, it can't be the judge.
    An access that it would not survive is not made.
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
