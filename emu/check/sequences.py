"""Sequences: what was observed, held against the outcomes that caching allows."""

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from crosswalk.emu.check.departures import (
    UNICORN,
    Departure,
    Scope,
    departures,
    emulated_rules,
    named,
)
from crosswalk.emu.check.emulated_rules import Keys, Pages, Rules, levels_of, rules_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.outcome import ErrorCode, Outcome, PageFault
from crosswalk.walker.tlb import Halted, Option, Rule, Sequence, TlbModel
from crosswalk.walker.tlb.model import Deny, Describe
from crosswalk.walker.tlb.steps import after
from crosswalk.walker.tlb.walks import Decode, Decoded, decoded
from crosswalk.walker.translate import cause, denied

__all__ = ["Reading", "SequenceVerdict", "Violation", "judge", "reading_of", "sequence_subsets"]


_USER_TABLES = 8
"""In what is granted: U/S is set in all entries above the page's own. A departure asks that."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How `TlbModel` reads entries and describes accesses for a processor with departures."""

    decode: Decode
    describe: Describe
    deny: Deny


@lru_cache(1 << 6)
def reading_of(which: tuple[Departure, ...], who: str = UNICORN) -> Reading:
    """Return how a processor with these departures reads entries: as the second walk does."""

    @lru_cache(1 << 12)
    def decode(context: PagingContext, level: int, entry: int) -> Decoded:
        return _decoded(emulated_rules(context, which, who), level, entry)

    def describe(context: PagingContext, access: Access) -> int:
        fetch = access.type is AccessType.EXECUTE
        fetch = fetch and emulated_rules(context, which, who).fetch_bit
        return (
            (ErrorCode.WR if access.type is AccessType.WRITE else 0)
            | (ErrorCode.US if access.cpl == 3 else 0)
            | (ErrorCode.ID if fetch else 0)
        )

    def deny(context: PagingContext, access: Access, grant: int, key: int) -> int | None:
        return _denied(emulated_rules(context, which, who), context, access, (grant, key))

    return Reading(decode, describe, deny)


def _denied(
    rules: Rules, context: PagingContext, access: Access, rights: tuple[int, int]
) -> int | None:
    """Return the bits of the error code where a page's rights, and its key, deny an access."""
    grant, key = rights
    writable, user_page, executable = (bool(grant >> bit & 1) for bit in range(3))
    user, ac = access.cpl == 3, context.rflags_ac if access.ac is None else access.ac
    if access.type is AccessType.EXECUTE:
        smep = rules.smep and user_page and not user
        return 0 if not executable or smep or (user and not user_page) else None
    write, restricted = access.type is AccessType.WRITE, user or rules.wp
    if rules.pkru is not None:
        by_access = rules.user_keys is Keys.ACCESSES
        held = user_page or by_access
        if rules.user_keys is Keys.TABLES:
            held = bool(grant & _USER_TABLES)
        no_access = rules.pkru >> 2 * key & 1 and (user or not by_access)
        no_write = rules.pkru >> 2 * key & 2 and write and restricted
        if held and (no_access or no_write):
            return int(ErrorCode.PK)
    smap = rules.smap and user_page and not user and not ac
    read_only = write and restricted and not writable
    return 0 if smap or read_only or (user and not user_page) else None


def _decoded(rules: Rules, number: int, entry: int) -> Decoded:
    level = levels_of(rules)[rules.levels - number]
    bare = entry & ~rules.mask
    page = level.pages is Pages.ALL or (level.pages is Pages.WITH_PS and bool(entry >> 7 & 1))
    nothing = Decoded(Kind.PAGE_FAULT, reserved=False, grant=0, next_table=0, frame=0, key=0)
    if not entry & 1:
        return nothing
    bad = bare & (level.reserved_page if page else level.reserved)
    if bad:
        late = page and not bad & ~level.late
        return nothing._replace(reserved=True, accessed=late)
    # R/W and U/S lie one bit higher in an entry, and XD forbids what is granted.
    grant = entry >> 1 & 3 | (0 if entry >> 63 else 4)
    if rules.user_keys is Keys.TABLES and (page or entry & 4):
        grant |= _USER_TABLES
    return Decoded(
        kind=Kind.OK if page else None,
        reserved=False,
        grant=grant,
        next_table=bare & rules.frame_mask,
        frame=bare & rules.frame_mask & -(1 << level.shift),
        key=entry >> 59 & 15,
    )


def sequence_subsets(sequence: Sequence, who: str = UNICORN) -> Iterator[tuple[Departure, ...]]:
    """Yield the sets of single departures that change something in a state of the sequence.

    The smaller ones first, from none at all; those of one size in the table's order.
    """
    contexts = [sequence.context]
    for step in sequence.steps:
        if not isinstance(step, Access):
            contexts.append(after(contexts[-1], step))
    manual = {context: rules_of(context) for context in contexts}
    some = [
        each
        for each in departures(Scope.ACCESS, who=who)
        if any(each.change(rules) != rules for rules in manual.values())
    ]
    for count in range(len(some) + 1):
        yield from combinations(some, count)


_ALL = frozenset(Rule)


@dataclass(frozen=True, slots=True)
class Violation:
    """An outcome that isn't allowed, at step `at`: `causes` say what would make it so.

    `known` names the departures of the emulator that explain it, if they do.
    """

    at: int
    seen: Outcome | Halted
    allowed: tuple[Option, ...]
    causes: tuple[str, ...]
    known: str | None


@dataclass(frozen=True, slots=True)
class SequenceVerdict:
    """The outcomes of a sequence's accesses by kind, up to the first violation.

    `forced` had one allowed outcome, `fresh` could have seen another one and saw what memory
    says, `stale` saw what had been cached. `allowed` are the options of each access.
    """

    forced: int
    fresh: int
    stale: int
    allowed: tuple[tuple[Option, ...], ...]
    violation: Violation | None

    @property
    def accesses(self) -> int:
        """The number of accesses judged."""
        return self.forced + self.fresh + self.stale + (self.violation is not None)


def judge(
    sequence: Sequence, observed: Several[Outcome | Halted], who: str = UNICORN
) -> SequenceVerdict:
    """Return how the observed outcomes of a sequence's accesses agree with what is allowed.

    Judging ends with the first violation: what follows from it proves nothing. A violation is
    known if the departures of the judge, `who`, explain it: those of single accesses, by a model
    that reads entries as the second walk does, or those of its TLB, or both together.
    """
    judged = _judge(sequence, observed, _MANUAL)
    if judged.violation is None:
        return judged
    known = _explained(sequence, observed, who)
    return replace(judged, violation=replace(judged.violation, known=known))


_MANUAL = Reading(decoded, cause, denied)
"""The walker's own; that of the second walk is held against it by tests."""


def _explained(sequence: Sequence, observed: Several[Outcome | Halted], who: str) -> str | None:
    """Return the name of the departures that explain a sequence's violation, or None.

    Under the judge's departures of single accesses what was observed has to be allowed to the end,
    or to violate what a departure of its TLB violates. Unicorn has all of them: the fewest under
    which it is as it is under all are named. Of another judge any of them may be there.
    """
    sets = list(sequence_subsets(sequence, who))

    def left(which: tuple[Departure, ...]) -> Violation | None:
        seen = _with_p(observed) if _without_p(sequence.context, which) else observed
        return _judge(sequence, seen, reading_of(which, who)).violation

    if who == UNICORN:
        whole = left(sets[-1])
        which = next(some for some in sets if _alike(left(some), whole))
        return _named(sequence, which, whole, who)
    names = (_named(sequence, which, left(which), who) for which in sets)
    return next((name for name in names if name is not None), None)


def _named(
    sequence: Sequence, which: tuple[Departure, ...], left: Violation | None, who: str
) -> str | None:
    """Return the name of these departures, with one that explains the violation left by them.

    None where none explains it, or nothing was explained.
    """
    if left is None:
        return named(which) or None
    table = departures(Scope.SEQUENCE, who=who)
    found = [
        next((each for each in table if each.explains(sequence, left.at, cause)), None)
        for cause in left.causes
    ]
    first = found[0]
    return named((*which, first)) if first is not None and all(found) else None


def _without_p(context: PagingContext, which: tuple[Departure, ...]) -> bool:
    """Return whether a processor with these departures reports reserved bits without P."""
    rules = rules_of(context)
    return any(not each.change(rules).reserved_present for each in which)


def _with_p(observed: Several[Outcome | Halted]) -> list[Outcome | Halted]:
    """Return outcomes as they would be had faults for reserved bits P, which the model expects."""
    return [
        replace(each, error_code=each.error_code | ErrorCode.P)
        if isinstance(each, PageFault) and each.error_code & ErrorCode.RSVD
        else each
        for each in observed
    ]


def _alike(one: Violation | None, other: Violation | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.at, one.causes) == (other.at, other.causes)


def _judge(
    sequence: Sequence, observed: Several[Outcome | Halted], reading: Reading
) -> SequenceVerdict:
    model = _model(sequence, reading)
    seen = iter(observed)
    forced = fresh = stale = 0
    allowed: list[tuple[Option, ...]] = []
    outcomes: list[Outcome] = []
    violation: Violation | None = None
    for at, step in enumerate(sequence.steps):
        if not isinstance(step, Access):
            model.apply(step)
            continue
        outcome = next(seen)
        if isinstance(outcome, Halted):
            violation = _halted(sequence, outcome)
            break
        options = model.allowed(step)
        allowed.append(options)
        outcomes.append(outcome)
        option = model.explains(step, options, outcome)
        if option is None:
            causes = _causes(sequence, at, outcomes, reading)
            violation = Violation(at, outcome, options, causes, None)
            break
        choice = any(each[:3] != options[0][:3] for each in options)
        forced += not choice
        fresh += choice and option.fresh
        stale += choice and not option.fresh
        model.observe(step, outcome)
    else:
        last = next(seen, None)
        if isinstance(last, Halted):
            violation = _halted(sequence, last)
    return SequenceVerdict(forced, fresh, stale, tuple(allowed), violation)


def _halted(sequence: Sequence, seen: Halted) -> Violation:
    causes = (f"{type(sequence.steps[seen.at]).__name__} raises {seen.why}",)
    return Violation(seen.at, seen, (), causes, None)


def _model(
    sequence: Sequence, reading: Reading, without: frozenset[Rule] = frozenset()
) -> TlbModel:
    how = reading
    return TlbModel(sequence, without, decode=how.decode, describe=how.describe, deny=how.deny)


def _causes(
    sequence: Sequence, at: int, outcomes: list[Outcome], reading: Reading
) -> tuple[str, ...]:
    """Return the one rule, or two, without which the last outcome would be allowed, in words.

    If no two rules suffice, the one line says so.
    """
    for count in (1, 2):
        for rules in combinations(Rule, count):
            if _would_be_allowed(
                sequence, at, outcomes, _model(sequence, reading, frozenset(rules))
            ):
                return tuple(str(rule) for rule in rules)
    if _would_be_allowed(sequence, at, outcomes, _model(sequence, reading, _ALL)):
        return ("several rules are broken at once",)
    return ("nothing that may have been cached explains it",)


def _would_be_allowed(
    sequence: Sequence, last: int, outcomes: list[Outcome], model: TlbModel
) -> bool:
    seen = iter(outcomes)
    explained = False
    for step in sequence.steps[: last + 1]:
        if isinstance(step, Access):
            outcome = next(seen)
            explained = model.explains(step, model.allowed(step), outcome) is not None
            model.observe(step, outcome)
        else:
            model.apply(step)
    return explained
