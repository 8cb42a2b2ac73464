"""A check by processes of its own, each at a piece at a time; a crash is a result."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from crosswalk.emu.check.crosscheck import Checker, expected_accesses
from crosswalk.emu.check.survey import DEFAULT_LIMIT, Survey
from crosswalk.emu.check.verdict import Lost, Tally, Verdict
from crosswalk.emu.findings.image import ImageAsker, Part, Piece, pieces_of
from crosswalk.emu.probe import mapped
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["TIME_LIMIT", "ask_in_pieces", "check_in_pieces"]

TIME_LIMIT = 600.0
"""Seconds after which a piece counts as hanging; one takes less than one."""

_PATIENCE = 3  # So many pieces may be lost; an emulator that goes on dying is no check.

Result = TypeVar("Result")


def check_in_pieces(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    between: tuple[int, int] = (0, TOP),
    limit: int | None = None,
    jobs: int = 1,
    assumed_width: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Return what a check of [start, end) finds, made by up to `jobs` processes.

    With `limit` the first so many targets of each kind are checked; without it more mappings than
    the default limit are `LimitExceeded`. `assumed_width` says that MAXPHYADDR is a guess: what
    rests on it isn't asked. A process that dies has its piece done once more, by another; what is
    lost then is part of the verdict, and `EmulatorCrash` if nothing was answered, or too much lost.
    """

    def begin() -> Callable[[Piece], Verdict]:
        checker = Checker(
            memory, context, predict=translate_many, walk=walk_leaves, assumed_width=assumed_width
        )
        return lambda piece: checker.check(piece.targets)

    survey = _survey(memory, context, between, limit)
    pieces = (Piece(targets) for targets in survey.pieces())
    return _added(survey, _results(pieces, begin, jobs, TIME_LIMIT), progress)


def ask_in_pieces(
    begin: Callable[[], ImageAsker],
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    between: tuple[int, int] = (0, TOP),
    limit: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    seconds: float = 0.0,
) -> tuple[Verdict, Part]:
    """Return the same, and what a walker under test answers to the accesses that were made.

    `begin` returns what asks it, in each process; that may take `seconds` of each piece. Without
    `limit` what it lists is asked for as a whole, else where something is accessed. The walker of a
    piece that was lost has answered nothing of it.
    """
    survey = _survey(memory, context, between, limit)
    pieces = pieces_of(context, survey.pieces(), between, whole=limit is None)
    answers = Part()

    def verdicts() -> Iterator[Verdict | Lost]:
        nonlocal answers
        for result in _results(pieces, lambda: begin().check, jobs, TIME_LIMIT + seconds):
            if isinstance(result, Lost):
                yield result
                continue
            verdict, part = result
            answers += part
            yield verdict

    return _added(survey, verdicts(), progress), answers


def _survey(
    memory: PhysicalMemory, context: PagingContext, between: tuple[int, int], limit: int | None
) -> Survey:
    start, end = between
    return Survey(
        memory,
        context,
        start=start,
        end=end,
        limit=DEFAULT_LIMIT if limit is None else limit,
        cut=limit is not None,
        walk=walk_leaves,
        read=mapped,
    )


def _added(
    survey: Survey,
    results: Iterator[Verdict | Lost],
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    """Return the verdicts of all pieces as one."""
    began = time.perf_counter()
    tally = Tally(survey)
    lost: list[Lost] = []
    for result in results:
        tally.add(result)
        if isinstance(result, Lost):
            lost.append(result)
            if len(lost) > _PATIENCE:
                break
        elif progress is not None:
            progress(tally.probes, max(tally.probes, expected_accesses(survey)))
    if lost and (len(lost) > _PATIENCE or not tally.probes):
        raise EmulatorCrash(f"{lost[0].how}, at {lost[0].first:#x} to {lost[0].last:#x}")
    return tally.verdict(time.perf_counter() - began)


def _results(
    pieces: Iterator[Piece],
    begin: Callable[[], Callable[[Piece], Result]],
    jobs: int,
    seconds: float,
) -> Iterator[Result | Lost]:
    """Yield the result of each piece, in order; closing this stops all processes."""
    checks: list[Callable[[Piece], Result]] = []

    def check(piece: Piece) -> Result:
        if not checks:  # That of a child, kept from piece to piece.
            checks.append(begin())
        return checks[0](piece)

    with Pool(check, jobs, seconds=seconds, who="the emulator") as pool:
        for piece, result in in_order(pool, pieces):
            try:
                done: Result | Lost = result()
            except ProcessEnded as ended:
                done = _lost(piece, f"the emulator {ended}")
            except ProcessLost as lost:
                done = _lost(piece, str(lost))
            yield done


def _lost(piece: Piece, how: str) -> Lost:
    va = piece.targets.va
    if len(va):
        return Lost(how, int(va.min()), int(va.max()), len(va))
    return Lost(how, piece.windows[0][0], piece.windows[-1][1], 0)
