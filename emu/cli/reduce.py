"""`reduce`: a case as small as it can be."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from crosswalk.emu.cli.output import command_line, emit, emit_document, remark
from crosswalk.emu.cli.walker_options import Chosen, chosen_walker, replay_command
from crosswalk.emu.fuzz.judged import require_campaign_judge
from crosswalk.emu.fuzz.reduce.interesting import (
    composite_reduced_to,
    composite_signature_to_keep,
    reduced_to,
    sequence_reduced_to,
    signature_to_keep,
)
from crosswalk.emu.fuzz.reduce.judge_trial import JudgeTrial
from crosswalk.emu.fuzz.reduce.reducer import Interrupted, Reduced
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import CompositeCase, dump_composite, load_composite
from crosswalk.emu.targets.registry import BUILTIN
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, dump_case, load_case
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.tlb import SequenceRecord, dump_sequence, load_sequence, names_sequence

__all__ = ["run"]

T = TypeVar("T")

_INTERRUPTED = 130
"""The exit status of what SIGINT ended."""


@dataclass(frozen=True, slots=True)
class _Small:
    """What a file was reduced to: `about` what it shows, `data` the file.

    `sizes` are (before, after) by what is counted; `done` unless the search ended before its end,
    as where it was `interrupted`.
    """

    about: str
    data: bytes
    sizes: dict[str, tuple[int, int]]
    tries: int
    done: bool
    interrupted: bool = False


def run(options: argparse.Namespace) -> int:
    """Reduce a case, write it, and return the exit status."""
    if options.json and options.output is None:
        raise BadInput("--json needs --output FILE for the case")
    if options.judge is not None:
        if options.walker is not None:
            raise BadInput("--judge: a machine is asked, or a walker (--walker), not both")
        require_campaign_judge(options.judge)
    composite = load_composite(options.case)
    if composite is not None:
        again = _replay(options, _no_walker(options, "a composite"))
        small = _tried(options, None, lambda trial: _composite(trial, composite))
    elif names_sequence(options.case):
        record = load_sequence(options.case)
        _no_walker(options, "a sequence")
        again = _again(options, command_line(["crosswalk", "sequence", str(options.output)]))
        small = _tried(options, None, lambda trial: _sequence(trial, record))
    else:
        case = load_case(options.case)
        chosen = None if options.judge is not None else _walker(options, case)
        again = _replay(options, chosen)
        small = _tried(options, chosen, lambda trial: _case(trial, case, chosen))
    return _report(options, small, again)


def _tried(
    options: argparse.Namespace,
    chosen: Chosen | None,
    reduce: Callable[[Trial | JudgeTrial], _Small | None],
) -> _Small:
    trial: Trial | JudgeTrial
    if options.judge is not None:
        trial = JudgeTrial(options.judge)
    else:
        trial = Trial(chosen.name, chosen.claims, chosen.limits) if chosen else Trial()
    try:
        small = reduce(trial)
    finally:
        trial.close()
    if small is None and options.judge is not None:
        raise BadInput(
            "nothing diverges in this case that isn't a known divergence of this judge: "
            "there is nothing to reduce to"
        )
    if small is None:
        raise BadInput("nothing diverges in this case: there is nothing to reduce to")
    return small


def _case(trial: Trial | JudgeTrial, case: Case, chosen: Chosen | None) -> _Small | None:
    signature = signature_to_keep(trial, case)
    if signature is None:
        return None
    reduced, interrupted = _as_far(lambda: reduced_to(trial, case, signature))
    small = reduced.case
    if chosen is not None and chosen.name is not None:
        small = replace(small, walker=chosen.name)
    sizes = {
        "entries": (len(case.entries), len(small.entries)),
        "probes": (len(case.probes), len(small.probes)),
    }
    return _Small(str(signature), dump_case(small), sizes, reduced.tries, reduced.done, interrupted)


def _as_far(reduce: Callable[[], Reduced[T]]) -> tuple[Reduced[T], bool]:
    """Return what a reduction comes to, and whether that is because it was interrupted."""
    try:
        return reduce(), False
    except Interrupted as stop:
        return stop.reduced, True


def _composite(trial: Trial | JudgeTrial, case: CompositeCase) -> _Small | None:
    signature = composite_signature_to_keep(trial, case)
    if signature is None:
        return None
    interrupted = False
    try:
        reduced, data = composite_reduced_to(trial, case, signature)
    except Interrupted as stop:
        reduced, interrupted = stop.reduced, True
        data = dump_composite(reduced.case)
    sizes = {"entries": (len(case.case.entries), len(reduced.case.case.entries))}
    return _Small(str(signature), data, sizes, reduced.tries, reduced.done, interrupted)


def _sequence(trial: Trial | JudgeTrial, record: SequenceRecord) -> _Small | None:
    sequence = record.sequence
    departs = trial.departure(sequence)
    if departs is None:
        return None
    reduced, interrupted = _as_far(lambda: sequence_reduced_to(trial, sequence, departs))
    small = reduced.case
    sizes = {
        "entries": (len(sequence.entries), len(small.entries)),
        "steps": (len(sequence.steps), len(small.steps)),
    }
    # What came of it, `crosswalk sequence` says.
    data = dump_sequence(SequenceRecord(small, record.note))
    return _Small(departs, data, sizes, reduced.tries, reduced.done, interrupted)


def _report(options: argparse.Namespace, small: _Small, again: str) -> int:
    status = _INTERRUPTED if small.interrupted else 0
    if options.output is None:
        emit_document(small.data)
    else:
        write_file(options.output, small.data)
    if options.json:
        emit(
            {
                "signature": small.about,
                **{name: {"before": was, "after": now} for name, (was, now) in small.sizes.items()},
                "tries": small.tries,
                "minimal": small.done,
            }
        )
        return status
    remark(small.about)
    for name, (was, now) in small.sizes.items():
        remark(f"{name}: {was:,} to {now:,}")
    limit = "interrupted" if small.interrupted else "that is the limit"
    end = "" if small.done else f"; {limit}, and it may not be the smallest"
    remark(f"{small.tries:,} cases tried{end}")
    if options.output is not None:
        remark(f"replay: {again}")
    return status


def _replay(options: argparse.Namespace, chosen: Chosen | None) -> str:
    name, claims = (None, None) if chosen is None else (chosen.name, chosen.claims)
    return _again(options, replay_command(options.output, name, claims))


def _again(options: argparse.Namespace, otherwise: str) -> str:
    """Return the command that shows what was reduced, where no judge was asked: this one."""
    if options.judge is None:
        return otherwise
    return command_line(["crosswalk", "judge", str(options.output), "--with", options.judge])


def _no_walker(options: argparse.Namespace, what: str) -> Chosen:
    """Return that no walker is under test; `BadInput` if one is to be."""
    chosen = chosen_walker(options)
    if chosen.name is not None:
        raise BadInput(f"{options.case}: a walker can't be asked for {what}")
    return chosen


def _walker(options: argparse.Namespace, case: Case) -> Chosen:
    """Return the walker under test; a case may not choose what program is run here."""
    if options.walker is None and case.walker in BUILTIN:
        options.walker = case.walker
    chosen = chosen_walker(options)
    if chosen.name is None and case.walker is not None:
        again = command_line(["--walker", case.walker])
        raise BadInput(f"{options.case}: found with a walker under test; to run that, give {again}")
    chosen.require_opening()
    return chosen
