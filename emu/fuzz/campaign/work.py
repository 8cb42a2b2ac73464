"""The task of a worker process: make one layout and try it, with engines that are kept."""

import functools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.findings import (
    INTENDED,
    SECOND_WALK,
    WRITABLE,
    Caseless,
    CompositeFinding,
    Finding,
    attempted,
    error_text,
)
from crosswalk.emu.findings.note import note_text
from crosswalk.emu.findings.signature import CROSSWALK, Signature
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap
from crosswalk.emu.fuzz.executor import AnyFinding, LayoutResult, executor_of
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.report.composites import dump_composite
from crosswalk.emu.workers.process import ProcessLost, is_out_of_memory
from crosswalk.walker.formats import dump_case

__all__ = ["Again", "Done", "Failed", "Kept", "Task", "kept_of", "work"]

_NO_COVERAGE = np.zeros(0, np.bool_)


Again = Literal["replay", "reduce", "fuzz"]
"""The command that shows a finding again."""


@dataclass(frozen=True, slots=True)
class Task:
    """One layout of a campaign; `seen` is what had been seen when its round was made.

    `known` are the slugs of findings that were kept by then, whose cases nobody needs any more.
    """

    plan: Plan
    index: int
    seen: bytes
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Kept:
    """A finding as a campaign keeps it: `packed` is its case file, None where there is none.

    That is compressed, as with all of a layout's tables it is long, and many wait to be taken.

    `failed` are findings about the writing of that file, which count if the finding is new.
    """

    signature: Signature
    count: int
    packed: bytes | None = None
    again: Again = "fuzz"
    failed: tuple[Caseless, ...] = ()

    @property
    def case(self) -> bytes | None:
        """The case file."""
        return None if self.packed is None else zlib.decompress(self.packed)


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a layout; `new` are the cells of its coverage not in the task's `seen`.

    The findings of `found` are in `kept`, as the files that they become: as objects with all of a
    layout's tables they would take a hundred times the memory of whoever waits for them.
    """

    index: int
    found: LayoutResult
    new: NDArray[np.int32]
    kept: tuple[Kept, ...]

    @classmethod
    def of(cls, task: Task, found: LayoutResult, new: NDArray[np.int32]) -> "Done":
        """Return what is kept of the result of a task."""
        kept = kept_of(task, found.findings)
        return cls(task.index, replace(found, findings=(), coverage=_NO_COVERAGE), new, kept)


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
    chosen = frozenset(plan.choice.asked_modes) or None
    executor = executor_of(plan.walker, plan.claims, plan.limits, chosen)
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
    return Done.of(task, result, np.flatnonzero(new).astype(np.int32))


def kept_of(task: Task, findings: Iterable[AnyFinding], why: str = "") -> tuple[Kept, ...]:
    """Return what is kept of the findings of a layout; `why` is the error that ended it.

    One that is known is counted, and no more; one whose case can't be written is there without.
    """
    return tuple(_kept(task, each, why) for each in findings)


def _kept(task: Task, finding: AnyFinding, why: str) -> Kept:
    signature = finding.signature
    if isinstance(finding, Caseless) or signature.slug in task.known:
        return Kept(signature, finding.count)
    detail = why or (finding.answer if isinstance(finding, Finding) else "")
    note = note_text(signature, task.index, detail, task.plan.walker)
    failed: list[Caseless] = []
    data = attempted(WRITABLE, lambda: _file(task.plan, finding, note), failed)
    packed = None if data is None else zlib.compress(data, 1)
    if packed is None or signature.witness in {INTENDED, CROSSWALK}:
        # What was intended is known of the layout, and not of its case.
        return Kept(signature, finding.count, packed, failed=tuple(failed))
    # Of an access, a replay holds the walker against the CPU, and not the second walk.
    stated = isinstance(finding, Finding) and signature.witness == SECOND_WALK
    return Kept(signature, finding.count, packed, "reduce" if stated else "replay")


def _file(plan: Plan, finding: Finding | CompositeFinding, note: str) -> bytes:
    if isinstance(finding, CompositeFinding):
        inner = replace(finding.case.case, seed=plan.seed, note=note)
        return dump_composite(replace(finding.case, case=inner), finding.allowed, finding.seen)
    # A walker under test may go wrong because of words that the walk does not read.
    whole = finding.whole if finding.signature.of_target else finding.case
    return dump_case(replace(whole, seed=plan.seed, note=note, walker=plan.walker))


@functools.lru_cache(4)
def _unpacked(seen: bytes) -> NDArray[np.bool_]:
    return CoverageMap.unpack(seen).bits
