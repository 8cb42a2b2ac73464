"""The matrix, unit by unit, by any number of processes; a crash is a result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crosswalk.emu.fuzz.judged import judge_executor_of
from crosswalk.emu.matrix.asking import EMULATED, Asking
from crosswalk.emu.matrix.judged import JudgeWorker
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.select import sections_of
from crosswalk.emu.matrix.unit import Result, Unit, Worker
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost

__all__ = ["Crash", "results_of"]

TIME_LIMIT = 600.0
"""Seconds after which a unit counts as hanging; one takes some five."""

JUDGED_LIMIT = 6 * 3600.0
"""The same for a unit that a judge is asked: how long a boot may take it says."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A unit that took its process down, or never came to an end: `how` says which."""

    unit: Unit
    how: str


def results_of(
    units: Sequence[Unit], choice: Choice, jobs: int, asking: Asking = EMULATED
) -> Iterator[Result | Crash]:
    """Do units in `jobs` processes, and yield their results in the order of the units.

    Raises the `CrosswalkError` that a unit raises, `ProcessLost` for one whose process others go
    on to kill. Closing the iterator stops all processes.
    """
    workers: list[Worker | JudgeWorker] = []

    def do(unit: Unit) -> Result:
        if not workers:  # That of a child, kept from unit to unit.
            sections = sections_of(asking)
            if asking.judge is None:
                workers.append(Worker(sections, choice))
            else:
                workers.append(JudgeWorker(sections, choice, judge_executor_of(asking.judge)))
        return workers[0].do(unit)

    limit = TIME_LIMIT if asking.judge is None else JUDGED_LIMIT
    with Pool(do, jobs, seconds=limit) as pool:
        for unit, result in in_order(pool, units):
            try:
                done: Result | Crash = result()
            except ProcessEnded as ended:
                done = Crash(unit, f"the process {ended}")
            except ProcessLost as lost:
                raise ProcessLost(f"{unit}: {lost}") from None
            yield done
