"""`run` and `check`: every prediction of the walker, compared with the emulated CPU."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crosswalk.emu.check import Verdict
from crosswalk.emu.check.crosscheck import MAX_WIDTH
from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.intended import mismatches
from crosswalk.emu.cli.check_pieces import check_in_pieces
from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.output import (
    command_line,
    command_text,
    emit,
    print_verdict,
    progress,
    remark,
)
from crosswalk.emu.cli.sources import chosen_range, report_source, require_unread
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.load.guest import boot
from crosswalk.emu.report.conclusion import Conclusion, Extent, conclude
from crosswalk.emu.report.finding import finding_lines
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.source import unfollowed_lines
from crosswalk.emu.report.text import context_text
from crosswalk.emu.report.verdict import (
    divergence_case,
    exceptions_record,
    exceptions_text,
    listing_case,
    listing_lines,
    summary_record,
    verdict_lines,
)
from crosswalk.guest.builder import build_image
from crosswalk.guest.status import Taken
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, Source, SourceKind, dump_case
from crosswalk.walker.formats.files import make_folder, write_file
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.unfollowed import unfollowed

if TYPE_CHECKING:
    from crosswalk.emu.cli.check_walker import Answered

__all__ = [
    "machine_extent",
    "report_advice",
    "report_divergences",
    "run_check",
    "run_guest",
    "save_cases",
    "verdict_of",
]

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Intended:
    """Counts of intended pages and mismatches, and the exceptions that the guest took."""

    pages: int
    broken: list[str]
    taken: tuple[Taken, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What a check found: of SOURCE, of what a guest intended, of a walker under test."""

    verdict: Verdict
    extent: Extent
    intended: _Intended | None = None
    answered: Answered | None = None

    def record(self) -> dict[str, object]:
        """Return the summary document, with what it has of a guest and of a walker under test."""
        found: dict[str, object] = summary_record(self.verdict, self.extent)
        if self.intended is not None:
            found |= {
                "intended_pages": self.intended.pages,
                "broken_intentions": len(self.intended.broken),
                "guest_exceptions": exceptions_record(self.intended.taken),
            }
        if self.answered is not None:
            unasked = self.verdict.not_asked | self.extent.not_asked | self.answered.not_asked
            found |= {**self.answered.record(), "not_asked": unasked}
        return found


def run_guest(options: argparse.Namespace) -> int:
    """Boot the built-in guest, check it, and return the exit status."""
    image = build_image(GUESTS[options.paging])
    booted = boot(image)
    memory, context = booted.memory, booted.context
    remark(f"{image.name}: booted, {context_text(context)}")
    remark(exceptions_text(booted.status.taken))
    if options.save is not None:
        write_file(options.save, dump_case(structures_case(memory, context)))
    pages = image.resolve_intended(booted.status)
    broken = mismatches(memory, context, pages, image.faulting)
    verdict = verdict_of(memory, context, jobs=options.jobs)
    intended = _Intended(sum(each.count for each in pages), broken, booted.status.taken)
    extent = machine_extent(image.name, memory, context)
    return _report(options, memory, context, _Result(verdict, extent, intended))


def run_check(options: argparse.Namespace) -> int:
    """Check SOURCE, report the verdict, and return the exit status."""
    spaces = chosen_spaces(options)
    source = spaces.source
    between = chosen_range(options)
    report_source(source)
    extent = _extent(options, follow(options, spaces), between)
    if options.walker is not None:
        # Of all that this needs, other checks need nothing.
        from crosswalk.emu.cli.check_walker import ask_walker  # noqa: PLC0415

        verdict, answered = ask_walker(options, source, between)
        result = _Result(verdict, extent, answered=answered)
        return _report(options, source.memory, source.context, result)
    verdict = verdict_of(
        source.memory,
        source.context,
        between,
        limit=options.limit,
        jobs=options.jobs,
        assumed_width=not source.width_known,
    )
    return _report(options, source.memory, source.context, _Result(verdict, extent))


def machine_extent(name: str, memory: PhysicalMemory, context: PagingContext) -> Extent:
    """Return the extent of a check of a machine whose whole memory is known.

    Reports what can't be followed on standard error.
    """
    source = Source(name=name, kind=SourceKind.RAW, memory=memory, context=context, complete=True)
    found = unfollowed(memory, context)
    for line in unfollowed_lines(source, found):
        remark(line)
    return Extent(
        mappings=sum(count_mappings(memory, context).values()),
        unfollowed=found,
        masked=bool(context.encryption_mask),
    )


def _extent(options: argparse.Namespace, followed: Followed, between: tuple[int, int]) -> Extent:
    source = followed.source
    wide = 0
    if not source.width_known:
        widest = replace(source.context, maxphyaddr=MAX_WIDTH)
        wide = unfollowed(source.memory, widest).beyond_40
    return Extent(
        mappings=followed.mappings,
        unfollowed=followed.unfollowed,
        complete=source.complete,
        wide=wide,
        assumed=source.assumed,
        spaces=source.address_spaces,
        masked=bool(source.context.encryption_mask),
        partial=options.partial,
        between=None if between == (0, TOP) else between,
        begins_as=source.begins_as,
    )


def verdict_of(
    memory: PhysicalMemory,
    context: PagingContext,
    between: tuple[int, int] = (0, TOP),
    *,
    limit: int | None = None,
    jobs: int = 1,
    assumed_width: bool = False,
) -> Verdict:
    """Return what `check_in_pieces` finds, with a progress bar."""
    with progress("probes") as report:
        return check_in_pieces(
            memory,
            context,
            between=between,
            limit=limit,
            jobs=jobs,
            assumed_width=assumed_width,
            progress=report,
        )


def _report(
    options: argparse.Namespace, memory: PhysicalMemory, context: PagingContext, result: _Result
) -> int:
    """Report the verdict and the mismatches, and return the exit status."""
    verdict, intended, answered = result.verdict, result.intended, result.answered
    broken = intended.broken if intended else []
    pardoned = 0 if answered is None else answered.pardoned
    word = conclude(verdict, result.extent, len(broken), pardoned)
    word = word if answered is None else answered.conclude(word)
    show = remark if options.json else print
    if options.json:
        emit({**result.record(), "verdict": word.text, "reproduce": command_text(options)})
    else:
        wrong = "" if answered is None else answered.wrong_text
        for line in verdict_lines(verdict, wrong):
            print(line)
        if intended is not None:
            print(f"{intended.pages:,} intended pages, {len(broken):,} mismatches")
    for line in broken[:_SHOWN]:
        show(f"mismatch: {line}")
    report_divergences(options, verdict, memory, context, show)
    # `run` reads no file.
    save_cases(options.cases, memory, context, verdict, getattr(options, "source", None))
    if answered is not None:
        answered.write_reports(options, word)
        for line in answered.lines():
            show(line)
    if not options.json:
        print_verdict(word.text, word.status)
        print(f"reproduce: {command_text(options)}")
    report_advice(verdict, word)
    return word.status


def report_advice(verdict: Verdict, word: Conclusion) -> None:
    """Report lost pieces, and how to get a better verdict."""
    for each in verdict.lost:
        remark(
            f"{each.how}, at {each.targets:,} pages, holes and entries from "
            f"{each.first:#x} to {each.last:#x} (--start, --end)"
        )
    if word.advice:
        remark(f"crosswalk: {word.advice}")


def report_divergences(
    options: argparse.Namespace,
    verdict: Verdict,
    memory: PhysicalMemory,
    context: PagingContext,
    show: Callable[[str], None],
) -> None:
    """Report the first divergences, and with --verbose the known ones."""
    if verdict.divergences:
        # What describes them is large, and as a rule there are none.
        from crosswalk.emu.findings.describe import described_divergence  # noqa: PLC0415

        for divergence in verdict.divergences[:_SHOWN]:
            _, finding = described_divergence(memory, context, divergence)
            show(f"divergence: {finding.access}")
            for line in finding_lines(finding, access=False):
                show(line)
    for unlike in verdict.listing[:_SHOWN]:
        for line in listing_lines(unlike, context):
            show(line)
    shown = len(verdict.divergences[:_SHOWN]) + len(verdict.listing[:_SHOWN])
    if verdict.divergent > shown:
        show(f"… and {verdict.divergent - shown:,} more (--cases DIR keeps them)")
    if options.verbose:
        _explain_known(verdict, show)


def _explain_known(verdict: Verdict, show: Callable[[str], None]) -> None:
    for entry in departures(Scope.ACCESS):
        counts = (count for name, count in verdict.known.items() if entry.id in name.split("+"))
        if times := sum(counts):
            show(f"{entry.id}: {times:,} times")
            show(f"  manual: {entry.manual}")
            show(f"  reason: {entry.reason}")


def save_cases(
    folder: Path | None,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: Verdict,
    source: str | None = None,
) -> None:
    """Write each divergence into a folder, if one is given; `BadInput` where `source` is there."""
    if folder is None or not verdict.divergent:
        return
    make_folder(folder)
    ram = tuple(memory.ranges)
    for number, divergence in enumerate(verdict.divergences):
        case = divergence_case(context, ram, divergence)
        _save(folder / f"divergence-{number:04}.json", case, source)
    for number, unlike in enumerate(verdict.listing):
        case = listing_case(context, ram, unlike)
        _save(folder / f"listing-{number:04}.json", case, source)
    quoted = command_line([str(folder)])
    if verdict.divergences:
        remark(
            f"wrote {len(verdict.divergences):,} cases; "
            f"replay: crosswalk replay {quoted}/divergence-*.json"
        )
    if verdict.listing:
        remark(
            f"wrote {len(verdict.listing):,} cases of the list; "
            f"check: crosswalk check {quoted}/listing-0000.json"
        )


def _save(path: Path, case: Case, source: str | None) -> None:
    require_unread(path, source)
    write_file(path, dump_case(case))
