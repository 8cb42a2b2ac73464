"""Sequences: what was observed, held against the outcomes that caching allows."""

from collections.abc import Sequence as Several
from dataclasses import dataclass
from itertools import combinations

from emu.check.known_sequences import known_sequence
from walker.access import Access
from walker.outcome import Outcome
from walker.tlb import Halted, Option, Rule, Sequence, TlbModel

__all__ = ["Judged", "Violation", "judge"]

_ALL = frozenset(Rule)


@dataclass(frozen=True, slots=True)
class Violation:
    """An outcome that isn't allowed, at step `at`: `causes` say what would make it so.

    `known` is the id of the registered departure of the emulator that it is, if any; the first
    one's, where it takes several.
    """

    at: int
    seen: Outcome | Halted
    allowed: tuple[Option, ...]
    causes: tuple[str, ...]
    known: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a sequence's accesses came to, up to the first violation.

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


def judge(sequence: Sequence, observed: Several[Outcome | Halted]) -> Judged:
    """Return how the observed outcomes of a sequence's accesses agree with what is allowed.

    Judging ends with the first violation: what follows from it proves nothing.
    """
    model = TlbModel(sequence)
    seen = iter(observed)
    forced = fresh = stale = 0
    allowed: list[tuple[Option, ...]] = []
    outcomes: list[Outcome] = []
    violation: Violation | None = None
    for at, step in enumerate(sequence.steps):
        if not isinstance(step, Access):
            model.do(step)
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
            causes = _causes(sequence, at, outcomes)
            known = _known(sequence, at, causes)
            violation = Violation(at, outcome, options, causes, known)
            break
        choice = any(each[:3] != options[0][:3] for each in options)
        forced += not choice
        fresh += choice and option.fresh
        stale += choice and not option.fresh
        model.saw(step, outcome)
    else:
        last = next(seen, None)
        if isinstance(last, Halted):
            violation = _halted(sequence, last)
    return Judged(forced, fresh, stale, tuple(allowed), violation)


def _halted(sequence: Sequence, seen: Halted) -> Violation:
    causes = (f"{type(sequence.steps[seen.at]).__name__} raises {seen.why}",)
    return Violation(seen.at, seen, (), causes, _known(sequence, seen.at, causes))


def _known(sequence: Sequence, at: int, causes: tuple[str, ...]) -> str | None:
    found = [known_sequence(sequence, at, cause) for cause in causes]
    return found[0] if all(found) else None


def _causes(sequence: Sequence, at: int, outcomes: list[Outcome]) -> tuple[str, ...]:
    """Return the one rule, or two, without which the last outcome would be allowed, in words.

    Where no two rules have to do with it, that is said.
    """
    for count in (1, 2):
        for rules in combinations(Rule, count):
            if _would_be_allowed(sequence, at, outcomes, frozenset(rules)):
                return tuple(str(rule) for rule in rules)
    if _would_be_allowed(sequence, at, outcomes, _ALL):
        return ("several rules are broken at once",)
    return ("nothing that may have been cached explains it",)


def _would_be_allowed(
    sequence: Sequence, last: int, outcomes: list[Outcome], without: frozenset[Rule]
) -> bool:
    model, seen = TlbModel(sequence, without), iter(outcomes)
    explained = False
    for step in sequence.steps[: last + 1]:
        if isinstance(step, Access):
            outcome = next(seen)
            explained = model.explains(step, model.allowed(step), outcome) is not None
            model.saw(step, outcome)
        else:
            model.do(step)
    return explained
