"""`matrix`: every combination of entry bits, control bits and access."""

import argparse
import os
import shlex
import time
from pathlib import Path

from crosswalk.emu.cli.output import add_json, command_text, emit, progress_bar, remark, write_file
from crosswalk.emu.cli.progress import Pace
from crosswalk.emu.matrix.run import results_of
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Summary, load_summary, reduced_cases
from crosswalk.emu.matrix.text import list_lines, list_records, summary_lines, verdict
from crosswalk.emu.matrix.unit import Unit
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import parse_int

__all__ = ["add_commands"]

_DESCRIPTION = """\
Try every combination of entry bits at every level, control bits and access, some 41 million of
them, and compare the walker's prediction with what the emulated CPU does. Then run sequences of
changes, invalidations and accesses, and hold each outcome against the set that caching allows.

What the emulated CPU lacks a feature for (LAM, UAI, LASS, addresses of 2^40 and up) is predicted
only, and counted apart: the prediction of the first three is held against what is observed without
the feature where it leads to."""

_EPILOG = """\
NAME=VALUE: pte.nx=1, pde.ps=0, pml4e.bit51=1, cr0.wp=0, cr4.smep=1, efer.nx=0, rflags.ac=1,
cr3.lam_u48=1, cr4.lass=1, efer.uaie=1, encryption_mask=0x800000000000,
pkru.ad=1, access=write, cpl=3, section=rights-4k, mode=pae (or 32bit, 4level, 5level),
maxphyaddr=52, vendor=amd, page1gb=0; a name given twice allows either value.
Of composites: access=rmw, cross, implicit, twice, or one form such as access=cross:write,
access=twice:read+write; then.cpl=3 and then.ac=1 are those of the second access.
Of sequences (sections tlb-…): page=2m, level=pde, change=rw-0, invalidate=invlpg, number=17."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `matrix`."""
    parser = commands.add_parser(
        "matrix",
        help="try every combination of entry bits, control bits and access",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--select", metavar="NAME=VALUE,…", default="", help="only what has these values"
    )
    parser.add_argument(
        "--list", action="store_true", help="show dimensions, sizes and what is left out, and why"
    )
    parser.add_argument(
        "--jobs", metavar="N", default=str(os.cpu_count() or 1), help="processes (one a CPU)"
    )
    parser.add_argument(
        "--state", metavar="FILE", type=Path, help="go on from this file, and keep it up to date"
    )
    parser.add_argument(
        "--cases", metavar="DIR", type=Path, help="write a case of each group of divergences here"
    )
    add_json(parser, "one summary document (with --list, one record a section)")
    parser.set_defaults(run=_matrix)


def _matrix(options: argparse.Namespace) -> int:
    choice = parse_choice(options.select)
    if options.list:
        return _list(options, choice)
    units = chosen_units(choice)
    if not units:
        raise BadInput(f"--select {options.select}: leaves no combination")
    jobs = parse_int(options.jobs, "--jobs", bits=8)
    if not jobs:
        raise BadInput("--jobs: at least 1")
    summary = Summary(options.select)
    if options.state is not None:
        summary = load_summary(options.state, options.select, len(units))
    try:
        _run(summary, units, choice, jobs, options.state)
    except KeyboardInterrupt:
        if options.state is not None:
            remark(f"{summary.units} of {len(units)} units done; the same command goes on")
        raise
    return _tell(options, summary)


def _list(options: argparse.Namespace, choice: Choice) -> int:
    if options.json:
        for record in list_records(choice):
            emit(record)
        return 0
    for line in list_lines(choice):
        print(line)
    return 0


def _run(
    summary: Summary, units: list[Unit], choice: Choice, jobs: int, state: Path | None
) -> None:
    total = sum(unit.combinations for unit in units)
    before, began = summary.seconds, time.monotonic()
    done = sum(unit.combinations for unit in units[: summary.units])
    with progress_bar("combinations") as bar:
        report = Pace("combinations", done) if bar is None else bar
        for result in results_of(units[summary.units :], choice, jobs):
            summary.add(result)
            summary.seconds = before + time.monotonic() - began
            if state is not None:
                write_file(state, summary.dump())
            done += result.unit.combinations
            if report is not None:
                report(done, total)
    _reduce(summary, state)


def _reduce(summary: Summary, state: Path | None) -> None:
    """Make the cases of all groups small; those that can't be tried again stay as found."""
    if all(group.reduced for group in summary.groups.values()):
        return
    try:
        for slug, case in contained(lambda: list(reduced_cases(summary))):
            group = summary.groups[slug]
            group.case, group.reduced = case, True
    except CrosswalkError as error:
        remark(f"cases are as they were found: {error}")
    if state is not None:
        write_file(state, summary.dump())


def _tell(options: argparse.Namespace, summary: Summary) -> int:
    divergent = summary.divergent + summary.tlb.violations
    status, words = verdict(summary)
    known = sum(summary.known.values()) + sum(summary.tlb.known.values())
    probes = summary.probes + summary.tlb.accesses
    if options.cases is not None:
        _save(options.cases, summary)
    if options.json:
        emit(
            {
                "probes": probes,
                "agreements": probes - divergent - known,
                "divergences": divergent,
                "known_divergences": known,
                "predicted_only": summary.predicted_only,
                "not_asked": {},
                "masked": summary.masked,
                "known": summary.known,
                "groups": {
                    slug: {"signature": group.signature, "count": group.count}
                    for slug, group in summary.groups.items()
                },
                "crashes": summary.crashes,
                "sections": summary.combinations,
                "tlb": summary.tlb.record(),
                "seconds": round(summary.seconds, 3),
                "reproduce": command_text(options),
            }
        )
        return status
    for line in summary_lines(summary):
        print(line)
    print(f"verdict: {words}")
    print(f"reproduce: {command_text(options)}")
    return status


def _save(folder: Path, summary: Summary) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from error
    for slug, group in summary.groups.items():
        write_file(folder / f"{slug}.case.json", group.case.encode())
    for slug, violations in summary.tlb.groups.items():
        write_file(folder / f"{slug}.sequence.json", violations.sequence.encode())
    quoted = shlex.quote(str(folder))
    if summary.groups:
        count = len(summary.groups)
        remark(f"wrote {count:,} cases; replay: crosswalk replay {quoted}/*.case.json")
    if summary.tlb.groups:
        count = len(summary.tlb.groups)
        remark(f"wrote {count:,} sequences; run: crosswalk sequence {quoted}/*.sequence.json")
