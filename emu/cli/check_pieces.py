"""A check by processes of its own, each at a piece at a time; a crash is a result."""

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as OutOfTime

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from crosswalk.emu.check.crosscheck import Checker, expected_accesses
from crosswalk.emu.check.selection import Targets
from crosswalk.emu.check.survey import DEFAULT_LIMIT, Survey
from crosswalk.emu.check.verdict import Lost, Tally, Verdict
from crosswalk.emu.probe import mapped
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.emu.workers.lifetime import die_with_parent
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["TIME_LIMIT", "check_in_pieces"]

TIME_LIMIT = 600.0
"""Seconds after which a piece counts as hanging; one takes less than one."""

_AHEAD = 3  # Pieces in the queue for each process.
_PATIENCE = 3  # So many pieces may be lost; an emulator that goes on dying is no check.

Begin = Callable[[], Checker]


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
    lost then is told in the verdict, and `EmulatorCrash` if nothing was answered, or too much lost.
    """
    start, end = between
    survey = Survey(
        memory,
        context,
        start=start,
        end=end,
        limit=DEFAULT_LIMIT if limit is None else limit,
        cut=limit is not None,
        walk=walk_leaves,
        read=mapped,
    )

    def begin() -> Checker:
        return Checker(
            memory, context, predict=translate_many, walk=walk_leaves, assumed_width=assumed_width
        )

    began = time.perf_counter()
    tally = Tally(survey)
    lost: list[Lost] = []
    for result in _results(survey.pieces(), begin, jobs):
        tally.add(result)
        if isinstance(result, Lost):
            lost.append(result)
            if len(lost) > _PATIENCE:
                break
        elif progress is not None:
            progress(tally.probes, max(tally.probes, expected_accesses(survey)))
    if lost and (len(lost) > _PATIENCE or not tally.probes):
        raise EmulatorCrash(f"{lost[0].how}, at {lost[0].first:#x} to {lost[0].last:#x}")
    return tally.verdict(time.perf_counter() - began)


def _results(pieces: Iterator[Targets], begin: Begin, jobs: int) -> Iterator[Verdict | Lost]:
    """Yield the result of each piece, in order; closing this stops all processes."""
    pool = _pool(begin, jobs)
    waiting: deque[tuple[Targets, ProcessFuture[Verdict]]] = deque()
    try:
        while True:
            while len(waiting) < jobs * _AHEAD and (piece := next(pieces, None)) is not None:
                waiting.append((piece, pool.schedule(_do, args=[piece], timeout=TIME_LIMIT)))
            if not waiting:
                return
            piece, future = waiting.popleft()
            result = _result(piece, future)
            if isinstance(result, Lost):
                # By a process that has done nothing before: what somebody killed is no crash.
                alone = _pool(begin, 1)
                try:
                    result = _result(piece, alone.schedule(_do, args=[piece], timeout=TIME_LIMIT))
                finally:
                    _stop(alone)
            yield result
    finally:
        _stop(pool)


def _pool(begin: Begin, jobs: int) -> ProcessPool:
    # Forked, so that memory and context need not be copied.
    return ProcessPool(
        max_workers=jobs,
        initializer=_start,
        initargs=(begin,),
        context=multiprocessing.get_context("fork"),
    )


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]  # Pebble leaves it bare.
    pool.join()


def _result(piece: Targets, future: "ProcessFuture[Verdict]") -> Verdict | Lost:
    """Return the verdict of a piece, or how its process ended; raises the error it raised."""
    first, last = int(piece.va.min()), int(piece.va.max())
    try:
        return future.result()
    except OutOfTime:
        how = f"the emulator hangs: no end after {TIME_LIMIT:.0f} s"
    except ProcessExpired as expired:
        code = expired.exitcode
        if code == -signal.SIGKILL:
            how = "a process was killed (SIGKILL)"
        elif code < 0:
            how = f"the emulator died of {signal.Signals(-code).name}"
        else:
            how = f"a process ended early, status {code}"
    return Lost(how, first, last, len(piece))


_checkers: list[Checker] = []
"""The one checker of a process of the pool."""


def _start(begin: Begin) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent stops its processes itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)
    _checkers[:] = [begin()]


def _do(piece: Targets) -> Verdict:
    try:
        return _checkers[0].check(piece)
    except CrosswalkError:
        raise
    except Exception:  # noqa: BLE001  # A mistake of ours is shown as such, and is no answer.
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
