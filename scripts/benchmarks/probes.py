"""What a probe takes, against a bare guest loop over the same cold pages."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from crosswalk.emu.probe import Prober
from crosswalk.emu.probe.bulk import BulkEngine, Job
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.guest.assembler import assemble
from crosswalk.walker import AccessType, PagingContext, Segments
from crosswalk.walker.columns import Accesses
from crosswalk.walker.memory import FRAME

__all__ = ["GOALS", "PAGES", "measured_probes", "probe_scaling"]

PAGES = 32_768
GOALS = {"reads": 1.5, "writes": 2.0, "faults": 10.0, "an eighth faults": 4.0}
"""The most that a probe may take in the engine, as multiples of the bare loop."""

_FIRST = 16 << 20
_PLACE = 0x900  # In the trampoline's page of code, behind the routines.
_LOOP = "again:\nmov al, [rbx]\nadd rbx, 4096\ncmp rbx, r12\njne again\nhlt"


def measured_probes(rounds: int) -> list[dict[str, Any]]:
    """Return for each kind of access ns a probe: in the engine, in a run, and by `probe`.

    `of_loop` are those of the engine as multiples of the bare loop; medians of runs by turns.
    """
    memory, context = _memory(), PagingContext(cr3=FRAME)
    workspace = Workspace(memory, context)
    timed = _Timed(workspace.space, workspace.own, fetch=True)
    timed.enter(workspace)
    prober = Prober(memory, context)
    kinds = _kinds()
    jobs = {}
    for name, accesses in kinds.items():
        at = workspace.targets(accesses)
        jobs[name] = Job(accesses, at.slot, at.index, at.before, at.pa)

    loop: list[float] = []
    times: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        loop.append(timed.bare_loop(workspace))
        for name, accesses in kinds.items():
            engine, run = _run(timed, jobs[name])
            whole = _seconds(lambda chosen=accesses: prober.probe(chosen))  # type: ignore[misc]
            few = accesses.take(slice(0, PAGES // 32))
            alone = 32 * _seconds(lambda chosen=few: prober.probe(chosen, bulk=False))  # type: ignore[misc]
            times[name].append((engine, run, whole, alone))
    bare = median(loop)
    rows: list[dict[str, Any]] = [{"name": "bare loop", "engine_ns": bare / PAGES * 1e9}]
    for name, taken in times.items():
        engine, run, whole, alone = (median(column) for column in zip(*taken, strict=True))
        rows.append(
            {
                "name": name,
                "engine_ns": engine / PAGES * 1e9,
                "of_loop": engine / bare,
                "run_ns": run / PAGES * 1e9,
                "probe_ns": whole / PAGES * 1e9,
                "alone_ns": alone / PAGES * 1e9,
            }
        )
    return rows


def probe_scaling(rounds: int) -> list[dict[str, Any]]:
    """Return ns a probe of `probe` for 10^2 to 10^5 accesses, half of which fault; medians."""
    prober = Prober(_memory(), PagingContext(cr3=FRAME))
    reads, faults = _kinds()["reads"], _kinds()["faults"]
    every = Accesses.join([reads, faults] * 2)
    mixed = every.take(np.argsort(np.tile(np.arange(PAGES), 4), kind="stable"))
    rows = []
    for power in range(2, 6):
        some = mixed.take(slice(0, 10**power))
        taken = [_seconds(lambda chosen=some: prober.probe(chosen)) for _ in range(rounds)]  # type: ignore[misc]
        rows.append({"probes": len(some), "probe_ns": median(taken) / len(some) * 1e9})
    return rows


class _Timed(BulkEngine):
    """An engine that adds up the time its engine runs."""

    seconds = 0.0

    def bare_loop(self, workspace: Workspace) -> float:
        """Return the seconds that a loop takes which reads a byte of each page."""
        code = assemble("loop", _LOOP, bits=64, address=_PLACE, symbols={})
        at = workspace.space.byte_at(workspace.trampoline.code) + _PLACE
        workspace.space.bytes[at : at + len(code)] = code
        state = self._state(0, 0, ac=False)
        state.quads[self._at["rbx"]] = 0
        state.quads[self._at["r12"]] = PAGES * FRAME
        self._engine.restore(state)
        self._engine.flush_tlb()
        start = workspace.trampoline.slots[0].kernel.code + _PLACE
        began = perf_counter()
        error = self._engine.run(start, start + len(code) - 1)
        taken = perf_counter() - began
        if error:
            raise RuntimeError(f"the bare loop ended in error {error}")
        return taken

    def _go(self, *given: Any) -> bool:
        began = perf_counter()
        done = super()._go(*given)
        self.seconds += perf_counter() - began
        return done


def _run(timed: _Timed, job: Job) -> tuple[float, float]:
    """Return the seconds in the engine, and those with the host's side, of all of a job."""
    timed.seconds = 0.0
    began = perf_counter()
    found = timed.make(job)
    run = perf_counter() - began
    if not found.decided.all():
        raise RuntimeError("a probe was not decided")
    return timed.seconds, run


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def _kinds() -> dict[str, Accesses]:
    va = np.arange(PAGES, dtype=np.uint64) * np.uint64(FRAME)
    nowhere = va + np.uint64(1 << 39)
    some = np.where(np.arange(PAGES) % 8 == 0, nowhere, va)
    return {
        "reads": _accesses(va, AccessType.READ),
        "writes": _accesses(va, AccessType.WRITE),
        "an eighth faults": _accesses(some, AccessType.READ),
        "faults": _accesses(nowhere, AccessType.READ),
    }


def _accesses(va: Any, kind: AccessType) -> Accesses:
    count = len(va)
    return Accesses(
        va, np.full(count, kind, np.uint8), np.zeros(count, np.uint8), np.zeros(count, np.bool_)
    )


def _memory() -> Segments:
    """Return PAGES pages of 4 KiB, mapped in a row, A and D set, with RAM behind them."""
    tables = PAGES // 512
    ram = np.zeros((_FIRST + PAGES * FRAME) // 8, np.uint64)
    words = ram[: (4 + tables) * 512].reshape(-1, 512)
    words[1, 0], words[2, 0] = 2 * FRAME | 0x67, 3 * FRAME | 0x67
    words[3, :tables] = np.arange(4, 4 + tables, dtype=np.uint64) * np.uint64(FRAME) | np.uint64(
        0x67
    )
    pages = np.uint64(_FIRST) + np.arange(PAGES, dtype=np.uint64) * np.uint64(FRAME)
    words[4:] = pages.reshape(-1, 512) | np.uint64(0x63)
    return Segments([(0, ram.view(np.uint8))])
