"""A walker under test, asked about an image piece by piece: each answer is judged as it comes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from crosswalk.emu.check import Divergence, Verdict
from crosswalk.emu.check.crosscheck import Checker
from crosswalk.emu.check.selection import PLACES, Place, Targets
from crosswalk.emu.findings.findings import EXPLAINED, wrong_answers
from crosswalk.emu.findings.note import failure_text, listed_text
from crosswalk.emu.findings.signature import (
    Signature,
    failed_signature,
    failure_signature,
    without_numbers,
)
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.answers import Ranges
from crosswalk.emu.targets.capabilities import LISTS
from crosswalk.emu.targets.judge import Contradiction, judge
from crosswalk.emu.targets.mapping_lists import ranges_with
from crosswalk.emu.targets.tally import Tally
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import table_frames, walk_leaves
from crosswalk.walker.memory import FRAME, PhysicalMemory, SparseWords

__all__ = ["ImageAsker", "Part", "Piece", "part_of", "pieces_of", "tables_alone"]

Windows = tuple[tuple[int, int], ...]
"""Ranges of linear addresses: the first and the last byte of each."""

_MOST = 512
"""The most targets of a piece: up to 12,288 accesses, for which a walker has the time and the
output that it has for an address space of `fuzz`."""

_SIZES = np.zeros(max(Place) + 1, np.uint64)
for _shift, _place in PLACES.items():
    _SIZES[_place] = 1 << _shift
_SIZES[Place.HOLE] = FRAME


@dataclass(frozen=True, slots=True)
class Piece:
    """Some targets of a check, and the windows of which a walker is to list the mappings."""

    targets: Targets
    windows: Windows = ()


@dataclass(slots=True)
class Part:
    """What a walker under test answered: `tally` the questions, wrong answers by signature.

    `first` is the first wrong answer of each, `failed` the accesses that show a failure, `answers`
    in words what a case doesn't hold of either: as `Finding.answer` of the first. `unasked`
    counts accesses that were not put to it any more after too many failures, `unlisted` those that
    no list is asked for, `disputed` those of the check that it is wrong about: what it lists beside
    them is none.
    """

    tally: Tally = field(default_factory=Tally)
    counts: Counter[Signature] = field(default_factory=Counter)
    first: dict[Signature, Divergence] = field(default_factory=dict)
    failed: dict[Signature, Accesses] = field(default_factory=dict)
    answers: dict[Signature, str] = field(default_factory=dict)
    unasked: int = 0
    unlisted: int = 0
    disputed: int = 0

    def __iadd__(self, other: "Part") -> Self:
        """Add what comes of later questions."""
        self.tally += other.tally
        self.counts.update(other.counts)
        self.first = other.first | self.first
        self.failed = other.failed | self.failed
        self.answers = other.answers | self.answers
        self.unasked += other.unasked
        self.unlisted += other.unlisted
        self.disputed += other.disputed
        return self


def tables_alone(memory: PhysicalMemory, context: PagingContext) -> SparseWords:
    """Return the paging structures of an image in otherwise empty RAM, with its ranges."""
    frames = np.sort(table_frames(memory, context))
    return SparseWords.of_tables(tuple(memory.ranges), frames, memory.tables(frames))


def pieces_of(
    context: PagingContext, parts: Iterable[Targets], between: tuple[int, int], *, whole: bool
) -> Iterator[Piece]:
    """Yield the targets of a check with windows; those of all pieces are [start, end), if `whole`.

    They are rounded to whole pages, since a page is accessed everywhere that touches [start, end).
    Targets come in address order, malformed entries and what isn't canonical behind them: a window
    reaches from the one before to the end of its piece's last page or hole, and has no more true
    mappings than the piece has targets.
    """
    left, end = between[0] & -FRAME, -(-between[1] // FRAME) * FRAME
    for targets in (part.take(slice(at, at + _MOST)) for part in parts for at in _steps(part)):
        size = _SIZES[targets.place]
        inside = np.flatnonzero(size)
        if not whole or not len(inside):
            yield Piece(targets)
            continue
        first, last = targets.va[inside], targets.va[inside] | (size[inside] - np.uint64(1))
        start, until = min(left, int(first[0])), max(left, int(last.max()) + 1)
        yield Piece(targets, _canonical(context, start, until))
        left = until
    if whole and left < end:
        nothing = Targets.at(np.zeros(0, np.uint64), Place.HOLE)
        yield Piece(nothing, _canonical(context, left, end))


def _steps(part: Targets) -> range:
    return range(0, len(part), _MOST)


def _canonical(context: PagingContext, start: int, end: int) -> Windows:
    """Return what of [start, end) is canonical, each half by itself."""
    half = 1 << context.va_bits - 1 if context.mode.long else 1 << context.va_bits
    halves = [(0, half), ((1 << 64) - half, 1 << 64)] if context.mode.long else [(0, half)]
    cut = ((max(start, first), min(end, last)) for first, last in halves)
    return tuple((first, last - 1) for first, last in cut if first < last)


class ImageAsker:
    """Checks pieces of an image, and puts the accesses of each to a walker under test.

    The walker gets `words`, the image's paging structures and nothing else. What the emulated CPU
    lacks a feature for isn't put to it.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        words: SparseWords,
        context: PagingContext,
        target: Target,
        *,
        assumed_width: bool = False,
    ) -> None:
        self._words, self._context, self._target = words, context, target
        self._checker = Checker(
            memory,
            context,
            predict=translate_many,
            walk=walk_leaves,
            assumed_width=assumed_width,
            told=self._note,
        )

    def check(self, piece: Piece) -> tuple[Verdict, Part]:
        """Return what the check of a piece finds, and what the walker's answers come to."""
        self._told = Accesses.of([]), Outcomes.empty(0)
        verdict = Verdict(0, 0, (), {}, {}, 0.0)
        if len(piece.targets):
            verdict = self._checker.check(piece.targets)
        accesses, truth = self._told
        ranges = None
        if self._target.claims & LISTS:
            ranges = ranges_with(self._context, piece.windows, accesses)
        return verdict, part_of(self._target, self._words, self._context, accesses, truth, ranges)

    def _note(self, accesses: Accesses, truth: Outcomes) -> None:
        self._told = accesses, truth


def part_of(
    target: Target,
    words: SparseWords,
    context: PagingContext,
    accesses: Accesses,
    truth: Outcomes,
    ranges: Ranges | None = None,
) -> Part:
    """Ask a walker about accesses with these outcomes, and return what its answers come to."""
    part = Part()
    answers = target.answer(words, context, accesses, ranges)
    for each in answers.failures:
        signature = failure_signature(target.name, each.failure)
        part.counts[signature] += each.count
        part.failed.setdefault(signature, each.accesses)
        part.answers.setdefault(signature, failure_text(each))
    try:
        judged = judge(target.claims, answers, words, context, accesses, truth)
    except Contradiction as error:
        signature = failed_signature(EXPLAINED, without_numbers(str(error)))
        part.counts[signature] += 1
        part.failed[signature] = accesses
        return part
    part.tally, part.unasked, part.unlisted = judged.tally, judged.unasked, judged.unlisted
    witness = f"peer:{target.name}"
    for verdict in judged.verdicts:
        if verdict.observed is not None:
            part.disputed += int(verdict.wrong.sum())
        for _, signature, divergence in wrong_answers(
            words, context, witness, target.claims, verdict
        ):
            part.counts[signature] += 1
            part.first.setdefault(signature, divergence)
            part.answers.setdefault(signature, listed_text(signature, divergence.predicted))
    return part
