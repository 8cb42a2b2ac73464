"""A check by processes of its own, each at a piece at a time; a crash is a result."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from crosswalk.emu.check.crosscheck import Checker, expected_accesses
from crosswalk.emu.check.selection import Targets
from crosswalk.emu.check.survey import DEFAULT_LIMIT, Survey
from crosswalk.emu.check.verdict import Lost, Tally, Verdict
from crosswalk.emu.probe import mapped
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["PATIENCE", "TIME_LIMIT", "add_up", "check_in_pieces", "in_processes", "survey_of"]

TIME_LIMIT = 600.0
"""Seconds after which a piece counts as hanging; one takes less than one."""

PATIENCE = 3
"""So many pieces may be lost; an emulator that goes on dying is no check."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def check_in_pieces(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    between: tuple[int, int] = (0, TOP),
    limit: int | None = None,
    jobs: int = 1,
    assumed_width: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Return what a check of [start, end) finds, made by up to `jobs` processes.

    With `limit` the first so many targets of each kind are checked; without it more mappings than
    the default limit are `LimitExceeded`. `assumed_width` says that MAXPHYADDR is a guess: what
    rests on it isn't asked. A process that dies has its piece done once more, by another; what is
    lost then is part of the verdict, and `EmulatorCrash` if nothing was answered, or too much lost.
    """

    def begin() -> Callable[[Targets], Verdict]:
        return Checker(
            memory, context, predict=translate_many, walk=walk_leaves, assumed_width=assumed_width
        ).check

    survey = survey_of(memory, context, [between], limit)
    results = in_processes(survey.pieces(), begin, jobs, TIME_LIMIT, lambda targets: targets)
    return add_up(survey, results, progress)


def survey_of(
    memory: PhysicalMemory,
    context: PagingContext,
    ranges: Sequence[tuple[int, int]],
    limit: int | None,
) -> Survey:
    """Return the survey of ranges [start, end): all of it, or with `limit` the first of each kind.

    The ranges don't overlap and are in address order.
    """
    return Survey(
        memory,
        context,
        ranges=ranges,
        limit=DEFAULT_LIMIT if limit is None else limit,
        cut=limit is not None,
        walk=walk_leaves,
        read=mapped,
    )


def add_up(
    survey: Survey,
    results: Iterator[Verdict | Lost],
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    """Return the verdicts of all pieces as one; raises as `check_in_pieces`."""
    began = time.perf_counter()
    tally = Tally(survey)
    lost: list[Lost] = []
    for result in results:
        tally.add(result)
        if isinstance(result, Lost):
            lost.append(result)
            if len(lost) > PATIENCE:
                break
        elif progress is not None:
            progress(tally.probes, max(tally.probes, expected_accesses(survey)))
    if lost and (len(lost) > PATIENCE or not tally.probes):
        raise EmulatorCrash(f"{lost[0].how}, at {lost[0].first:#x} to {lost[0].last:#x}")
    return tally.verdict(time.perf_counter() - began)


def in_processes(
    tasks: Iterator[Task],
    begin: Callable[[], Callable[[Task], Result]],
    jobs: int,
    seconds: float,
    targets_of: Callable[[Task], Targets],
) -> Iterator[Result | Lost]:
    """Yield the result of each task, in order; closing this stops all processes.

    `begin` returns in each process what does the tasks, each in so many seconds.
    """
    checks: list[Callable[[Task], Result]] = []

    def check(task: Task) -> Result:
        if not checks:  # That of a child, kept from task to task.
            checks.append(begin())
        return checks[0](task)

    with Pool(check, jobs, seconds=seconds, who="the emulator") as pool:
        for task, result in in_order(pool, tasks):
            try:
                done: Result | Lost = result()
            except ProcessEnded as ended:
                done = _lost(targets_of(task), f"the emulator {ended}")
            except ProcessLost as lost:
                done = _lost(targets_of(task), str(lost))
            yield done


def _lost(targets: Targets, how: str) -> Lost:
    va = targets.va
    if not len(va):
        return Lost(how, 0, 0, 0)
    return Lost(how, int(va.min()), int(va.max()), len(va))
