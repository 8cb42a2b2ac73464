"""Many pairs of layouts, cross-checked by any number of processes; a crash is a result."""

import faulthandler
import functools
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass
from typing import NoReturn

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from crosswalk.emu.check.nested import NestedVerdict, check_nested
from crosswalk.emu.findings.caseless import error_text
from crosswalk.emu.fuzz.nested.pair import Pair, make_pair
from crosswalk.emu.fuzz.worker import start_worker, stop
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.workers.lifetime import death
from crosswalk.walker.access import Access

__all__ = ["PairCrash", "PairResult", "dies", "pair_results", "try_pair"]

_TIME_LIMIT = 600.0
_AHEAD = 3
"""Pairs in the queue for each process."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """What became of a pair.

    `proved` says how many of the accesses that the emulator was said not to survive were put to
    a process of their own, one a pair; `survived` are those that it survived.
    """

    number: int
    verdict: NestedVerdict
    proved: int
    survived: tuple[Access, ...]


@dataclass(frozen=True, slots=True)
class PairCrash:
    """A pair that took its process down, or never came to an end: `how` says which.

    `accesses` are those that do it on their own.
    """

    number: int
    how: str
    accesses: tuple[Access, ...]


def pair_results(
    seed: int, numbers: Sequence[int], accesses: int, jobs: int
) -> Iterator[PairResult | PairCrash]:
    """Try pairs in `jobs` processes, and yield their results in the order of the numbers.

    Raises the `CrosswalkError` that a pair raises, `ProbeError` where the proof of a crash raises
    anything. Closing the iterator stops all processes.
    """
    pool = ProcessPool(max_workers=jobs, initializer=_start)
    waiting: deque[tuple[int, ProcessFuture[PairResult]]] = deque()
    rest = iter(numbers)
    try:
        while True:
            while len(waiting) < jobs * _AHEAD and (number := next(rest, None)) is not None:
                task = pool.schedule(_try, args=[seed, number, accesses], timeout=_TIME_LIMIT)
                waiting.append((number, task))
            if not waiting:
                break
            number, future = waiting.popleft()
            yield _result(number, future, functools.partial(make_pair, seed, number, accesses))
    finally:
        stop(pool)


def try_pair(pair: Pair, prober: NestedProber) -> PairResult:
    """Check a pair, and put one of the accesses that the emulator can't survive to the proof."""
    prober.enter(pair.memory, pair.context)
    verdict = check_nested(prober, pair.memory, pair.context, pair.accesses)
    proofs = verdict.fatal[:1]
    survived = tuple(access for access in proofs if not dies(lambda: prober.probe(proofs[0])))
    return PairResult(pair.number, verdict, len(proofs), survived)


def dies(work: Callable[[], object]) -> bool:
    """Return whether a child process that does `work` is killed by a signal.

    `ProbeError` where `work` raises: that is neither a death nor a survival.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_or_say(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise ProbeError(f"where a crash was to be proved: {said}")
    return False


def _die_or_say(work: Callable[[], object], writing: int) -> NoReturn:
    """Do `work` in the child, and write what it raises."""
    status = 1
    try:
        faulthandler.disable()  # The end that is expected is no news…
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # …and needs no core file.
        work()
        status = 0
    except Exception as error:  # noqa: BLE001  # The parent raises it.
        os.write(writing, error_text(error).encode())
    finally:
        os._exit(status)


def _result(
    number: int, future: "ProcessFuture[PairResult]", make: Callable[[], Pair]
) -> PairResult | PairCrash:
    try:
        return future.result()
    except OutOfTime:
        return PairCrash(number, f"no end after {_TIME_LIMIT:.0f} s", ())
    except ProcessExpired as expired:
        pair = make()

        def alone(access: Access) -> bool:
            prober = NestedProber(pair.memory, pair.context)
            return dies(lambda: check_nested(prober, pair.memory, pair.context, [access]))

        return PairCrash(
            number, death(expired.exitcode), tuple(each for each in pair.accesses if alone(each))
        )


_probers: list[NestedProber] = []
"""The prober of a process of the pool, kept from pair to pair."""


def _start() -> None:
    start_worker()
    faulthandler.disable()  # A crash is a result.
    _probers.clear()


def _try(seed: int, number: int, accesses: int) -> PairResult:
    pair = make_pair(seed, number, accesses)
    if not _probers:
        _probers.append(NestedProber(pair.memory, pair.context))
    return try_pair(pair, _probers[0])
