"""Who does the work: processes of this machine, or a Dask cluster. A crash is a result."""

import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass
from typing import Any, Protocol

from pebble import ProcessExpired, ProcessPool

from emu.fuzz.campaign.work import Done, Task, start_worker, work
from walker.errors import BadInput

__all__ = ["Lost", "Pool", "local_pool", "open_pool"]

TIME_LIMIT = 120.0
"""Seconds after which a layout counts as hanging; one takes a tenth."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A layout without a result: the worker died, or did not come back. `how` says which."""

    how: str


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


def open_pool(jobs: int, scheduler: str | None) -> Pool:
    """Return a pool of processes, or the cluster at the address `scheduler`."""
    return local_pool(jobs) if scheduler is None else _Cluster(scheduler)


def local_pool(jobs: int, done_by: Callable[[Task], Done] = work) -> Pool:
    """Return a pool of processes of this machine."""
    return _Processes(jobs, done_by)


class _Processes:
    def __init__(self, jobs: int, done_by: Callable[[Task], Done]) -> None:
        self._jobs, self._work = jobs, done_by
        self._pool = ProcessPool(max_workers=jobs, initializer=start_worker)

    @property
    def jobs(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> Callable[[], Done | Lost]:
        future = self._pool.schedule(self._work, args=[task], timeout=TIME_LIMIT)

        def result() -> Done | Lost:
            try:
                return future.result()
            except OutOfTime:
                return Lost("hang")
            except ProcessExpired as expired:
                return Lost(f"crash, {_named(expired.exitcode)}")

        return result

    def close(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]  # Pebble leaves it bare.
        self._pool.join()


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


class _Cluster:
    """Dask moves a task of a worker that died to another; one that kills several is lost."""

    def __init__(self, address: str) -> None:
        try:
            import distributed  # noqa: PLC0415  # Optional, and slow to import.
        except ImportError as error:
            raise BadInput("--scheduler: pip install crosswalk-x86[dask] first") from error
        try:
            self._client: Any = distributed.Client(address, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise BadInput(f"--scheduler {address}: {error}") from error
        self._killed = distributed.KilledWorker

    @property
    def jobs(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def submit(self, task: Task) -> Callable[[], Done | Lost]:
        key = f"crosswalk-{task.plan.seed}-{task.index}"
        future = self._client.submit(work, task, key=key, pure=False)

        def result() -> Done | Lost:
            try:
                done: Done = future.result()
            except self._killed:
                return Lost("crash, several workers")
            finally:
                future.release()
            return done

        return result

    def close(self) -> None:
        self._client.close()
