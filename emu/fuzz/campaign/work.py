"""What a worker process does: one layout at a time, engines kept in between."""

import functools
import signal
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.fuzz.attempt import Tester
from emu.fuzz.campaign.plan import Plan
from emu.fuzz.coverage import CELLS, Seen
from emu.fuzz.findings import Finding
from emu.peers import Limits
from emu.peers.opening import open_peer

__all__ = ["Done", "Task", "start_worker", "work"]


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
    findings: tuple[Finding, ...]
    new: NDArray[np.int32]
    seconds: dict[str, float]


def start_worker() -> None:
    """Leave interrupts to the parent, which stops its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work(task: Task) -> Done:
    """Make a layout and try it."""
    plan = task.plan
    attempt = _tester(plan.walker, plan.claims, plan.limits).attempt(
        lambda: plan.layout(task.index, task.seen)
    )
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


@functools.cache
def _tester(walker: str | None, claims: str | None, limits: Limits) -> Tester:
    return Tester(peer=None if walker is None else open_peer(walker, limits, claims=claims))


@functools.lru_cache(4)
def _unpacked(seen: bytes) -> NDArray[np.bool_]:
    return Seen.unpack(seen).bits
