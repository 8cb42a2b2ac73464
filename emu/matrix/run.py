"""The matrix, unit by unit, by any number of processes; a crash is a result."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from crosswalk.emu.matrix.boundaries import LIMITS
from crosswalk.emu.matrix.composite_sections import COMPOSITE_SECTIONS
from crosswalk.emu.matrix.features import FEATURE_SECTIONS
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.sections import SECTIONS
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_NAMES, SEQUENCE_SECTIONS
from crosswalk.emu.matrix.tlb.unit import SequenceResult, SequenceWorker, sequence_units
from crosswalk.emu.matrix.unit import AnySection, Result, Unit, Worker, units_of

__all__ = ["ALL_SECTIONS", "Crash", "chosen_sections", "chosen_units", "results_of"]

ALL_SECTIONS: tuple[AnySection, ...] = (
    *SECTIONS,
    *LIMITS,
    *FEATURE_SECTIONS,
    *COMPOSITE_SECTIONS,
)
"""The default matrix but for sequences: single accesses, then composites."""

TIME_LIMIT = 600.0
"""Seconds after which a unit counts as hanging; one takes some five."""

_AHEAD = 3  # Units in the queue for each process.


@dataclass(frozen=True, slots=True)
class Crash:
    """A unit that took its process down, or never came to an end: `how` says which."""

    unit: Unit
    how: str


def chosen_sections(choice: Choice) -> list[AnySection]:
    """Return the sections that a choice leaves, as far as it names sections, modes, sequences."""
    if choice.keys() & SEQUENCE_NAMES:
        return []
    return [each for each in ALL_SECTIONS if each.chosen(choice)]


def chosen_units(choice: Choice) -> list[Unit]:
    """Return the units of the matrix that the choice leaves, in order."""
    units = [unit for section in chosen_sections(choice) for unit in units_of(section, choice)]
    return [
        *units,
        *(unit for section in SEQUENCE_SECTIONS for unit in sequence_units(section, choice)),
    ]


def results_of(
    units: Sequence[Unit], choice: Choice, jobs: int
) -> Iterator[Result | SequenceResult | Crash]:
    """Do units in `jobs` processes, and yield their results in the order of the units.

    Raises the `CrosswalkError` that a unit raises. Closing the iterator stops all processes.
    """
    pool = ProcessPool(max_workers=jobs, initializer=_start, initargs=(choice,))
    waiting: deque[tuple[Unit, ProcessFuture[Result | SequenceResult]]] = deque()
    rest = iter(units)
    try:
        while True:
            while len(waiting) < jobs * _AHEAD and (unit := next(rest, None)) is not None:
                waiting.append((unit, pool.schedule(_do, args=[unit], timeout=TIME_LIMIT)))
            if not waiting:
                break
            yield _result(*waiting.popleft())
    finally:
        pool.stop()  # type: ignore[no-untyped-call]  # Pebble leaves it bare.
        pool.join()


def _result(
    unit: Unit, future: "ProcessFuture[Result | SequenceResult]"
) -> Result | SequenceResult | Crash:
    try:
        return future.result()
    except OutOfTime:
        return Crash(unit, f"no end after {TIME_LIMIT:.0f} s")
    except ProcessExpired as expired:
        code = expired.exitcode
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return Crash(unit, f"the process died of {name}")


_workers: list[Worker] = []
_sequence_workers: list[SequenceWorker] = []
"""The workers of a process of the pool: one for accesses, one for sequences."""


def _start(choice: Choice) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent stops its processes itself.
    _workers.append(Worker(ALL_SECTIONS, choice))
    _sequence_workers.append(SequenceWorker(SEQUENCE_SECTIONS, choice))


def _do(unit: Unit) -> Result | SequenceResult:
    if any(section.name == unit.section for section in SEQUENCE_SECTIONS):
        return _sequence_workers[0].do(unit)
    return _workers[0].do(unit)
