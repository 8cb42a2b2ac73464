"""The matrix, unit by unit, by any number of processes; a crash is a result."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.select import ALL_SECTIONS
from crosswalk.emu.matrix.unit import Result, Unit, Worker

__all__ = ["Crash", "results_of"]

TIME_LIMIT = 600.0
"""Seconds after which a unit counts as hanging; one takes some five."""

_AHEAD = 3  # Units in the queue for each process.


@dataclass(frozen=True, slots=True)
class Crash:
    """A unit that took its process down, or never came to an end: `how` says which."""

    unit: Unit
    how: str


def results_of(units: Sequence[Unit], choice: Choice, jobs: int) -> Iterator[Result | Crash]:
    """Do units in `jobs` processes, and yield their results in the order of the units.

    Raises the `CrosswalkError` that a unit raises. Closing the iterator stops all processes.
    """
    pool = ProcessPool(max_workers=jobs, initializer=_start, initargs=(choice,))
    waiting: deque[tuple[Unit, ProcessFuture[Result]]] = deque()
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


def _result(unit: Unit, future: "ProcessFuture[Result]") -> Result | Crash:
    try:
        return future.result()
    except OutOfTime:
        return Crash(unit, f"no end after {TIME_LIMIT:.0f} s")
    except ProcessExpired as expired:
        code = expired.exitcode
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return Crash(unit, f"the process died of {name}")


_workers: list[Worker] = []
"""The worker of a process of the pool."""


def _start(choice: Choice) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent stops its processes itself.
    _workers.append(Worker(ALL_SECTIONS, choice))


def _do(unit: Unit) -> Result:
    return _workers[0].do(unit)
