"""A check of several address spaces: what they have in common is asked once."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.crosscheck import Checker, expected_accesses
from crosswalk.emu.check.selection import Targets
from crosswalk.emu.check.survey import Survey
from crosswalk.emu.check.verdict import KEPT_DIVERGENCES, Lost, Tally, Verdict, total_of
from crosswalk.emu.cli.check_pieces import PATIENCE, TIME_LIMIT, in_processes, survey_of
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.spaces import access_key, groups_of, shared_slots, slot_ranges

__all__ = ["SHARED", "check_spaces"]

SHARED = "mappings that a root before has by the same entry of its table"
"""Why some of a root's mappings aren't asked: a walk under either root is the same but for that."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is asked under one root: linear addresses that no root before translates alike.

    `shared` are those that others translate alike later on, each with the number of these.
    """

    context: PagingContext
    ranges: Sequence[tuple[int, int]]
    shared: Sequence[tuple[int, tuple[int, int]]]


def check_spaces(
    memory: PhysicalMemory,
    contexts: Sequence[PagingContext],
    *,
    between: tuple[int, int] = (0, TOP),
    limit: int | None = None,
    jobs: int = 1,
    assumed_width: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Verdict, list[tuple[PagingContext, Verdict]]]:
    """Return the verdict on all address spaces, and those on single ones that have divergences.

    Options and errors as in `check_in_pieces`, `limit` for each root. What a slot of a root
    translates is asked under the first root that has the same entry there, and is counted as not
    asked of the others. Of the divergences the first ones are kept.
    """
    parts = _parts(memory, contexts, between)
    surveys = []
    for part in parts:
        with errors_named(f"root {part.context.root:#x}"):
            surveys.append(survey_of(memory, part.context, part.ranges, limit))

    def begin() -> Callable[[tuple[int, Targets]], Verdict]:
        checkers: dict[int, Checker] = {}

        def check(task: tuple[int, Targets]) -> Verdict:
            number, targets = task
            if number not in checkers:
                checkers.clear()  # One root's copy of the tables at a time.
                checkers[number] = Checker(
                    memory,
                    parts[number].context,
                    predict=translate_many,
                    walk=walk_leaves,
                    assumed_width=assumed_width,
                )
            return checkers[number].check(targets)

        return check

    began = time.perf_counter()
    asked: deque[int] = deque()
    tasks = _tasks(surveys, asked)
    results = in_processes(tasks, begin, jobs, TIME_LIMIT, lambda task: task[1])
    verdicts: list[Verdict] = []
    found: list[tuple[PagingContext, Verdict]] = []
    for number, verdict in _verdicts(surveys, asked, results, progress):
        if verdict.divergent and sum(_kept(each) for _, each in found) < KEPT_DIVERGENCES:
            found.append((parts[number].context, verdict))
        verdicts.append(replace(verdict, divergences=(), listing=()))
    total = total_of(verdicts, time.perf_counter() - began)
    if total.lost and not total.probes:
        lost = total.lost[0]
        raise EmulatorCrash(f"{lost.how}, at {lost.first:#x} to {lost.last:#x}")
    return _with_shared(total, memory, parts, between), found


def _kept(verdict: Verdict) -> int:
    return len(verdict.divergences) + len(verdict.listing)


def _parts(
    memory: PhysicalMemory, contexts: Sequence[PagingContext], between: tuple[int, int]
) -> list[_Part]:
    """Return what is asked under each root, in the order of the contexts."""
    found = [
        (number, _part(context, shared, between))
        for group in groups_of(contexts, access_key)
        for number, context, shared in zip(
            group.numbers, group.contexts, shared_slots(memory, group), strict=True
        )
    ]
    return [part for _, part in sorted(found, key=lambda each: each[0])]


def _part(context: PagingContext, shared: NDArray[np.uint32], between: tuple[int, int]) -> _Part:
    # Of the first root also what lies outside all slots: addresses that aren't canonical.
    whole = bool(shared.all())
    slots = [(0, TOP)] if whole else slot_ranges(context, shared != 0)
    ranges = [_clipped(each, between) for each in slots]
    others = [
        (count - 1, _clipped(each, between))
        for count in np.unique(shared[shared > 1]).tolist()
        for each in slot_ranges(context, shared == count)
    ]
    return _Part(
        context,
        [each for each in ranges if each[0] < each[1]],
        [(count, each) for count, each in others if each[0] < each[1]],
    )


def _clipped(found: tuple[int, int], between: tuple[int, int]) -> tuple[int, int]:
    return max(found[0], between[0]), min(found[1], between[1])


def _tasks(surveys: Sequence[Survey], asked: deque[int]) -> Iterator[tuple[int, Targets]]:
    """Yield the pieces of all surveys with the survey's number, which goes into `asked`, too."""
    for number, survey in enumerate(surveys):
        for piece in survey.pieces():
            asked.append(number)
            yield number, piece


def _verdicts(
    surveys: Sequence[Survey],
    asked: deque[int],
    results: Iterator[Verdict | Lost],
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, Verdict]]:
    """Yield the verdict on each root, of the results of its pieces, which come in order."""
    expected = sum(map(expected_accesses, surveys))
    tally, current, done, lost = None, 0, 0, 0
    for result in results:
        number = asked.popleft()
        if tally is None or number != current:
            if tally is not None:
                yield current, tally.verdict()
            tally, current = Tally(surveys[number]), number
        tally.add(result)
        if isinstance(result, Lost):
            lost += 1
            if lost > PATIENCE:
                raise EmulatorCrash(f"{result.how}, at {result.first:#x} to {result.last:#x}")
        else:
            done += result.probes
            if progress is not None:
                progress(done, max(done, expected))
    if tally is not None:
        yield current, tally.verdict()


def _with_shared(
    total: Verdict, memory: PhysicalMemory, parts: Sequence[_Part], between: tuple[int, int]
) -> Verdict:
    """Return the verdict on all roots with the mappings that weren't asked again."""
    if between == (0, TOP):
        contexts = [part.context for part in parts]
        every = sum(count_mappings(memory, contexts).values())
        shared = every - total.mappings
    else:
        shared = sum(
            count * len(leaves)
            for part in parts
            for count, (start, end) in part.shared
            for leaves in walk_leaves(memory, part.context, start, end)
        )
    if not shared:
        return total
    not_asked = {**total.not_asked, SHARED: shared}
    return replace(total, mappings=total.mappings + shared, not_asked=not_asked)
