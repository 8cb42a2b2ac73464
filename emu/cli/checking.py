"""`run` and `check`: every statement of the walker, put to the emulated CPU."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emu.boot import boot
from emu.check import DEFAULT_LIMIT, KNOWN, Verdict, check, make_plan
from emu.check.intent import broken_intentions
from emu.cli.contain import contained
from emu.cli.output import add_json, command_text, emit, progress_bar, remark, write_file
from emu.cli.sources import add_range, add_source, chosen_range, chosen_source
from emu.guests import GUESTS
from emu.report.records import (
    divergence_case,
    exceptions_record,
    structures_case,
    summary_record,
)
from emu.report.text import context_text, divergence_lines, exceptions_text, verdict_lines
from guest.builder import build_image
from guest.status import Taken
from walker.context import PagingContext
from walker.errors import BadInput
from walker.leaves import TOP
from walker.memory import PhysicalMemory
from walker.source import dump_case, parse_int

__all__ = ["add_commands", "run_guest", "save_cases", "tell_beside", "verdict_of"]

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Meant:
    """How many pages the guest meant, what of them is broken, the exceptions that it took."""

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
        default=str(DEFAULT_LIMIT),
        help=f"the most mappings to check ({DEFAULT_LIMIT:,})",
    )
    _add_common(parser)
    parser.set_defaults(run=_check)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", metavar="DIR", type=Path, help="write each divergence here, as a case file"
    )
    parser.add_argument("--verbose", action="store_true", help="explain the known divergences")
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
    intended = image.resolve_intended(booted.status)
    broken = broken_intentions(memory, context, intended, image.faulting)
    verdict = verdict_of(memory, context, (0, TOP), DEFAULT_LIMIT)
    meant = _Meant(sum(each.count for each in intended), broken, booted.status.taken)
    return _tell(options, memory, context, verdict, meant)


def _check(options: argparse.Namespace) -> int:
    source = chosen_source(options)
    limit = parse_int(options.limit, "--limit")
    remark(f"{source.name}: {context_text(source.context)}")
    if source.assumed:
        remark(f"assumed: {', '.join(source.assumed)}")
    verdict = verdict_of(source.memory, source.context, chosen_range(options), limit)
    return _tell(options, source.memory, source.context, verdict, None)


def verdict_of(
    memory: PhysicalMemory, context: PagingContext, between: tuple[int, int], limit: int
) -> Verdict:
    """Return what a check of [start, end) finds, made in a child process."""
    start, end = between
    plan = make_plan(memory, context, start=start, end=end, limit=limit)

    def work() -> Verdict:
        with progress_bar("probes") as report:
            return check(memory, context, plan=plan, progress=report)

    return contained(work)


def _tell(
    options: argparse.Namespace,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: Verdict,
    meant: _Meant | None,
) -> int:
    """Tell the verdict, and what the guest has to say if there is one."""
    broken = meant.broken if meant else []
    failed = bool(verdict.divergent or broken)
    say = remark if options.json else print
    if options.json:
        record = summary_record(verdict)
        if meant is not None:
            record |= {
                "intended_pages": meant.pages,
                "broken_intentions": len(broken),
                "guest_exceptions": exceptions_record(meant.taken),
            }
        emit({**record, "reproduce": command_text(options)})
    else:
        for line in verdict_lines(verdict):
            print(line)
        if meant is not None:
            print(f"{meant.pages:,} pages meant, {len(broken):,} not as the guest meant them")
    for line in broken[:_SHOWN]:
        say(f"not as meant: {line}")
    tell_beside(options, verdict, context, say)
    save_cases(options.cases, memory, context, verdict)
    if not options.json:
        print(f"verdict: {'FAILED' if failed else 'agreement'}")
        print(f"reproduce: {command_text(options)}")
    return 1 if failed else 0


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
    if verdict.divergent > _SHOWN:
        say(f"… and {verdict.divergent - _SHOWN:,} more (--cases DIR keeps them)")


def _explain_known(verdict: Verdict, say: Callable[[str], None]) -> None:
    for entry in KNOWN:
        if entry.id in verdict.known:
            say(f"{entry.id}: {verdict.known[entry.id]:,} times")
            say(f"  manual: {entry.manual}")
            say(f"  reason: {entry.reason}")


def save_cases(
    folder: Path | None,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: Verdict,
) -> None:
    """Write each divergence into a folder, if one is given."""
    if folder is None or not verdict.divergences:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from error
    for number, divergence in enumerate(verdict.divergences):
        case = divergence_case(context, tuple(memory.ranges), divergence)
        path = folder / f"divergence-{number:04}.json"
        write_file(path, dump_case(case))
    some = f"{shlex.quote(str(folder))}/divergence-*.json"
    remark(f"wrote {len(verdict.divergences):,} cases; replay: crosswalk replay {some}")
