"""`matrix`: every combination of entry bits, control bits and access."""

import argparse
import time
from pathlib import Path

from crosswalk.emu.cli.fuzz import portable_chosen
from crosswalk.emu.cli.output import (
    command_line,
    command_text,
    emit,
    print_verdict,
    progress,
    remark,
)
from crosswalk.emu.fuzz.judged import judge_version, require_campaign_judge
from crosswalk.emu.matrix.asking import EMULATED, Asking
from crosswalk.emu.matrix.run import results_of
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Summary, load_summary, reduced_cases
from crosswalk.emu.matrix.text import list_lines, list_records, summary_lines, verdict
from crosswalk.emu.matrix.unit import Unit
from crosswalk.emu.workers.contained import contained
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.emu.workers.temporary import temporary_files_together
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.files import make_folder, write_file

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Try the combinations chosen, report the verdict, and return the exit status."""
    select = options.select or ""
    choice = parse_choice(select)
    asking = _asking(options)
    if options.list:
        if asking != EMULATED:
            raise BadInput("--list: lists all that there is; not with --judge, --pairs, --portable")
        return _list(options, choice)
    units = chosen_units(choice, asking)
    if not units:
        raise BadInput(f"--select {select}: leaves no combination")
    summary = Summary(select, asking)
    if options.state is not None:
        summary = load_summary(options.state, select, len(units), asking)
    lost = None
    try:
        with temporary_files_together():
            _run(summary, units, choice, options.jobs, options.state)
    except ProcessLost as error:
        lost = error
        remark(f"{lost}; the same command goes on" if options.state is not None else str(lost))
    except KeyboardInterrupt:
        if options.state is not None:
            remark(f"{summary.units} of {len(units)} units done; the same command goes on")
        raise
    with temporary_files_together():
        _reduce(summary, options.state)
    return _report(options, summary, lost)


def _asking(options: argparse.Namespace) -> Asking:
    """Return who is asked, and what; `BadInput` for a judge that can't be had."""
    judge, version = options.judge, ""
    if judge is not None:
        require_campaign_judge(judge)
        version = "" if options.list else judge_version(judge)
    return Asking(judge, version, portable_chosen(options), options.pairs)


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
        for result in results_of(units[summary.units :], choice, jobs, summary.asking):
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
    judged = summary.asking.judge is not None
    try:
        # A judge is contained by itself, and takes what time it needs.
        made = (
            reduced_cases(summary)
            if judged
            else contained(lambda: list(reduced_cases(summary)), again=True)
        )
        for slug, case in made:
            group = summary.groups[slug]
            group.case, group.reduced = case, True
            if judged and state is not None:  # Each takes long.
                write_file(state, summary.dump())
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
    if options.map is not None:
        # What draws isn't needed for anything else.
        from crosswalk.emu.cli.charts import write_matrix_map  # noqa: PLC0415

        write_matrix_map(options.map, summary)
    if options.json:
        emit(
            {
                "probes": probes,
                "agreements": probes - divergent - known,
                "divergences": divergent,
                "known_divergences": known,
                "predicted_only": summary.predicted_only,
                "not_asked": {},
                "judge": summary.asking.judge,
                "judge_version": summary.asking.version or None,
                "not_shown": summary.not_shown,
                "not_exportable": summary.not_exportable,
                "unproved": summary.unproved,
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
    cases = {slug: group.case for slug, group in summary.groups.items() if group.case}
    for slug, case in cases.items():
        write_file(folder / f"{slug}.case.json", case.encode())
    for slug, violations in summary.tlb.groups.items():
        write_file(folder / f"{slug}.sequence.json", violations.sequence.encode())
    quoted = command_line([str(folder)])
    if cases:
        show = f"replay: crosswalk replay {quoted}/*.case.json"
        if summary.asking.judge is not None:
            again = command_line(["--with", summary.asking.judge])
            show = f"ask again: crosswalk judge {quoted}/*.case.json {again}"
        remark(f"wrote {len(cases):,} cases; {show}")
    if summary.tlb.groups:
        count = len(summary.tlb.groups)
        remark(f"wrote {count:,} sequences; run: crosswalk sequence {quoted}/*.sequence.json")
