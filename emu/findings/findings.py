"""The divergences of one layout, gathered by the rule that differs."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.check.explain import explain
from crosswalk.emu.findings.caseless import Caseless, attempted
from crosswalk.emu.findings.layout import Layout, layout_case
from crosswalk.emu.findings.signature import Signature, signature_of
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.report.verdict import divergence_case
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.judge import TargetVerdict
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.translate import walk_access

__all__ = ["INTENDED", "SECOND_WALK", "WALKER", "WRITABLE", "Finding", "Findings", "confirm"]

WALKER, SECOND_WALK, INTENDED = "walker", "second walk", "meant"
"""Who is compared with the CPU: the built-in walker, what the emulated CPU is stated to do
(`crosswalk.emu.check.explain.as_emulated`), a layout's intentions."""

WRITABLE = "a case that can be written"
"""What is due where the case of a finding can't be made."""

Fields = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that two witnesses disagree about: how often in a layout, and a case of it.

    `row` is the first access that shows it. `case` holds that access and the entries of its
    walk, `whole` the access under all of the layout's tables.
    """

    signature: Signature
    count: int
    row: int
    case: Case
    whole: Case


class Findings:
    """Gathers what any two witnesses say differently of one layout.

    `divergent` counts the accesses that no known emulator divergence explains, once for each
    witness. `asked` bool[n] are those that the CPU was asked for, all unless given: cases of the
    others don't say what was observed. `answered` and `declined` count the accesses that a walker
    under test was asked for.
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
        self._failures: list[Signature] = []
        self._unseen: set[Signature] = set()
        self._diverging: NDArray[np.bool_] = np.zeros(len(layout.accesses), np.bool_)
        self.known: Counter[str] = Counter()
        self.divergent = 0
        self.answered = self.declined = 0

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
        context = self._layout.context
        rows = np.flatnonzero(verdict.wrong).tolist()
        self.divergent += len(rows)
        if verdict.observed is not None:
            self._diverging |= verdict.wrong
        for row in rows:
            access = verdict.accesses[row]
            path = walk_access(self._memory, context, access)
            divergence = Divergence(access, verdict.reported[row], verdict.expected[row], path)
            names = [name for name, column in verdict.fields.items() if column[row]]
            about = verdict.claims_of(row, claims)
            signature = signature_of(context, divergence, names, witness, about)
            asked = False  # An extra mapping is no access of the layout, and has no row in it.
            if verdict.observed is not None:
                # A case holds what was observed, not what is expected in the terms of a claim.
                divergence = replace(divergence, observed=verdict.observed[row])
                asked = bool(self._asked[row])
            self._keep(signature, divergence, row, asked=asked)

    def _keep(self, signature: Signature, divergence: Divergence, row: int, *, asked: bool) -> None:
        self._counts[signature] += 1
        if signature not in self._first:
            self._first[signature] = divergence
            self._row[signature] = row
            if not asked:
                self._unseen.add(signature)

    def add_failure(self, signature: Signature) -> None:
        """Gather that a walker under test failed to answer."""
        self.divergent += 1
        self._counts[signature] += 1
        self._failures.append(signature)

    @property
    def signatures(self) -> set[Signature]:
        """What has been found."""
        return {*self._first, *self._failures}

    @property
    def rows(self) -> list[int]:
        """The accesses made that anybody is wrong about, the emulator's known errors included."""
        found: list[int] = np.flatnonzero(self._diverging & self._asked).tolist()
        return found

    @property
    def undisputed(self) -> NDArray[np.bool_]:
        """bool[n]: the accesses of which all say the same."""
        return ~self._diverging

    def all(self) -> tuple[Finding, ...]:
        """Return one finding a signature, in the order of their first accesses."""
        return tuple(self._finding(signature) for signature in self._ordered())

    def gathered(self) -> tuple[Finding | Caseless, ...]:
        """Return the same; a finding whose case can't be made is there without, and why not."""
        found: list[Finding | Caseless] = []
        failed: list[Caseless] = []
        for signature in self._ordered():
            made = attempted(WRITABLE, lambda each=signature: self._finding(each), failed)  # type: ignore[misc]  # Bound now.
            found.append(Caseless(signature, self._counts[signature]) if made is None else made)
        return (*found, *failed)

    def _ordered(self) -> list[Signature]:
        by_row = sorted(self._first, key=lambda each: (self._row[each], each))
        return [*by_row, *self._failures]

    def _finding(self, signature: Signature) -> Finding:
        layout = self._layout
        if signature not in self._first:
            case = layout_case(layout)
            return Finding(signature, self._counts[signature], 0, case, case)
        case = divergence_case(layout.context, layout.ram, self._first[signature])
        if signature in self._unseen:
            bare = tuple(replace(each, predicted=None, observed=None) for each in case.probes)
            case = replace(case, probes=bare)
        whole = replace(layout_case(layout, rows=slice(0)), probes=case.probes)
        return Finding(signature, self._counts[signature], self._row[signature], case, whole)


def confirm(prober: Prober, layout: Layout, observed: Outcomes, rows: list[int]) -> None:
    """Make these accesses once more, in an engine call each.

    `ProbeError` where that is not what the bulk run showed: the testbed would be wrong.
    """
    again = prober.probe(layout.accesses.take(np.array(rows, np.intp)), bulk=False)
    for at, row in enumerate(rows):
        if again[at] != observed[row]:
            raise ProbeError(
                f"bulk and single probes differ: {layout.accesses[row]}: "
                f"{observed[row]}, {again[at]}"
            )
