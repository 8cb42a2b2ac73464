"""`matrix`: every combination of entry bits, control bits and access."""

import argparse
import time
from pathlib import Path

from crosswalk.emu.cli.output import (
    command_line,
    command_text,
    emit,
    print_verdict,
    progress,
    remark,
)
from crosswalk.emu.matrix.run import results_of
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Summary, load_summary, reduced_cases
from crosswalk.emu.matrix.text import list_lines, list_records, summary_lines, verdict
from crosswalk.emu.matrix.unit import Unit
from crosswalk.emu.workers.contained import contained
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.files import make_folder, write_file

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Try the combinations chosen, report the verdict, and return the exit status."""
    select = options.select or ""
    choice = parse_choice(select)
    if options.list:
        return _list(options, choice)
    units = chosen_units(choice)
    if not units:
        raise BadInput(f"--select {select}: leaves no combination")
    summary = Summary(select)
    if options.state is not None:
        summary = load_summary(options.state, select, len(units))
    lost = None
    try:
        _run(summary, units, choice, options.jobs, options.state)
    except ProcessLost as error:
        lost = error
        remark(f"{lost}; the same command goes on" if options.state is not None else str(lost))
    except KeyboardInterrupt:
        if options.state is not None:
            remark(f"{summary.units} of {len(units)} units done; the same command goes on")
        raise
    _reduce(summary, options.state)
    return _report(options, summary, lost)


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
    with progress("combinations", done, lines=True) as report:
        for result in results_of(units[summary.units :], choice, jobs):
            summary.add(result)
            summary.seconds = before + time.monotonic() - began
            if state is not None:
                write_file(state, summary.dump())
            done += result.unit.combinations
            if report is not None:
                report(done, total)


def _reduce(summary: Summary, state: Path | None) -> None:
    """Make the cases of all groups small; those that can't be tried again stay as found."""
    if all(group.reduced for group in summary.groups.values()):
        return
    try:
        for slug, case in contained(lambda: list(reduced_cases(summary)), again=True):
            group = summary.groups[slug]
            group.case, group.reduced = case, True
    except CrosswalkError as error:
        remark(f"cases are as they were found: {error}")
    if state is not None:
        write_file(state, summary.dump())


def _report(options: argparse.Namespace, summary: Summary, lost: ProcessLost | None) -> int:
    divergent = summary.divergent + summary.tlb.violations
    status, words = verdict(summary)
    if lost is not None and status != 1:
        status, words = 2, f"not finished: {lost}"
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
    print_verdict(words, status)
    print(f"reproduce: {command_text(options)}")
    return status


def _save(folder: Path, summary: Summary) -> None:
    make_folder(folder)
    for slug, group in summary.groups.items():
        write_file(folder / f"{slug}.case.json", group.case.encode())
    for slug, violations in summary.tlb.groups.items():
        write_file(folder / f"{slug}.sequence.json", violations.sequence.encode())
    quoted = command_line([str(folder)])
    if summary.groups:
        count = len(summary.groups)
        remark(f"wrote {count:,} cases; replay: crosswalk replay {quoted}/*.case.json")
    if summary.tlb.groups:
        count = len(summary.tlb.groups)
        remark(f"wrote {count:,} sequences; run: crosswalk sequence {quoted}/*.sequence.json")
