"""`run` and `check`: every statement of the walker, put to the emulated CPU."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from crosswalk.emu.check import DEFAULT_LIMIT, Verdict
from crosswalk.emu.check.crosscheck import MAX_WIDTH
from crosswalk.emu.check.intended import mismatches
from crosswalk.emu.cli.check_pieces import check_in_pieces
from crosswalk.emu.cli.check_report import save_cases, tell_advice, tell_beside
from crosswalk.emu.cli.completeness import Followed, add_allow_empty, add_partial, follow
from crosswalk.emu.cli.output import add_json, command_text, emit, progress_bar, remark, write_file
from crosswalk.emu.cli.source_options import (
    add_range,
    add_source,
    chosen_range,
    chosen_source,
    tell_source,
)
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.load.guest import boot
from crosswalk.emu.report.conclusion import Scope, conclude
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.source import unfollowed_lines
from crosswalk.emu.report.text import context_text
from crosswalk.emu.report.verdict import (
    exceptions_record,
    exceptions_text,
    summary_record,
    verdict_lines,
)
from crosswalk.guest.builder import build_image
from crosswalk.guest.status import Taken
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, SourceKind, dump_case, parse_int
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.unfollowed import unfollowed

__all__ = ["add_commands", "jobs_of", "machine_scope", "run_guest", "verdict_of"]

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Intended:
    """Counts of intended pages and mismatches, and the exceptions that the guest took."""

    pages: int
    broken: list[str]
    taken: tuple[Taken, ...]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` and `check`."""
    parser = commands.add_parser("run", help="boot the guest, walk it, cross-check all of it")
    parser.add_argument(
        "--paging", choices=list(GUESTS), default="4level", help="the guest's paging (4level)"
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        type=Path,
        help="write the guest's paging structures as a case; with --kernel, unless FILE ends in "
        ".json, RAM and registers as an ELF core",
    )
    _add_common(parser)
    parser.set_defaults(run=run_guest)

    parser = commands.add_parser("check", help="cross-check every mapping of SOURCE")
    add_source(parser)
    add_range(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        help="check the first N mappings of each size, holes and malformed entries (without it "
        f"all, but not more than {DEFAULT_LIMIT:,} mappings)",
    )
    add_partial(parser)
    add_allow_empty(parser)
    _add_common(parser)
    parser.set_defaults(run=_check)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", metavar="DIR", type=Path, help="write each divergence here, as a case file"
    )
    parser.add_argument("--verbose", action="store_true", help="explain the known divergences")
    parser.add_argument("--jobs", metavar="N", help="processes (one a CPU)")
    add_json(parser, "one summary document")


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
    verdict = verdict_of(memory, context, jobs=jobs_of(options))
    intended = _Intended(sum(each.count for each in pages), broken, booted.status.taken)
    scope = machine_scope(image.name, memory, context)
    return _tell(options, memory, context, verdict, scope, intended)


def _check(options: argparse.Namespace) -> int:
    limit = None if options.limit is None else parse_int(options.limit, "--limit")
    if limit == 0:
        raise BadInput("--limit: at least 1")
    source = chosen_source(options)
    jobs, between = jobs_of(options), chosen_range(options)
    tell_source(source)
    scope = _scope(options, follow(options, source), between)
    verdict = verdict_of(
        source.memory,
        source.context,
        between,
        limit=limit,
        jobs=jobs,
        assumed_width=not source.width_known,
    )
    return _tell(options, source.memory, source.context, verdict, scope, None)


def jobs_of(options: argparse.Namespace) -> int:
    """Return the number of processes that --jobs asks for."""
    if options.jobs is None:
        return os.cpu_count() or 1
    jobs = parse_int(options.jobs, "--jobs", bits=8)
    if not jobs:
        raise BadInput("--jobs: at least 1")
    return jobs


def machine_scope(name: str, memory: PhysicalMemory, context: PagingContext) -> Scope:
    """Return what is known of an address space of a machine whose memory is all at hand.

    What can't be followed is said on standard error.
    """
    source = Source(name=name, kind=SourceKind.RAW, memory=memory, context=context, complete=True)
    found = unfollowed(memory, context)
    for line in unfollowed_lines(source, found):
        remark(line)
    return Scope(
        mappings=sum(count_mappings(memory, context).values()),
        unfollowed=found,
        masked=bool(context.encryption_mask),
    )


def _scope(options: argparse.Namespace, followed: Followed, between: tuple[int, int]) -> Scope:
    source = followed.source
    wide = 0
    if not source.width_known:
        widest = replace(source.context, maxphyaddr=MAX_WIDTH)
        wide = unfollowed(source.memory, widest).beyond_40
    return Scope(
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
    with progress_bar("probes") as report:
        return check_in_pieces(
            memory,
            context,
            between=between,
            limit=limit,
            jobs=jobs,
            assumed_width=assumed_width,
            progress=report,
        )


def _tell(
    options: argparse.Namespace,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: Verdict,
    scope: Scope,
    intended: _Intended | None,
) -> int:
    """Tell the verdict, and what the guest has to say if there is one."""
    broken = intended.broken if intended else []
    word = conclude(verdict, scope, len(broken))
    say = remark if options.json else print
    if options.json:
        record = summary_record(verdict, scope)
        if intended is not None:
            record |= {
                "intended_pages": intended.pages,
                "broken_intentions": len(broken),
                "guest_exceptions": exceptions_record(intended.taken),
            }
        emit({**record, "verdict": word.text, "reproduce": command_text(options)})
    else:
        for line in verdict_lines(verdict):
            print(line)
        if intended is not None:
            print(f"{intended.pages:,} intended pages, {len(broken):,} mismatches")
    for line in broken[:_SHOWN]:
        say(f"mismatch: {line}")
    tell_beside(options, verdict, context, say)
    save_cases(options.cases, memory, context, verdict)
    if not options.json:
        print(f"verdict: {word.text}")
        print(f"reproduce: {command_text(options)}")
    tell_advice(verdict, word)
    return word.status
