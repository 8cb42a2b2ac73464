"""What all processes that try layouts have in common: how they begin, what they keep, their end."""

import functools
import multiprocessing
import signal

from pebble import ProcessPool

from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.lifetime import die_with_parent
from crosswalk.emu.workers.sandbox import Limits

__all__ = ["executor_of", "start_worker", "stop"]


def start_worker() -> None:
    """Leave interrupts to the parent, which stops its workers itself, and don't outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    executor_of.cache_clear()  # Engines of the parent's, if it made any, are not to be shared.
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)


@functools.cache
def executor_of(walker: str | None, claims: str | None, limits: Limits | None) -> Executor:
    """Return this process's executor, the same one each time, of a walker under test or of none."""
    return Executor(target=None if walker is None else open_target(walker, limits, claims=claims))


def stop(pool: ProcessPool) -> None:
    """Stop a pool at once, whatever is still being done."""
    pool.stop()  # type: ignore[no-untyped-call]  # Pebble leaves it bare.
    pool.join()
