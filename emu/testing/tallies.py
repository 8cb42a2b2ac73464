"""What walkers were asked and answered in a whole test run, in however many processes."""

from collections.abc import Iterable, Mapping

from crosswalk.emu.report.text import count_text
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.tally import Tally
from crosswalk.walker.context import PagingMode

__all__ = ["Row", "complaints", "dump", "load"]

Row = tuple[str, str, str, int, int, int]
"""A walker, a paging mode, a claim ("" for the walker as a whole), and the questions asked,
answered and declined."""


def dump(tallies: Mapping[str, Tally]) -> list[Row]:
    """Return the tallies of walkers as rows, which go from one process to another."""
    return [
        (
            walker,
            mode.value,
            "" if claim is None else claim.value,
            count,
            tally.answered[mode, claim],
            tally.declined[mode, claim],
        )
        for walker, tally in tallies.items()
        for (mode, claim), count in tally.asked.items()
    ]


def load(rows: Iterable[Row]) -> dict[str, Tally]:
    """Return the tallies of which these are the rows, those of one walker added up."""
    found: dict[str, Tally] = {}
    for walker, mode, claim, asked, answered, declined in rows:
        tally = found.setdefault(walker, Tally())
        key = PagingMode(mode), Capability(claim) if claim else None
        tally.asked[key] += asked
        tally.answered[key] += answered
        tally.declined[key] += declined
    return found


def complaints(tallies: Mapping[str, Tally]) -> list[str]:
    """Return a line for each walker of which a claim was asked and never answered."""
    return [
        f"{walker}: {tally.verdict} ({count_text(tally.total[0], 'question')})"
        for walker, tally in sorted(tallies.items())
        if tally.unanswered
    ]
