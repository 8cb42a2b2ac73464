"""What a worker process does: one layout at a time, engines kept in between."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.fuzz.campaign.plan import Plan
from emu.fuzz.composite_finding import CompositeFinding
from emu.fuzz.coverage import CELLS, Seen
from emu.fuzz.findings import Finding
from emu.fuzz.worker import tester_of
from emu.probe import ProbeError

__all__ = ["Done", "Lost", "Task", "work"]


@dataclass(frozen=True, slots=True)
class Task:
    """One layout of a campaign; `seen` is what had been seen when its round was made."""

    plan: Plan
    index: int
    seen: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a layout; `new` are the numbers of cells not in the task's `seen`."""

    index: int
    probes: int
    divergent: int
    known: dict[str, int]
    findings: tuple[Finding | CompositeFinding, ...]
    new: NDArray[np.int32]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Lost:
    """A layout without a result. `how` says what became of the worker, `why` what it said."""

    how: str
    why: str = ""


def work(task: Task) -> Done | Lost:
    """Make a layout and try it; one that the emulator did what is no outcome with is lost."""
    plan = task.plan
    tester = tester_of(plan.walker, plan.claims, plan.limits)
    try:
        attempt = tester.attempt(
            lambda: plan.layout(task.index, task.seen), cross=plan.crosses(task.index)
        )
    except ProbeError as error:
        tester.forget()  # Engines that did this are not to be trusted again.
        return Lost("error", str(error))
    new = attempt.coverage & CELLS.possible & ~_unpacked(task.seen)
    return Done(
        task.index,
        attempt.probes,
        attempt.divergent,
        attempt.known,
        attempt.findings,
        np.flatnonzero(new).astype(np.int32),
        attempt.seconds,
    )


@functools.lru_cache(4)
def _unpacked(seen: bytes) -> NDArray[np.bool_]:
    return Seen.unpack(seen).bits
