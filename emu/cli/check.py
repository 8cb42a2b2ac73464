"""`run` and `check`: every prediction of the walker, compared with the emulated CPU."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crosswalk.emu.check import Verdict
from crosswalk.emu.check.crosscheck import MAX_WIDTH
from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.intended import mismatches
from crosswalk.emu.cli import expecting
from crosswalk.emu.cli.check_pieces import check_in_pieces
from crosswalk.emu.cli.check_spaces import check_spaces
from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.names import address_text, chosen_names, guest_names
from crosswalk.emu.cli.output import (
    command_line,
    command_text,
    emit,
    print_verdict,
    progress,
    remark,
)
from crosswalk.emu.cli.sources import chosen_range, report_source, require_unread
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.load.guest import boot
from crosswalk.emu.report.conclusion import Conclusion, Extent, conclude
from crosswalk.emu.report.expectations import Result as ExpectationResult
from crosswalk.emu.report.expectations import expectations_status, expectations_text
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
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Source, SourceKind, dump_case
from crosswalk.walker.formats.files import make_folder, write_file
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.symbols import NO_NAMES, Names
from crosswalk.walker.unfollowed import unfollowed

if TYPE_CHECKING:
    from crosswalk.emu.cli.check_walker import Answered

__all__ = [
    "explain_known",
    "machine_extent",
    "machine_spaces",
    "report_advice",
    "report_divergences",
    "run_check",
    "run_guest",
    "save_cases",
    "verdict_of",
    "with_expectations",
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
    """What a check found: of SOURCE, of what a guest intended, of a walker under test.

    `parts` are the verdicts with divergences to show, each with the context that it is about.
    """

    verdict: Verdict
    extent: Extent
    parts: Sequence[tuple[PagingContext, Verdict]]
    intended: _Intended | None = None
    answered: Answered | None = None
    roots: Mapping[str, object] = field(default_factory=dict)
    expected: Sequence[ExpectationResult] = ()

    def record(self) -> dict[str, object]:
        """Return the summary document, with what it has of a guest and of a walker under test."""
        found: dict[str, object] = summary_record(self.verdict, self.extent)
        if self.intended is not None:
            found |= {
                "format": "crosswalk-run/1",
                "intended_pages": self.intended.pages,
                "broken_intentions": len(self.intended.broken),
                "guest_exceptions": exceptions_record(self.intended.taken),
            }
        if self.answered is not None:
            unasked = self.verdict.not_asked | self.extent.not_asked | self.answered.not_asked
            found |= {**self.answered.record(), "not_asked": unasked}
        if self.expected:
            found["expectations"] = expecting.record(self.expected)
        return found | dict(self.roots)


def run_guest(options: argparse.Namespace) -> int:
    """Boot the built-in guest, check it, and return the exit status."""
    sentences = expecting.chosen_sentences(options)
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
    parts = [(context, verdict)]
    spaces = machine_spaces(image.name, memory, context)
    expected = expecting.judged_machine(options, sentences, spaces, guest_names(spaces))
    result = _Result(verdict, extent, parts, intended, expected=expected)
    return _report(options, memory, result)


def run_check(options: argparse.Namespace) -> int:
    """Check SOURCE, report the verdict, and return the exit status."""
    sentences = expecting.chosen_sentences(options)
    spaces = chosen_spaces(options, count=expecting.speaks_of_all(sentences))
    source = spaces.source
    between = chosen_range(options)
    if options.walker is not None and len(spaces.contexts) > 1:
        raise BadInput("--walker takes one address space at a time: name one with --roots")
    report_source(source)
    names = chosen_names(options, spaces)
    followed = follow(options, spaces, names)
    extent = _extent(options, followed, between)
    expected = []
    if sentences:
        called = expecting.names_for(options, spaces, sentences, names)
        every, partial = options.verbose, options.partial
        expected = expecting.judged(followed, sentences, called, partial=partial, every=every)
    if options.walker is not None:
        # Of all that this needs, other checks need nothing.
        from crosswalk.emu.cli.check_walker import ask_walker  # noqa: PLC0415

        verdict, answered = ask_walker(options, source, between)
        alone = [(source.context, verdict)]
        result = _Result(verdict, extent, alone, answered=answered, expected=expected)
        return _report(options, source.memory, result, spaces, names)
    if len(spaces.contexts) > 1:
        with progress("probes") as report:
            verdict, parts = check_spaces(
                source.memory,
                spaces.contexts,
                between=between,
                limit=options.limit,
                jobs=options.jobs,
                assumed_width=not source.width_known,
                progress=report,
            )
        roots = followed.roots_record()
        result = _Result(verdict, extent, parts, roots=roots, expected=expected)
        return _report(options, source.memory, result, spaces, names)
    verdict = verdict_of(
        source.memory,
        source.context,
        between,
        limit=options.limit,
        jobs=options.jobs,
        assumed_width=not source.width_known,
    )
    roots = followed.roots_record() if spaces.named else {}
    alone = [(source.context, verdict)]
    result = _Result(verdict, extent, alone, roots=roots, expected=expected)
    return _report(options, source.memory, result, spaces, names)


def machine_extent(name: str, memory: PhysicalMemory, context: PagingContext) -> Extent:
    """Return the extent of a check of a machine whose whole memory is known.

    Reports what can't be followed on standard error.
    """
    source = machine_spaces(name, memory, context).source
    found = unfollowed(memory, context)
    for line in unfollowed_lines(source, found):
        remark(line)
    return Extent(
        mappings=sum(count_mappings(memory, context).values()),
        unfollowed=found,
        masked=bool(context.encryption_mask),
    )


def machine_spaces(name: str, memory: PhysicalMemory, context: PagingContext) -> Spaces:
    """Return the address space of a machine whose whole memory is known."""
    source = Source(name=name, kind=SourceKind.RAW, memory=memory, context=context, complete=True)
    return Spaces(source, (context,))


def _extent(options: argparse.Namespace, followed: Followed, between: tuple[int, int]) -> Extent:
    source, spaces = followed.source, followed.spaces
    wide = 0
    if not source.width_known:
        widest = [replace(each, maxphyaddr=MAX_WIDTH) for each in spaces.contexts]
        wide = unfollowed(source.memory, widest).beyond_40
    return Extent(
        mappings=followed.mappings,
        unfollowed=followed.unfollowed,
        complete=source.complete,
        wide=wide,
        assumed=source.assumed,
        spaces=1 if spaces.named else source.address_spaces,
        roots=spaces.text if spaces.named else "",
        masked=any(each.encryption_mask for each in spaces.contexts),
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
    options: argparse.Namespace,
    memory: PhysicalMemory,
    result: _Result,
    spaces: Spaces | None = None,
    names: Names = NO_NAMES,
) -> int:
    """Report the verdict and the mismatches, and return the exit status."""
    verdict, intended, answered = result.verdict, result.intended, result.answered
    broken = intended.broken if intended else []
    pardoned = 0 if answered is None else answered.pardoned
    word = conclude(verdict, result.extent, len(broken), pardoned)
    word = word if answered is None else answered.conclude(word)
    word = with_expectations(word, result.expected)
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
    named = spaces is not None and spaces.named
    for context, part in result.parts:
        report_divergences(part, memory, context, show, named=named, names=names)
    explain_known(options, verdict, show)
    # `run` reads no file.
    read = getattr(options, "source", None)
    save_cases(options.cases, memory, result.parts, read, named=named)
    if answered is not None:
        answered.write_reports(options, word)
        for line in answered.lines():
            show(line)
    if result.expected:
        expecting.report(options, result.expected, show)
    if not options.json:
        print_verdict(word.text, word.status)
        print(f"reproduce: {command_text(options)}")
    report_advice(verdict, word)
    return word.status


def with_expectations(word: Conclusion, results: Sequence[ExpectationResult]) -> Conclusion:
    """Return the last word of a check that also judged expectations."""
    if not results:
        return word
    status = expecting.joint_status(word.status, expectations_status(results))
    return replace(word, status=status, text=f"{word.text}; {expectations_text(results)}")


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
    verdict: Verdict,
    memory: PhysicalMemory,
    context: PagingContext,
    show: Callable[[str], None],
    *,
    named: bool = False,
    names: Names = NO_NAMES,
) -> None:
    """Report the first divergences, of one of several roots with its name."""
    if named and verdict.divergent:
        show(f"root {context.root:#x}, {context.mode}:")
    if verdict.divergences:
        # What describes them is large, and as a rule there are none.
        from crosswalk.emu.findings.describe import described_divergence  # noqa: PLC0415

        for divergence in verdict.divergences[:_SHOWN]:
            _, finding = described_divergence(memory, context, divergence)
            called = address_text(names, divergence.access.va)
            show(f"divergence: {finding.access}{called}")
            for line in finding_lines(finding, access=False):
                show(line)
    for unlike in verdict.listing[:_SHOWN]:
        head, *others = listing_lines(unlike, context)
        show(f"{head}{address_text(names, unlike.access.va)}")
        for line in others:
            show(line)
    shown = len(verdict.divergences[:_SHOWN]) + len(verdict.listing[:_SHOWN])
    if verdict.divergent > shown:
        show(f"… and {verdict.divergent - shown:,} more (--cases DIR keeps them)")


def explain_known(
    options: argparse.Namespace, verdict: Verdict, show: Callable[[str], None]
) -> None:
    """With --verbose, say what the known divergences are."""
    if not options.verbose:
        return
    for entry in departures(Scope.ACCESS):
        counts = (count for name, count in verdict.known.items() if entry.id in name.split("+"))
        if times := sum(counts):
            show(f"{entry.id}: {times:,} times")
            show(f"  manual: {entry.manual}")
            show(f"  reason: {entry.reason}")


def save_cases(
    folder: Path | None,
    memory: PhysicalMemory,
    parts: Sequence[tuple[PagingContext, Verdict]],
    source: str | None = None,
    *,
    named: bool = False,
) -> None:
    """Write each divergence into a folder, if one is given; `BadInput` where `source` is there.

    `parts` are verdicts with the contexts that they are about; the files are `named` by their roots
    where these are of several.
    """
    if folder is None or not any(verdict.divergent for _, verdict in parts):
        return
    make_folder(folder)
    ram = tuple(memory.ranges)
    divergences = [(context, each) for context, part in parts for each in part.divergences]
    for number, (context, divergence) in enumerate(divergences):
        root = f"-root-{context.root:#x}" if named else ""
        case = divergence_case(context, ram, divergence)
        _save(folder / f"divergence-{number:04}{root}.json", case, source)
    listing = [(context, each) for context, part in parts for each in part.listing]
    for number, (context, unlike) in enumerate(listing):
        root = f"-root-{context.root:#x}" if named else ""
        case = listing_case(context, ram, unlike)
        _save(folder / f"listing-{number:04}{root}.json", case, source)
    quoted = command_line([str(folder)])
    if divergences:
        remark(
            f"wrote {len(divergences):,} cases; replay: crosswalk replay {quoted}/divergence-*.json"
        )
    if listing:
        remark(
            f"wrote {len(listing):,} cases of the list; "
            f"check: crosswalk check {quoted}/listing-0000{'*' if named else ''}.json"
        )


def _save(path: Path, case: Case, source: str | None) -> None:
    require_unread(path, source)
    write_file(path, dump_case(case))
