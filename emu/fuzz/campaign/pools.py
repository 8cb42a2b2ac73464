"""Who does the work: processes of this machine, or a Dask cluster. A crash is a result."""

from collections.abc import Callable
from concurrent.futures import TimeoutError as OutOfTime
from typing import Protocol

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from crosswalk.emu.fuzz.campaign.work import Done, Lost, Task, work
from crosswalk.emu.fuzz.worker import start_worker, stop
from crosswalk.emu.workers.lifetime import death

__all__ = ["TIME_LIMIT", "Lost", "Pool", "Work", "local_pool"]

TIME_LIMIT = 120.0
"""Seconds after which a layout counts as hanging; one takes a tenth."""

Work = Callable[[Task], Done | Lost]


class Pool(Protocol):
    """Does tasks, several at once."""

    @property
    def jobs(self) -> int:
        """How many tasks are done at once."""
        ...

    def submit(self, task: Task) -> Callable[[], Done | Lost]:
        """Begin a task; what is returned waits for its result.

        That raises the `CrosswalkError` which the task raised.
        """
        ...

    def close(self) -> None:
        """Stop at once, whatever is still being done."""
        ...


def local_pool(jobs: int, done_by: Work = work, limit: float = TIME_LIMIT) -> Pool:
    """Return a pool of processes of this machine; `limit` are the seconds that a task may take."""
    return _Processes(jobs, done_by, limit)


class _Processes:
    """A task that is lost is done once more, in a process that has done nothing before.

    So a finding doesn't depend on which layouts its worker had before it, and a worker that was
    killed by somebody else is none.
    """

    def __init__(self, jobs: int, done_by: Work, limit: float) -> None:
        self._jobs, self._work, self._limit = jobs, done_by, limit
        self._pool = ProcessPool(max_workers=jobs, initializer=start_worker)

    @property
    def jobs(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> Callable[[], Done | Lost]:
        future = self._schedule(self._pool, task)

        def result() -> Done | Lost:
            done = _result(future)
            return self._alone(task) if isinstance(done, Lost) else done

        return result

    def close(self) -> None:
        stop(self._pool)

    def _alone(self, task: Task) -> Done | Lost:
        pool = ProcessPool(max_workers=1, initializer=start_worker)
        try:
            return _result(self._schedule(pool, task))
        finally:
            stop(pool)

    def _schedule(self, pool: ProcessPool, task: Task) -> "ProcessFuture[Done | Lost]":
        return pool.schedule(self._work, args=[task], timeout=self._limit)


def _result(future: "ProcessFuture[Done | Lost]") -> Done | Lost:
    try:
        return future.result()
    except OutOfTime:
        return Lost("hang")
    except ProcessExpired as expired:
        return Lost(death(expired.exitcode))
