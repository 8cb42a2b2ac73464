"""The task of a worker process: make one layout and try it, with engines that are kept."""

import functools
import zlib
from collections.abc import Iterable, Iterator
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
from crosswalk.emu.fuzz.judged import judge_executor_of
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.report.composites import dump_composite
from crosswalk.emu.workers.process import ProcessLost, is_out_of_memory
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import dump_case

__all__ = [
    "Again",
    "Batch",
    "Done",
    "Failed",
    "Kept",
    "Results",
    "Task",
    "kept_of",
    "results_of",
    "work",
]

_NO_COVERAGE = np.zeros(0, np.bool_)


Again = Literal["replay", "reduce", "fuzz", "judge"]
"""The command that shows a finding again."""


@dataclass(frozen=True, slots=True)
class Task:
    """Layouts of a campaign, `count` from `index` on, all of one round.

    `seen` is what had been seen when their round was made; `judge` what the judge says of itself,
    None where there is none; `known` are the slugs of findings that were kept by then, whose cases
    nobody needs any more.
    """

    plan: Plan
    index: int
    seen: bytes
    known: frozenset[str] = frozenset()
    count: int = 1
    judge: str | None = None

    @property
    def indices(self) -> range:
        """The numbers of its layouts."""
        return range(self.index, self.index + self.count)

    def one(self, index: int) -> "Task":
        """Return the task of one of its layouts."""
        return replace(self, index=index, count=1)


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


@dataclass(frozen=True, slots=True)
class Batch:
    """The results of a task of several layouts, in order."""

    results: tuple[Done | Failed, ...]


Results = Done | Failed | Batch
"""What a task comes to: of one layout its own result."""


def results_of(task: Task, results: Results) -> Iterator[tuple[int, Done | Failed]]:
    """Yield the result of each layout of a task, with its number."""
    each = results.results if isinstance(results, Batch) else (results,)
    return zip(task.indices, each, strict=True)


def work(task: Task) -> Results:
    """Make layouts and try them; an error about a layout is its result.

    Raises the `CrosswalkError` that opening the walker under test, the judge, or the source raises,
    and what says nothing of the layout: `ProcessLost`, or that there is no memory.
    """
    task.plan.open_source()
    if task.plan.judge is not None:
        return Batch(_judged(task, task.plan.judge))
    return _work(task)


def _judged(task: Task, judge: str) -> tuple[Done | Failed, ...]:
    """Put layouts to a judge, all together; where that fails, each by itself."""
    plan, executor = task.plan, judge_executor_of(judge)
    if task.judge is not None and executor.version != task.judge:
        raise BadInput(f"--judge {judge}: a worker has {executor.version}; here is {task.judge}")
    try:
        layouts = [plan.layout(index, task.seen) for index in task.indices]
        cross = [plan.crosses(index) for index in task.indices]
        results = executor.run_many(layouts, cross=cross)
    except (ProcessLost, BadInput):
        raise
    except Exception as error:  # One layout's trouble is no end of a campaign.
        if is_out_of_memory(error):
            raise
        if task.count == 1:
            return (Failed("error", error_text(error), ours=True),)
        return tuple(each for index in task.indices for each in _judged(task.one(index), judge))
    return tuple(
        _done(task.one(index), result) for index, result in zip(task.indices, results, strict=True)
    )


def _work(task: Task) -> Done | Failed:
    plan = task.plan
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
    return _done(task, result)


def _done(task: Task, result: LayoutResult) -> Done:
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
    if signature.of_judge:
        return Kept(signature, finding.count, packed, "judge")
    # Of an access, a replay holds the walker against the CPU, and not the second walk.
    stated = isinstance(finding, Finding) and signature.witness == SECOND_WALK
    return Kept(signature, finding.count, packed, "reduce" if stated else "replay")


def _file(plan: Plan, finding: Finding | CompositeFinding, note: str) -> bytes:
    if isinstance(finding, CompositeFinding):
        inner = replace(finding.case.case, seed=plan.seed, note=note)
        return dump_composite(replace(finding.case, case=inner), finding.allowed, finding.seen)
    # A walker or a machine may go wrong because of words that the walk does not read.
    whole = finding.signature.of_target or finding.signature.of_judge
    case = finding.whole if whole else finding.case
    return dump_case(replace(case, seed=plan.seed, note=note, walker=plan.walker))


@functools.lru_cache(4)
def _unpacked(seen: bytes) -> NDArray[np.bool_]:
    return CoverageMap.unpack(seen).bits
