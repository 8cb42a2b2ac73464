"""The walk in two dimensions, put to a CPU in guest mode: AMD's nested paging, and Intel's EPT."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Protocol

from crosswalk.emu.check.departures import FATAL, PANIC, UNICORN, Departure, Scope, departures
from crosswalk.emu.check.nested_deviations import EMULATOR, MANUAL, Deviation
from crosswalk.emu.check.nested_emulated import emulated, emulated_outcomes
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.nested.context import EptContext, NestedContext
from crosswalk.walker.nested.outcome import (
    EptMisconfiguration,
    EptViolation,
    NestedError,
    NestedOutcome,
    NestedPageFault,
    Qualification,
)
from crosswalk.walker.nested.translate import nested_outcomes, walk_nested
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation

__all__ = [
    "EPT_KINDS",
    "KINDS",
    "NestedAnswer",
    "NestedDivergence",
    "NestedObserver",
    "NestedPredictor",
    "NestedVerdict",
    "agrees",
    "allowed_by",
    "check_answers",
    "check_nested",
    "is_fatal",
    "kind_of",
    "known_nested",
    "restates",
]


Shows = Callable[[Access, int], bool]
"""Says whether a machine can show that an access reached a system-physical address."""

NestedAnswer = NestedOutcome | Reason
"""What a judge says of an access: what was observed, or why there is no outcome."""

_UNSEEN = Reason(Unjudged.NOT_SHOWN, "nothing shows which address was reached")
_OF_BOTH = Reason(
    Unjudged.NOT_SHOWN, "A or D of the guest's entry is another bit of EPT's in the same word"
)
"""What a walk makes of such a word goes by when the processor sets A and D, which is its choice."""


def _all_is_shown(_access: Access, _pa: int) -> bool:
    return True


_STAGE = int(NestedError.FINAL | NestedError.TABLE)
_EPT_RIGHTS = int(
    Qualification.READABLE
    | Qualification.WRITABLE
    | Qualification.EXECUTABLE
    | Qualification.USER_EXECUTABLE
)


@dataclass(frozen=True, slots=True)
class NestedDivergence:
    """An access of which the walker and the CPU that was asked say different things.

    `predicted` are the outcomes that the prediction allows, one but for marks that EPT refuses.
    `known` are the ids of this CPU's known departures that explain it together; none if
    nothing does. `manual` is given where the two say the same, and a second statement of the
    manual's rules something else: a departure that the walker shares with the CPU.
    """

    access: Access
    predicted: tuple[NestedOutcome, ...]
    observed: NestedOutcome
    known: tuple[str, ...] = ()
    manual: tuple[NestedOutcome, ...] = ()


def agrees(memory: PhysicalMemory, predicted: NestedOutcome, observed: NestedOutcome) -> bool:
    """Return whether an observed outcome is among those that a prediction allows.

    Kind, addresses, error code and CR2 have to be equal, but for bits of EXITINFO1 and of an exit
    qualification that are left open; FINAL and TABLE where it was observed which it is. Of an
    access that succeeded the changed words have to be equal too; of one that faulted each bit set
    has to be one that may be.
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
        case EptViolation(), EptViolation():
            same = (predicted.gpa, predicted.gla) == (observed.gpa, observed.gla)
            differs = predicted.qualification ^ observed.qualification
            same &= not differs & ~predicted.open
        case EptMisconfiguration(), EptMisconfiguration():
            same = predicted.gpa == observed.gpa
        case _:
            return False
    return same and _may_change(memory, predicted, observed)


def restates(
    memory: PhysicalMemory,
    predicted: Sequence[NestedOutcome],
    manual: Sequence[NestedOutcome],
) -> bool:
    """Return whether a prediction and a second statement of the manual's rules are the same.

    What a prediction leaves open has to be what the manual does: else to leave all open would do.
    """

    def same(one: NestedOutcome, other: NestedOutcome) -> bool:
        both = (one, other)
        bits = [each.open for each in both if isinstance(each, NestedPageFault | EptViolation)]
        return agrees(memory, one, other) and len(set(bits)) < 2

    return all(any(same(one, other) for one in predicted) for other in manual) and all(
        any(same(one, other) for other in manual) for one in predicted
    )


def allowed_by(
    memory: PhysicalMemory, predicted: Sequence[NestedOutcome], observed: NestedOutcome
) -> bool:
    """Return whether one of some predicted outcomes allows an observed one."""
    return any(agrees(memory, each, observed) for each in predicted)


def _may_change(memory: PhysicalMemory, predicted: NestedOutcome, observed: NestedOutcome) -> bool:
    allowed = dict(predicted.entries)
    for pa, value in observed.entries:
        before = memory.word(pa) or 0
        if value & before != before or value & ~(allowed.get(pa, 0) | before):
            return False
    return True


def known_nested(
    memory: PhysicalMemory,
    context: NestedContext,
    divergence: NestedDivergence,
    who: str = UNICORN,
) -> NestedDivergence:
    """Return the divergence, marked with the fewest departures of `who` that explain it, if any do.

    They do if the walker predicts what the manual says, by a second statement of it, and what was
    observed is exactly what the departures make of that. Where another machine leaves the words
    alone that a fault may change, it is what they make of it but for these.
    """
    access, observed = divergence.access, divergence.observed
    by_manual = emulated_outcomes(memory, context, access, MANUAL)
    if not restates(memory, divergence.predicted, by_manual):
        return divergence
    for some in _subsets(who):
        expected = emulated_outcomes(memory, context, access, _together(some))
        if who == UNICORN:
            expected = tuple(each for each in expected if each.entries == observed.entries)
        if allowed_by(memory, expected, observed):
            return replace(divergence, known=tuple(each.id for each in some))
    return divergence


def _subsets(who: str) -> Iterator[tuple[Departure, ...]]:
    """Yield the sets of a judge's departures, the smaller ones first."""
    table = departures(Scope.NESTED, who=who)
    for count in range(1, len(table) + 1):
        yield from combinations(table, count)


def _together(some: Iterable[Departure]) -> Deviation:
    return reduce(or_, (each.deviation for each in some), MANUAL)


NestedPredictor = Callable[[PhysicalMemory, NestedContext, Access], tuple[NestedOutcome, ...]]
"""Returns the outcomes that an access may have."""


class NestedObserver(Protocol):
    """What says how an access under a pair of layouts went: a prober, or what one left behind."""

    def probe(self, access: Access) -> NestedOutcome:
        """Return what was observed of the access."""
        ...


_CAUSES = ("not present", "rights", "reserved bit")
_GUEST_KINDS = ("translation", "#GP", *(f"#PF, {each}" for each in _CAUSES))
KINDS = (
    *_GUEST_KINDS,
    *(f"nested, table, {each}" for each in _CAUSES),
    *(f"nested, page, {each}" for each in _CAUSES),
)
"""The kinds of outcome that are counted: whose fault, at what, and why."""

_NO_RIGHT, _RIGHTS, _UPDATE = "no right", "rights", "A or D"
EPT_KINDS = (
    *_GUEST_KINDS,
    *(f"EPT violation, table, {each}" for each in (_NO_RIGHT, _RIGHTS, _UPDATE)),
    *(f"EPT violation, page, {each}" for each in (_NO_RIGHT, _RIGHTS)),
    *(f"EPT misconfiguration, {each}" for each in ("table", "page")),
)
"""The same under EPT. "No right": an entry isn't present, or what all let through is nothing. "A or
D": a guest's entry could be read, and not written to set them.
"""


@dataclass(frozen=True, slots=True)
class NestedVerdict:
    """What a check of one pair of layouts found.

    `counts` are the accesses by kind of predicted outcome, `explained` the divergences that known
    departures of the CPU explain, `known` how many each of these does (one may need several).
    `fatal` are the accesses that the CPU is known not to survive, made or not, `ended` others at
    which the machine ended, `not_shown` how many others have no outcome, by reason: none of them
    is one of `probes`.
    """

    probes: int
    divergences: tuple[NestedDivergence, ...]
    explained: tuple[NestedDivergence, ...]
    known: dict[str, int]
    counts: dict[str, int]
    fatal: tuple[Access, ...]
    ended: tuple[tuple[Access, Reason], ...] = ()
    not_shown: dict[Reason, int] = field(default_factory=dict)

    @property
    def agreements(self) -> int:
        """The number of accesses of which walker and CPU say the same."""
        return self.probes - len(self.divergences) - len(self.explained)


def check_nested(
    prober: NestedObserver,
    memory: PhysicalMemory,
    context: NestedContext,
    accesses: Sequence[Access],
    *,
    predict: NestedPredictor = nested_outcomes,
) -> NestedVerdict:
    """Make accesses under a pair of layouts, which `prober` has entered, and compare.

    `predict` says whose predictions are checked. Agreements are compared with a second
    statement of the manual's rules as well: where the emulator departs from them, it proves
    nothing. An access that would end the emulator isn't made.
    """
    made: list[Access] = []
    answers: list[NestedAnswer] = []
    fatal: list[Access] = []
    for access in accesses:
        if emulated(memory, context, access, EMULATOR) is None:
            fatal.append(access)
            continue
        made.append(access)
        answers.append(prober.probe(access))
    found = check_answers(memory, context, made, answers, UNICORN, predict=predict)
    return replace(found, fatal=tuple(fatal))


def check_answers(
    memory: PhysicalMemory,
    context: NestedContext,
    accesses: Sequence[Access],
    answers: Sequence[NestedAnswer],
    who: str,
    *,
    predict: NestedPredictor = nested_outcomes,
    shows: Shows = _all_is_shown,
) -> NestedVerdict:
    """Compare what `who` answered to accesses under a pair of layouts, as `check_nested` does.

    `who` is a name of `crosswalk.emu.check.departures`, which may have a version. `context` has the
    features of the CPU that answered. Where it can't show that an access reached the address that
    is predicted, or to which its departures lead, a translation proves nothing.
    """
    tally = _Tally(memory, context, who, predict, shows)
    for access, answer in zip(accesses, answers, strict=True):
        if isinstance(answer, Reason):
            tally.add_silence(access, answer)
        else:
            tally.add(access, answer)
    return NestedVerdict(
        tally.probes,
        tuple(tally.divergences),
        tuple(tally.explained),
        dict(sorted(tally.known.items())),
        dict(tally.counts),
        tuple(tally.fatal),
        tuple(tally.ended),
        dict(sorted(tally.silent.items())),
    )


@dataclass(slots=True)
class _Tally:
    """What `check_answers` finds, as `NestedVerdict` has it."""

    memory: PhysicalMemory
    context: NestedContext
    who: str
    predict: NestedPredictor
    shows: Shows
    probes: int = 0
    divergences: list[NestedDivergence] = field(default_factory=list)
    explained: list[NestedDivergence] = field(default_factory=list)
    fatal: list[Access] = field(default_factory=list)
    ended: list[tuple[Access, Reason]] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    silent: Counter[Reason] = field(default_factory=Counter)

    def add_silence(self, access: Access, reason: Reason) -> None:
        """Count an access without an outcome."""
        if reason.kind is not Unjudged.ENDED:
            self.silent[reason] += 1
        elif is_fatal(self.memory, self.context, access, self.who):
            self.fatal.append(access)
        else:
            self.ended.append((access, reason))

    def add(self, access: Access, observed: NestedOutcome) -> None:
        """Count an outcome."""
        memory, context = self.memory, self.context
        predicted = self.predict(memory, context, access)
        if self._unseen(predicted, access, observed):
            self.silent[_UNSEEN] += 1
            return
        if self._lacks_stage(observed):
            self.divergences.append(NestedDivergence(access, predicted, observed))
        elif allowed_by(memory, predicted, observed):
            manual = emulated_outcomes(memory, context, access, MANUAL)
            if not restates(memory, predicted, manual):
                again = NestedDivergence(access, predicted, observed, manual=manual)
                self.divergences.append(again)
        else:
            divergence = NestedDivergence(access, predicted, observed)
            found = known_nested(memory, context, divergence, self.who)
            if found.known:
                self.explained.append(found)
                self.known.update(found.known)
            elif self._led_unseen(access, observed):
                self.silent[_UNSEEN] += 1
                return
            elif self._of_both(access):
                self.silent[_OF_BOTH] += 1
                return
            else:
                self.divergences.append(found)
        self.probes += 1
        self.counts[kind_of(predicted[0], access)] += 1

    def _lacks_stage(self, observed: NestedOutcome) -> bool:
        """Return whether a nested fault lacks its stage, which Unicorn alone doesn't report."""
        if self.who == UNICORN or not isinstance(observed, NestedPageFault):
            return False
        return not observed.error_code & _STAGE

    def _unseen(
        self, outcomes: Sequence[NestedOutcome], access: Access, observed: NestedOutcome
    ) -> bool:
        """Return whether it can't be told that one of these outcomes occurred.

        A fetch from where no mark is goes on with whatever lies there.
        """
        blind = isinstance(observed, Translation) or access.type is AccessType.EXECUTE
        return blind and any(
            isinstance(each, Translation) and not self.shows(access, each.pa) for each in outcomes
        )

    def _of_both(self, access: Access) -> bool:
        """Return whether a guest's entry on the way to an address is also one of the EPT."""
        if not isinstance(self.context.host, EptContext):
            return False
        path = walk_nested(self.memory, self.context, access.va)
        lookups = (*path.tables, path.page) if path.page is not None else path.tables
        ept = {step.pa for each in lookups for step in each.path.steps}
        return any(step.pa in ept for step in path.guest.steps)

    def _led_unseen(self, access: Access, observed: NestedOutcome) -> bool:
        """Return whether departures may have led to where nothing shows it."""
        return any(
            self._unseen(
                emulated_outcomes(self.memory, self.context, access, _together(some)),
                access,
                observed,
            )
            for some in _subsets(self.who)
        )


def is_fatal(memory: PhysicalMemory, context: NestedContext, access: Access, who: str) -> bool:
    """Return whether `who` is known not to survive an access."""
    ending = [each for each in (FATAL, PANIC) if each.shown_by(who)]
    all_of_them = _together([*departures(Scope.NESTED, who=who), *ending])
    return bool(ending) and not emulated_outcomes(memory, context, access, all_of_them)


def kind_of(outcome: NestedOutcome, access: Access) -> str:
    """Return the kind of an access's outcome, one of `KINDS` or of `EPT_KINDS`."""
    match outcome:
        case PageFault():
            return f"#PF, {_cause(outcome.error_code)}"
        case GeneralProtection():
            return "#GP"
        case NestedPageFault():
            at = "table" if outcome.error_code & NestedError.TABLE else "page"
            return f"nested, {at}, {_cause(outcome.error_code)}"
        case EptViolation():
            at = "page" if outcome.qualification & Qualification.PAGE else "table"
            return f"EPT violation, {at}, {_withheld(outcome)}"
        case EptMisconfiguration():
            # An entry's address is a multiple of 8; so are some that are accessed.
            at = "table" if (outcome.gpa ^ access.va) % FRAME else "page"
            return f"EPT misconfiguration, {at}"
    return "translation"


def _withheld(violation: EptViolation) -> str:
    if violation.open & Qualification.READ:
        return _UPDATE
    return _RIGHTS if violation.qualification & _EPT_RIGHTS & ~violation.open else _NO_RIGHT


def _cause(code: int) -> str:
    if code & ErrorCode.RSVD:
        return _CAUSES[2]
    return _CAUSES[1] if code & ErrorCode.P else _CAUSES[0]
