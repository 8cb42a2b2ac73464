"""Many pairs of layouts, cross-checked by any number of processes; a crash is a result."""

import faulthandler
import functools
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from crosswalk.emu.check.nested import NestedVerdict, check_nested
from crosswalk.emu.findings.findings import error_text
from crosswalk.emu.fuzz.nested.pair import Pair, make_pair
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.access import Access

__all__ = ["PairCrash", "PairResult", "dies", "pair_results", "try_pair"]

_TIME_LIMIT = 600.0


@dataclass(frozen=True, slots=True)
class PairResult:
    """The result of a pair.

    `proved` says how many of the accesses that are predicted to end the emulator were put to
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
    anything, `ProcessLost` where others go on to kill a pair's process. Closing the iterator stops
    all processes.
    """
    probers: list[NestedProber] = []

    def attempt(number: int) -> PairResult:
        faulthandler.disable()  # A crash is a result.
        pair = make_pair(seed, number, accesses)
        if not probers:  # That of a child, kept from pair to pair.
            probers.append(NestedProber(pair.memory, pair.context))
        return try_pair(pair, probers[0])

    with Pool(attempt, jobs, seconds=_TIME_LIMIT) as pool:
        for number, result in in_order(pool, numbers):
            try:
                done: PairResult | PairCrash = result()
            except ProcessEnded as ended:
                done = PairCrash(number, ended.how, ())
                if ended.by_signal:
                    done = replace(done, accesses=_fatal_alone(make_pair(seed, number, accesses)))
            except ProcessLost as lost:
                raise ProcessLost(f"pair {number}: {lost}") from None
            yield done


def _fatal_alone(pair: Pair) -> tuple[Access, ...]:
    """Return the accesses of a pair of which each ends the emulator on its own."""

    def check(access: Access) -> None:
        prober = NestedProber(pair.memory, pair.context)
        check_nested(prober, pair.memory, pair.context, [access])

    return tuple(access for access in pair.accesses if dies(functools.partial(check, access)))


def try_pair(pair: Pair, prober: NestedProber) -> PairResult:
    """Check a pair, and put one of the accesses that the emulator can't survive to the proof."""
    prober.enter(pair.memory, pair.context)
    verdict = check_nested(prober, pair.memory, pair.context, pair.accesses)
    proofs = verdict.fatal[:1]
    survived = tuple(access for access in proofs if not dies(lambda: prober.probe(proofs[0])))
    return PairResult(pair.number, verdict, len(proofs), survived)


def dies(work: Callable[[], object]) -> bool:
    """Return whether a child process that does `work` dies of a signal that it raises itself.

    `ProbeError` where `work` raises or ends the process otherwise: that is neither a death nor a
    survival. `ProcessLost` where others go on to kill it.
    """

    def run(_: None) -> None:
        faulthandler.disable()  # The end that is expected is no news…
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # …and needs no core file.
        work()

    with Pool(run, sure=1, who="the process that proves a crash") as pool:
        try:
            pool.submit(None)()
        except ProcessLost:
            raise
        except ProcessEnded as ended:
            if ended.by_signal:
                return True
            raise ProbeError(f"where a crash was to be proved: the process {ended}") from None
        except Exception as error:
            raise ProbeError(f"where a crash was to be proved: {error_text(error)}") from error
    return False
