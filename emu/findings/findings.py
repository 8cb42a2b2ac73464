"""Findings: divergences gathered by the rule that differs, each with a case that shows it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import AllowedOutcome, is_allowed
from crosswalk.emu.check.compare import Divergence, explain
from crosswalk.emu.check.composites import CompositeChecker, CompositeVerdict
from crosswalk.emu.findings.layout import Layout, layout_case
from crosswalk.emu.findings.note import listed_text
from crosswalk.emu.findings.signature import (
    INTENDED,
    SECOND_WALK,
    WALKER,
    Signature,
    failed_signature,
    signature_of,
    without_numbers,
)
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.composites import FORMS, NAMES, CompositeOutcomes, Composites, Family
from crosswalk.emu.report.composites import CompositeCase, composite_case
from crosswalk.emu.report.verdict import divergence_case
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.judge import TargetVerdict
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.workers.process import ProcessLost, is_out_of_memory
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import PhysicalMemory, SparseWords
from crosswalk.walker.outcome import error_names
from crosswalk.walker.translate import walk, walk_access

__all__ = [
    "EXPLAINED",
    "INTENDED",
    "SECOND_WALK",
    "WALKER",
    "WRITABLE",
    "Caseless",
    "CompositeFinding",
    "Finding",
    "Findings",
    "attempted",
    "error_text",
    "findings_in",
    "findings_of",
    "gathered",
    "gathered_of",
    "judged_case",
    "wrong_answer",
    "wrong_answers",
]


WRITABLE = "a case that can be written"
"""What is due where the case of a finding can't be made."""

EXPLAINED = "effective rights that explain what the CPU does"
"""What is due where Crosswalk's own effective rights can't be right."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caseless:
    """A finding without a case: its signature, and how often it occurred."""

    signature: Signature
    count: int = 1


def attempted(
    due: str, work: Callable[[], Result], failed: list[Caseless], count: int = 1
) -> Result | None:
    """Return what `work` returns; None, and a finding added to `failed`, where it raises.

    `due` says what would have been right. `ProbeError` passes: it is about the emulator. So does
    what is no result of the work: `ProcessLost`, and that there is no memory.
    """
    try:
        return work()
    except (ProbeError, ProcessLost):
        raise
    except Exception as error:  # Whatever it is, the campaign goes on, and says so.
        if is_out_of_memory(error):
            raise
        failed.append(Caseless(failed_signature(due, without_numbers(error_text(error))), count))
        return None


def gathered(
    counts: Mapping[Signature, int], make: Callable[[Signature], Result]
) -> tuple[Result | Caseless, ...]:
    """Return the finding that `make` makes of each signature; one whose case can't be made without.

    Behind them is what failed.
    """
    found: list[Result | Caseless] = []
    failed: list[Caseless] = []
    for signature, count in counts.items():
        made = attempted(WRITABLE, partial(make, signature), failed)
        found.append(Caseless(signature, count) if made is None else made)
    return (*found, *failed)


def error_text(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).splitlines()
    return printable(": ".join([type(error).__name__, *lines[:1]]))


Fields = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that two witnesses disagree about: how often in a layout, and a case of it.

    `row` is the first access that shows it. `case` holds that access and the entries of its
    walk, `whole` the access under all of the layout's tables. `answer` is in words what a case
    doesn't hold: all of a list's answer, or how a walker failed at first; else empty.
    """

    signature: Signature
    count: int
    row: int
    case: Case
    whole: Case
    answer: str = ""


class Findings:
    """Gathers what any two witnesses say differently of one layout.

    `divergent` counts the accesses that no known emulator divergence explains, once for each
    witness. `asked` bool[n] are those that the CPU was asked for, by default all: cases of the
    others have no observed outcome. `tally` counts the questions to a walker under test,
    `unasked` the accesses that weren't put to it after too many failures, `unlisted` those that no
    list is asked for.
    """

    def __init__(
        self, layout: Layout, memory: SparseWords, asked: NDArray[np.bool_] | None = None
    ) -> None:
        self._layout = layout
        self._asked = np.ones(len(layout.accesses), np.bool_) if asked is None else asked
        self._memory = memory
        self._first: dict[Signature, Divergence] = {}
        self._row: dict[Signature, int] = {}
        self._counts: Counter[Signature] = Counter()
        self._failures: dict[Signature, tuple[Accesses, str]] = {}
        self._unseen: set[Signature] = set()
        self._diverging: NDArray[np.bool_] = np.zeros(len(layout.accesses), np.bool_)
        self.known: Counter[str] = Counter()
        self.divergent = 0
        self.tally = Tally()
        self.unasked = self.unlisted = 0

    def add(
        self,
        witness: str,
        said: Outcomes,
        truth: Outcomes,
        fields: Fields,
    ) -> NDArray[np.bool_]:
        """Gather the accesses of which `fields` says that they differ, and how.

        Returns bool[n]: those of them that a known divergence of the emulator explains.
        """
        memory, context, accesses = self._memory, self._layout.context, self._layout.accesses
        differ = np.logical_or.reduce(list(fields.values()))
        self._diverging |= differ
        explained = np.zeros(len(differ), np.bool_)
        if witness == WALKER:
            rows = np.flatnonzero(differ)
            found = explain(memory, context, accesses.take(rows), said.take(rows), truth.take(rows))
            self.known.update(name for name in found if name is not None)
            explained[rows] = [name is not None for name in found]
        rest = np.flatnonzero(differ & ~explained).tolist()
        self.divergent += len(rest)
        for row in rest:
            access = accesses[row]
            divergence = Divergence(
                access, said[row], truth[row], walk_access(memory, context, access)
            )
            names = [name for name, column in fields.items() if column[row]]
            signature = signature_of(context, divergence, names, witness)
            self._keep(signature, divergence, row, asked=bool(self._asked[row]))
        return explained

    def add_verdict(
        self, witness: str, claims: frozenset[Capability], verdict: TargetVerdict
    ) -> None:
        """Gather the wrong answers of a walker under test."""
        given = self._memory, self._layout.context, witness, claims, verdict
        if verdict.observed is not None:
            self._diverging |= verdict.wrong
        for row, signature, divergence in wrong_answers(*given):
            self.divergent += 1
            # An extra mapping is no access of the layout, and has no row in it.
            asked = verdict.observed is not None and bool(self._asked[row])
            self._keep(signature, divergence, row, asked=asked)

    def _keep(self, signature: Signature, divergence: Divergence, row: int, *, asked: bool) -> None:
        self._counts[signature] += 1
        if signature not in self._first:
            self._first[signature] = divergence
            self._row[signature] = row
            if not asked:
                self._unseen.add(signature)

    def add_failure(
        self, signature: Signature, accesses: Accesses, count: int = 1, why: str = ""
    ) -> None:
        """Gather a failure that shows when these accesses are asked for, and no others.

        `why` is in words what happened, of which the signature has the kind.
        """
        self.divergent += count
        self._counts[signature] += count
        self._failures.setdefault(signature, (accesses, why))

    @property
    def signatures(self) -> set[Signature]:
        """What has been found."""
        return {*self._first, *self._failures}

    @property
    def rows(self) -> NDArray[np.intp]:
        """The accesses made that any witness is wrong about, known divergences included."""
        return np.flatnonzero(self._diverging & self._asked)

    @property
    def undisputed(self) -> NDArray[np.bool_]:
        """bool[n]: the accesses of which all say the same."""
        return ~self._diverging

    def all(self) -> tuple[Finding, ...]:
        """Return one finding a signature, in the order of their first accesses."""
        return tuple(self._finding(signature) for signature in self._ordered())

    def gathered(self) -> tuple[Finding | Caseless, ...]:
        """Return the same; a finding whose case can't be made is there without, and why not."""
        counts = {signature: self._counts[signature] for signature in self._ordered()}
        return gathered(counts, self._finding)

    def _ordered(self) -> list[Signature]:
        by_row = sorted(self._first, key=lambda each: (self._row[each], each))
        return [*by_row, *self._failures]

    def _finding(self, signature: Signature) -> Finding:
        layout = self._layout
        if signature not in self._first:
            accesses, why = self._failures[signature]
            case = layout_case(replace(layout, accesses=accesses))
            return Finding(signature, self._counts[signature], 0, case, case, why)
        case = divergence_case(layout.context, layout.ram, self._first[signature])
        said = self._first[signature].predicted
        if signature in self._unseen:
            # What was predicted is no answer where it isn't that of a walker under test.
            kept = case.probes[0].predicted if signature.of_target else None
            bare = tuple(replace(each, predicted=kept, observed=None) for each in case.probes)
            case = replace(case, probes=bare)
        whole = replace(layout_case(layout, rows=slice(0)), probes=case.probes)
        count, row = self._counts[signature], self._row[signature]
        return Finding(signature, count, row, case, whole, listed_text(signature, said))


def wrong_answers(
    memory: PhysicalMemory,
    context: PagingContext,
    witness: str,
    claims: frozenset[Capability],
    verdict: TargetVerdict,
) -> Iterator[tuple[int, Signature, Divergence]]:
    """Yield each wrong answer of a walker under test: its row, the signature, the divergence."""
    for row in np.flatnonzero(verdict.wrong).tolist():
        yield row, *wrong_answer(memory, context, witness, claims, verdict, row)


def wrong_answer(
    memory: PhysicalMemory,
    context: PagingContext,
    witness: str,
    claims: frozenset[Capability],
    verdict: TargetVerdict,
    row: int,
) -> tuple[Signature, Divergence]:
    """Return the signature and the divergence of a wrong answer of a walker under test.

    The divergence has the observed outcome where there is one, and else the true answer in the
    terms of the claims.
    """
    access = verdict.accesses[row]
    path = walk_access(memory, context, access)
    divergence = Divergence(access, verdict.said(row), verdict.expected[row], path)
    names = [name for name, column in verdict.fields.items() if column[row]]
    about = verdict.claims_of(row, claims)
    signature = signature_of(context, divergence, names, witness, about)
    if verdict.observed is not None:
        divergence = replace(divergence, observed=verdict.observed[row])
    return signature, divergence


@dataclass(frozen=True, slots=True)
class CompositeFinding:
    """Divergences of composites with one signature in one address space, and a case of them.

    The case holds the entries of its walks; `allowed` and `seen` have one row, the
    predicted and the observed outcomes.
    """

    signature: Signature
    count: int
    case: CompositeCase
    allowed: list[AllowedOutcome]
    seen: CompositeOutcomes


def findings_of(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    judged: CompositeVerdict,
    witness: str = WALKER,
) -> tuple[CompositeFinding, ...]:
    """Return what diverges and isn't known, by signature, in the order of the composites.

    `witness` is who is compared with the truth: the walker with what was observed, or a judge,
    who observed it, with what the manuals allow.
    """
    return tuple(
        _finding(memory, context, composites, judged, signature, rows)
        for signature, rows in _by_signature(composites, judged, witness).items()
    )


def gathered_of(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    judged: CompositeVerdict,
    witness: str = WALKER,
) -> tuple[CompositeFinding | Caseless, ...]:
    """Return the same; a finding whose case can't be made is there without, and why not."""
    rows = _by_signature(composites, judged, witness)
    return gathered(
        {signature: len(some) for signature, some in rows.items()},
        lambda each: _finding(memory, context, composites, judged, each, rows[each]),
    )


def _by_signature(
    composites: Composites, judged: CompositeVerdict, witness: str
) -> dict[Signature, list[int]]:
    """Return the rows that diverge and aren't known, by signature."""
    found: dict[Signature, list[int]] = {}
    for row in np.flatnonzero(judged.differ).tolist():
        found.setdefault(_signature(judged, composites, row, witness), []).append(row)
    return found


def _finding(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    judged: CompositeVerdict,
    signature: Signature,
    rows: list[int],
) -> CompositeFinding:
    """Return the finding that these rows show, with a case of the first."""
    first = slice(rows[0], rows[0] + 1)
    one = composites.take(first)
    words: dict[int, int] = {}
    for va in (int(one.va[0]), int(one.second_va()[0])):
        # A walk that leaves the memory reads zeros there, which are no words of a case.
        words |= {pa: word for pa, word in walk(memory, context, va).words if word}
    allowed = [option.take(first) for option in judged.allowed]
    case = composite_case(context, tuple(memory.ranges), words, one)
    return CompositeFinding(signature, len(rows), case, allowed, judged.seen.take(first))


def findings_in(stand: CompositeChecker, case: CompositeCase) -> tuple[CompositeFinding, ...]:
    """Return what a case's composite shows, one at the most; raises as `judged_case`."""
    memory, context = case.case.memory(), case.case.context()
    return findings_of(memory, context, case.composite, judged_case(stand, case))


def judged_case(stand: CompositeChecker, case: CompositeCase) -> CompositeVerdict:
    """Return what becomes of a case's composite; raises as `CompositeChecker.judge` does."""
    return stand.judge(case.case.memory(), case.case.context(), case.composite)


def _signature(judged: CompositeVerdict, composites: Composites, row: int, who: str) -> Signature:
    """Return which composite differs, and how: in the outcome, or only in the words changed."""
    name = NAMES[int(composites.form[row])]
    seen = judged.seen.take(slice(row, row + 1))
    allowed = [option.take(slice(row, row + 1)) for option in judged.allowed]
    said = [_text(option, name) for option in allowed if option.valid[0]]
    witness, truth = who, _text(seen, name)
    if who != WALKER:
        if truth in said:
            return Signature(witness, f"{name}: address, CR2, A or D", "another", truth)
        return Signature(witness, name, truth, " or ".join(said))
    if is_allowed(allowed, seen)[0]:
        # The manuals allow it, but it isn't what the emulated CPU is stated to do.
        witness, said = SECOND_WALK, [_text(judged.stated.take(slice(row, row + 1)), name)]
    if truth in said:
        return Signature(witness, f"{name}: address, CR2, A or D", "another", truth)
    return Signature(witness, name, " or ".join(said), truth)


def _text(row: AllowedOutcome | CompositeOutcomes, name: str) -> str:
    count = 2 if FORMS[name].family is Family.TWICE else 1
    return " then ".join(_answer(row, at) for at in range(count))


def _answer(row: AllowedOutcome | CompositeOutcomes, at: int) -> str:
    kind = Kind(row.kind[0, at])
    if kind is Kind.PAGE_FAULT:
        return f"#PF {error_names(int(row.error_code[0, at]))}"
    return "ok" if kind is Kind.OK else "#GP"
