"""Campaigns against walkers under test that have one thing wrong, most of which list mappings."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from crosswalk.emu.findings.cause import joined
from crosswalk.emu.findings.findings import Finding
from crosswalk.emu.findings.form import form_of
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.interesting import reduced_to
from crosswalk.emu.targets import Target
from crosswalk.walker.formats import Case
from scripts.hunting.table import size_text

__all__ = ["Sought", "Walker", "search_walker", "walker_lines"]


class Walker(Protocol):
    """A walker that has one thing wrong."""

    @property
    def name(self) -> str:
        """What is wrong."""
        ...

    @property
    def claims(self) -> str:
        """What it answers."""
        ...

    def target(self) -> Target:
        """Return the walker, as an executor asks it."""
        ...


@dataclass(frozen=True, slots=True)
class Sought:
    """A campaign of one seed against a walker.

    `found` is the first layout, counted from 1, in which an answer is wrong, after `seconds` of CPU
    time; None if there is none. `rules` are the findings of all layouts, `causes` those that are
    left when findings of one cause are one; `case` is the smallest case of the first finding.
    """

    found: int | None
    seconds: float
    rules: int
    causes: int
    case: Case | None


def search_walker(walker: Walker, plan: Plan, layouts: int) -> Sought:
    """Ask a walker about so many layouts of a campaign without guidance; reduce what it has wrong.

    One case is reduced for each rule that differs, as a campaign does.
    """
    target = walker.target()
    executor = Executor(target=target, modes=target.modes or frozenset())
    found: dict[Signature, Finding] = {}
    first, seconds, began = None, 0.0, time.process_time()
    for index in range(layouts):
        layout = plan.layout(index, CoverageMap().pack())
        for each in executor.findings(layout).all():
            if each.signature.of_target:
                found.setdefault(each.signature, each)
        if found and first is None:
            first, seconds = index + 1, time.process_time() - began
    small = {
        signature: reduced_to(executor, each.whole, signature).case
        for signature, each in found.items()
    }
    causes = joined(small, lambda each: each, lambda each: form_of(small[each]))
    return Sought(first, seconds, len(found), len(causes), next(iter(small.values()), None))


def walker_lines(walkers: Sequence[Walker], searches: Sequence[Sequence[Sought]]) -> Iterator[str]:
    """Yield a row a walker; `searches` are those of each walker, one a seed."""
    yield "| what is wrong | claims | layouts | seconds | rules | causes | shrunk to |"
    yield "|---|---|--:|--:|--:|--:|---|"
    for walker, some in zip(walkers, searches, strict=True):
        found = [each.found for each in some if each.found is not None]
        until = f"{median(found):g}" if found else ""
        if len(found) < len(some):
            until += f" ({len(found)} of {len(some)})"
        cells = [
            walker.name,
            walker.claims,
            until,
            f"{median([each.seconds for each in some if each.found]):.2f}" if found else "",
            _range([each.rules for each in some]),
            _range([each.causes for each in some]),
            next((size_text(each.case) for each in some if each.case is not None), ""),
        ]
        yield f"| {' | '.join(cells)} |"


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"
