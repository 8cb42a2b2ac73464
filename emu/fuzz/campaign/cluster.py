"""Processes that do layouts: of this machine, or a Dask cluster's, with the same results."""

import gc
import importlib
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from crosswalk.emu.fuzz.campaign.version import fingerprint
from crosswalk.emu.fuzz.campaign.work import Results, Task, work
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.located_errors import printable

__all__ = ["TIME_LIMIT", "Cluster", "open_pool"]

TIME_LIMIT = 120.0
"""Seconds after which a layout counts as hanging, a walker under test aside; one takes a tenth."""

JUDGED_LIMIT = 3600.0
"""The same for all layouts of a task that a judge is asked: how long that may take it says."""

Work = Callable[[Task], Results]

PATIENCE = 10.0
"""Seconds until there has to be a scheduler, and a worker."""

_COUNTED_EVERY = 5.0
"""Seconds after which workers are counted again: they come and go."""

_WHO = "its worker"
_here = threading.local()


def open_pool(
    jobs: int, scheduler: str | None, walker: float = 0.0, *, judged: bool = False
) -> Pool[Task, Results]:
    """Return `jobs` processes of this machine, or the cluster at the address `scheduler`.

    `walker` are the seconds of a layout that a walker under test may take; `judged`: a judge is
    asked.
    """
    limit = JUDGED_LIMIT if judged else TIME_LIMIT + walker
    if scheduler is None:
        return Pool(work, jobs, seconds=limit, who=_WHO)
    return Cluster(scheduler, limit=limit)


class Cluster(Pool[Task, Results]):
    """The workers of the Dask scheduler at `address`.

    A worker that dies has its tasks done by another. What the emulator does to its process is
    contained on each worker, and is the same result as on this machine. Every worker has to have
    what is installed here; one that hasn't is an error that says so.
    """

    def __init__(self, address: str, done_by: Work = work, limit: float = TIME_LIMIT) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")  # Slow to import.
        except ImportError as error:
            raise BadInput("--scheduler: pip install distributed first") from error
        self._address, self._work, self._limit = address, done_by, limit
        self._client: Any = _client(distributed, address)
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            self._client.close()
            raise BadInput(f"--scheduler {address}: it has no workers") from error
        self._killed = distributed.KilledWorker
        self._jobs, self._counted = 1, float("-inf")

    @property
    def jobs(self) -> int:
        """How many threads the workers have."""
        if time.monotonic() - self._counted > _COUNTED_EVERY:
            threads: dict[str, int] = self._client.nthreads()
            self._jobs, self._counted = max(1, sum(threads.values())), time.monotonic()
        return self._jobs

    def submit(self, task: Task) -> Callable[[], Results]:
        """Begin a task; see `Pool.submit`."""
        arguments = (self._work, task, self._limit, fingerprint())
        future = self._client.submit(_do, *arguments, pure=False)
        return lambda: self._result(future)

    def close(self) -> None:
        """Leave the cluster, which forgets what it was doing."""
        self._client.close()

    def _result(self, future: Any) -> Results:
        try:
            done: Results = future.result()
        except self._killed as error:
            raise ProcessLost("worker after worker of the cluster ended") from error
        except ModuleNotFoundError as error:
            raise BadInput(
                f"--scheduler {self._address}: a worker has no module {error.name}: "
                f"it needs {fingerprint()}"
            ) from error
        except (CancelledError, OSError) as error:
            raise CrosswalkError(
                f"--scheduler {self._address}: the cluster is gone; the same command goes on"
            ) from error
        finally:
            future.release()
        return done


def _client(distributed: Any, address: str) -> Any:
    """Return a client that is connected; `BadInput` where there is no scheduler.

    One that isn't closes itself when it is collected, and must not be while another is being
    started, in the same thread: that would wait for itself.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        traceback.clear_frames(error.__traceback__)
    finally:
        if collects:
            gc.enable()
    gc.collect()
    raise BadInput(f"--scheduler {address}: {printable(reason)}")


def _do(done_by: Work, task: Task, limit: float, wanted: str) -> Results:
    """Do a task on a worker, as a pool does: in a process of its own, again where that ends."""
    mine = fingerprint()
    if mine != wanted:
        raise BadInput(f"--scheduler: a worker has {mine}; here is {wanted}")
    if not hasattr(_here, "pool"):
        # The worker has threads: it can't fork.
        _here.pool = Pool(_done, seconds=limit, fresh=True, who=_WHO)
    done: Results = _here.pool.submit((done_by, task))()
    return done


def _done(question: tuple[Work, Task]) -> Results:
    done_by, task = question
    return done_by(task)
