"""What a check found, told and kept: divergences, what stands in the way of a better verdict."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from crosswalk.emu.check import DEPARTURES, Verdict
from crosswalk.emu.cli.output import remark, write_file
from crosswalk.emu.report.conclusion import Conclusion
from crosswalk.emu.report.verdict import (
    divergence_case,
    divergence_lines,
    listing_case,
    listing_lines,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import dump_case
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["save_cases", "tell_advice", "tell_beside"]

_SHOWN = 10


def tell_advice(verdict: Verdict, word: Conclusion) -> None:
    """Tell what stands in the way of a better verdict, if anything does."""
    for each in verdict.lost:
        remark(
            f"{each.how}, twice, at {each.targets:,} pages, holes and entries from "
            f"{each.first:#x} to {each.last:#x} (--start, --end)"
        )
    if word.advice:
        remark(f"crosswalk: {word.advice}")


def tell_beside(
    options: argparse.Namespace,
    verdict: Verdict,
    context: PagingContext,
    say: Callable[[str], None],
) -> None:
    """Tell the first divergences, and with --verbose about the known ones."""
    _tell_divergences(verdict, context, say)
    if options.verbose:
        _explain_known(verdict, say)


def _tell_divergences(verdict: Verdict, context: PagingContext, say: Callable[[str], None]) -> None:
    for divergence in verdict.divergences[:_SHOWN]:
        for line in divergence_lines(divergence, context):
            say(line)
    for unlike in verdict.listing[:_SHOWN]:
        for line in listing_lines(unlike, context):
            say(line)
    shown = len(verdict.divergences[:_SHOWN]) + len(verdict.listing[:_SHOWN])
    if verdict.divergent > shown:
        say(f"… and {verdict.divergent - shown:,} more (--cases DIR keeps them)")


def _explain_known(verdict: Verdict, say: Callable[[str], None]) -> None:
    for entry in DEPARTURES:
        counts = (count for name, count in verdict.known.items() if entry.id in name.split("+"))
        if times := sum(counts):
            say(f"{entry.id}: {times:,} times")
            say(f"  manual: {entry.manual}")
            say(f"  reason: {entry.reason}")


def save_cases(
    folder: Path | None,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: Verdict,
) -> None:
    """Write each divergence into a folder, if one is given."""
    if folder is None or not verdict.divergent:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from error
    ram = tuple(memory.ranges)
    for number, divergence in enumerate(verdict.divergences):
        case = divergence_case(context, ram, divergence)
        write_file(folder / f"divergence-{number:04}.json", dump_case(case))
    for number, unlike in enumerate(verdict.listing):
        case = listing_case(context, ram, unlike)
        write_file(folder / f"listing-{number:04}.json", dump_case(case))
    some = shlex.quote(str(folder))
    if verdict.divergences:
        remark(
            f"wrote {len(verdict.divergences):,} cases; "
            f"replay: crosswalk replay {some}/divergence-*.json"
        )
    if verdict.listing:
        remark(
            f"wrote {len(verdict.listing):,} cases of the list; "
            f"check: crosswalk check {some}/listing-0000.json"
        )
