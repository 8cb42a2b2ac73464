"""The task of a worker process: make one layout and try it, with engines that are kept."""

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.findings import error_text
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap
from crosswalk.emu.fuzz.executor import LayoutResult, executor_of
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.workers.process import ProcessLost, is_out_of_memory

__all__ = ["Done", "Failed", "Task", "work"]

_NO_COVERAGE = np.zeros(0, np.bool_)


@dataclass(frozen=True, slots=True)
class Task:
    """One layout of a campaign; `seen` is what had been seen when its round was made."""

    plan: Plan
    index: int
    seen: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a layout; `new` are the cells of its coverage not in the task's `seen`."""

    index: int
    found: LayoutResult
    new: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Failed:
    """A layout without a result: `how` its worker ended, and `why`, an error's words.

    `ours`: the error is Crosswalk's own, and not what the emulator did.
    """

    how: str
    why: str = ""
    ours: bool = False


def work(task: Task) -> Done | Failed:
    """Make a layout and try it; an error about the layout is a result.

    Raises the `CrosswalkError` that opening the walker under test, or the source, raises, and
    what says nothing of the layout: `ProcessLost`, or that there is no memory.
    """
    plan = task.plan
    plan.open_source()
    executor = executor_of(plan.walker, plan.claims, plan.limits)
    try:
        result = executor.run(
            lambda: plan.layout(task.index, task.seen), cross=plan.crosses(task.index)
        )
    except ProbeError as error:
        executor.forget()  # Engines that did this are not to be trusted again.
        return Failed("error", str(error))
    except ProcessLost:
        raise
    except Exception as error:  # One layout's trouble is no end of a campaign.
        if is_out_of_memory(error):
            raise
        executor.forget()
        return Failed("error", error_text(error), ours=True)
    new = result.coverage & CELLS.possible & ~_unpacked(task.seen)
    found = replace(result, coverage=_NO_COVERAGE)
    return Done(task.index, found, np.flatnonzero(new).astype(np.int32))


@functools.lru_cache(4)
def _unpacked(seen: bytes) -> NDArray[np.bool_]:
    return CoverageMap.unpack(seen).bits
