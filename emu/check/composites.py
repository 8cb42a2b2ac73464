"""Composites, put to the emulated CPU and held against the outcomes that the manuals allow.

A composite is explained as a divergence of an access is (`crosswalk.emu.check.compare`): exactly,
or not.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import (
    AllowedOutcome,
    Parts,
    allowed_outcomes,
    is_allowed,
    parts_of,
    second_outcomes,
    sequence,
)
from crosswalk.emu.check.compare import choose, fewest_departures
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.check.departures import UNICORN, Scope, departures, emulated_rules
from crosswalk.emu.check.emulated import emulated_many
from crosswalk.emu.check.emulated_rules import Rules, rules_of
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.composites import (
    WORDS_SEEN,
    CompositeOutcomes,
    Composites,
    Family,
)
from crosswalk.emu.probe.scope import Lacking
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = [
    "CompositeChecker",
    "CompositeVerdict",
    "Possible",
    "composites_as_emulated",
    "emulated_composites",
    "explain_composites",
    "same_seen",
]


_SCOPES = (Scope.ACCESS, Scope.COMPOSITE)
_ZERO = np.uint64(0)
_TYPE_BYTE = 4
"""Where in a descriptor the four bytes begin of which one is written to mark it as accessed."""


def composites_as_emulated(
    memory: PhysicalMemory, context: PagingContext, composites: Composites
) -> CompositeOutcomes:
    """Return what the emulated CPU is stated to do, all of its departures included."""
    return emulated_composites(memory, emulated_rules(context, departures(*_SCOPES)), composites)


def explain_composites(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    allowed: list[AllowedOutcome],
    seen: CompositeOutcomes,
    who: str = UNICORN,
) -> list[str | None]:
    """Return for each of these composites the name of the departures that explain it, or None.

    It is explained if the second walk by the manuals has an outcome in `allowed`, from which the
    observed one diverges, if the manuals don't allow what was observed, and if the second walk with
    all departures has exactly that outcome, changed words included.

    Of another judge than Unicorn, `who`, any of its departures may explain it; it has the choices
    of order and of A bits that a processor has.
    """
    manual = emulated_composites(memory, rules_of(context), composites)
    exact = is_allowed(allowed, manual)
    exact &= ~is_allowed(allowed_outcomes(composites, parts_of(memory, context, composites)), seen)
    if who == UNICORN:
        exact &= same_seen(composites_as_emulated(memory, context, composites), seen)

    def same(rules: Rules, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        some, outcomes = composites.take(rows), seen.take(rows)
        if who == UNICORN:
            return same_seen(emulated_composites(memory, rules, some), outcomes)
        return is_allowed(_allowed_by(memory, rules, some), outcomes)

    return fewest_departures(context, exact, same, *_SCOPES, who=who)


def _allowed_by(
    memory: PhysicalMemory, rules: Rules, composites: Composites
) -> list[AllowedOutcome]:
    """Return the outcomes that composites may have on a processor with these rules."""
    first, second, split = _accesses_of(memory, rules, composites, every=True)
    parts = Parts(first, second)
    option, *others = allowed_outcomes(composites, parts)
    return [choose(split, sequence(parts), option), *others]


def same_seen(these: CompositeOutcomes, others: CompositeOutcomes) -> NDArray[np.bool_]:
    """Return bool[n]: which rows are equal in everything."""
    same = np.ones(len(these), np.bool_)
    for name in CompositeOutcomes.__dataclass_fields__:
        same &= (getattr(these, name) == getattr(others, name)).all(axis=1)
    return same


def emulated_composites(
    memory: PhysicalMemory, rules: Rules, composites: Composites
) -> CompositeOutcomes:
    """Return what a processor with these rules makes of composites, in the emulated CPU's order.

    The accesses of a composite are made in turn, each with a walk of its own: the second if the
    first succeeded, or in any case where they are two instructions. What the TLB keeps of the
    first changes nothing: privilege, AC and PKRU are part of what it is looked up by, and D is
    set by a walk. An access that goes on in another page reaches the first page first. An
    implicit one reads the descriptor from its first byte, and then writes its upper four.
    """
    first, second, split = _accesses_of(memory, rules, composites, every=False)
    implicit, twice = composites.family(Family.IMPLICIT), composites.family(Family.TWICE)
    chained = composites.has_two() & ~twice | split
    happens = twice | (chained & (first.kind == Kind.OK))
    cross = composites.family(Family.CROSS)
    seen = CompositeOutcomes.empty(len(composites))
    # One that succeeds answers where it begins.
    begins = (cross | implicit) & (second.kind == Kind.OK)
    answers_second = happens & chained & ~begins
    for name in ("kind", "pa", "error_code", "cr2"):
        one, two, into = getattr(first, name), getattr(second, name), getattr(seen, name)
        into[:, 0] = np.where(answers_second, two, one)
        into[twice, 1] = two[twice]
    both = cross & happens & (second.kind == Kind.OK)
    seen.pa[both, 1] = second.pa[both]
    seen.entry_pa[:], seen.entry_value[:] = _all_words(first, second, happens)
    return seen


def _accesses_of(
    memory: PhysicalMemory, rules: Rules, composites: Composites, *, every: bool
) -> tuple[Outcomes, Outcomes, NDArray[np.bool_]]:
    """Return the outcomes of the first and second accesses of composites, each by itself.

    The last is bool[n]: which read-modify-writes are a read and then a write. With `every` a
    fault's words are all that may change, and a descriptor's two accesses begin where it does.
    """
    rmw, implicit = composites.family(Family.RMW), composites.family(Family.IMPLICIT)
    cpl = np.where(implicit, np.uint8(0), composites.cpl)
    ac = composites.ac & ~(implicit & ((composites.cpl == 3) | (not rules.implicit_heeds_ac)))
    split = rmw & rules.rmw_reads_first
    kind = np.where(split, np.uint8(AccessType.READ), composites.types(0))
    accesses = Accesses(composites.va, kind, cpl, ac)
    first = emulated_many(memory, rules, accesses, every_choice=every)
    return first, _second(memory, rules, composites, (cpl, ac), every=every), split


def _second(
    memory: PhysicalMemory,
    rules: Rules,
    composites: Composites,
    runs: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    *,
    every: bool,
) -> Outcomes:
    """Return the outcomes of the second accesses, under the PKRU of each."""
    twice, rmw = composites.family(Family.TWICE), composites.family(Family.RMW)
    descriptor = composites.family(Family.IMPLICIT) & composites.has_two() & (not every)
    accesses = Accesses(
        composites.second_va() + np.where(descriptor, np.uint64(_TYPE_BYTE), _ZERO),
        np.where(rmw, np.uint8(AccessType.WRITE), composites.types(1)),
        np.where(twice, composites.then_cpl, runs[0]),
        np.where(twice, composites.then_ac, runs[1]),
    )

    def answers(pkru: int | None, some: Accesses) -> Outcomes:
        changed = pkru is not None and rules.pkru is not None
        under = replace(rules, pkru=pkru) if changed else rules
        return emulated_many(memory, under, some, every_choice=every)

    return second_outcomes(composites, accesses, answers)


def _all_words(first: Outcomes, second: Outcomes, happens: NDArray[np.bool_]) -> tuple[U64, U64]:
    """Return (address, value) uint64[n, 10] of the words that both walks change, by address."""
    where = np.concatenate([first.entry_pa, second.entry_pa * happens[:, None]], axis=1)
    value = np.concatenate([first.entry_value, second.entry_value * happens[:, None]], axis=1)
    width = WORDS_SEEN // 2
    for at in range(width):
        # What both change has the bits of both.
        again = (where[:, width:] == where[:, at, None]) & (where[:, at, None] != 0)
        value[:, at] |= np.bitwise_or.reduce(np.where(again, value[:, width:], _ZERO), axis=1)
        value[:, width:] = np.where(again, _ZERO, value[:, width:])
        where[:, width:] = np.where(again, _ZERO, where[:, width:])
    order = np.argsort(np.where(value != 0, where, ~_ZERO), axis=1, kind="stable")
    return np.take_along_axis(where, order, 1), np.take_along_axis(value, order, 1)


@dataclass(frozen=True, slots=True)
class CompositeVerdict:
    """Predicted and observed outcomes of n composites.

    `stated` is what the second walk has the emulated CPU do. `differ` bool[n]: which diverge,
    from the allowed and unexplained, or from what is stated; `known` has the number explained by
    each name of departures, `explained` bool[n] which those are.
    """

    allowed: list[AllowedOutcome]
    stated: CompositeOutcomes
    seen: CompositeOutcomes
    differ: NDArray[np.bool_]
    explained: NDArray[np.bool_]
    known: dict[str, int]


@dataclass(frozen=True, slots=True)
class Possible:
    """Those of n composites that were `made`, and their verdict.

    `lacking` uint8[n] is what the emulated CPU lacks for each, as the prober says, `impossible`
    the number of the others that have no outcome here.
    """

    made: Composites
    judged: CompositeVerdict
    lacking: Lacking
    impossible: int


class CompositeChecker:
    """Checks composites in one address space after another, with one engine."""

    def __init__(self, predict: Predictor = translate_many) -> None:
        self._predict = predict
        self._prober: CompositeProber | None = None

    def judge(
        self, memory: PhysicalMemory, context: PagingContext, composites: Composites
    ) -> CompositeVerdict:
        """Make composites and compare them; raises as the prober does."""
        return self._judge(self._entered(memory, context), memory, context, composites)

    def judge_possible(
        self, memory: PhysicalMemory, context: PagingContext, composites: Composites
    ) -> Possible:
        """Do the same with those that the emulated CPU has the features and an outcome for."""
        prober = self._entered(memory, context)
        lacking = prober.lacking(composites)
        possible = prober.possible(composites)
        made = composites.take(np.flatnonzero(possible & (lacking == 0)))
        judged = self._judge(prober, memory, context, made)
        return Possible(made, judged, lacking, int((~possible & (lacking == 0)).sum()))

    def _entered(self, memory: PhysicalMemory, context: PagingContext) -> CompositeProber:
        if self._prober is None:
            self._prober = CompositeProber(memory, context)
        else:
            self._prober.enter(memory, context)
        return self._prober

    def _judge(
        self,
        prober: CompositeProber,
        memory: PhysicalMemory,
        context: PagingContext,
        composites: Composites,
    ) -> CompositeVerdict:
        seen = prober.probe(composites)
        allowed = allowed_outcomes(composites, parts_of(memory, context, composites, self._predict))
        differ = ~is_allowed(allowed, seen)
        explained = np.zeros(len(composites), np.bool_)
        rows = np.flatnonzero(differ)
        names = explain_composites(
            memory,
            context,
            composites.take(rows),
            [option.take(rows) for option in allowed],
            seen.take(rows),
        )
        explained[rows] = [name is not None for name in names]
        known = Counter(name for name in names if name is not None)
        stated = composites_as_emulated(memory, context, composites)
        differ = (differ & ~explained) | ~same_seen(stated, seen)
        return CompositeVerdict(
            allowed, stated, seen, differ, explained, dict(sorted(known.items()))
        )
