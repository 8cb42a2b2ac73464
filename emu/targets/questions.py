"""Questions to a walker under test: as few as do, and those put aside that it fails to answer."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.targets.answers import Answers, Listed, Listing, Ranges, Refused, Unanswered
from crosswalk.emu.targets.capabilities import LISTS, Capability
from crosswalk.emu.targets.mapping_lists import Lister, ask, gather, ranges_of
from crosswalk.emu.workers.sandbox import HANGS, Failure, NoAnswer, Unloadable
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.bulk import linear_addresses
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, PhysicalMemory

__all__ = [
    "MOST_FAILURES",
    "NOT_LISTED",
    "PUT_ASIDE",
    "Course",
    "Place",
    "Questions",
    "listed",
    "put",
]

MOST_FAILURES = 16
PUT_ASIDE = f"what follows {MOST_FAILURES} failures of the walker under test"
NOT_LISTED = "addresses that aren't canonical, of which no list is asked for"
"""The reason for which an access isn't put to it."""
"""The most questions of one address space that are put aside."""

_TRIES = 60  # What all failed attempts at one address space may cost:
_COSTS = {failure: _TRIES // HANGS if failure is Failure.HANG else 1 for failure in Failure}

Rows = NDArray[np.intp]


class Place(Protocol):
    """Where a walker is: item 0 is the number of the question that it is asked."""

    def __setitem__(self, at: int, number: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Course:
    """How far a walker is with its questions, and which of its answers are none."""

    place: Place = field(default_factory=lambda: [0])
    refused: Refused = field(default_factory=Refused)


@dataclass(frozen=True, slots=True)
class Questions:
    """Accesses put to a walker one by one, and ranges to list; None without a claim of lists.

    They are numbered: the accesses first.
    """

    accesses: Accesses
    ranges: Ranges | None

    def __len__(self) -> int:
        return len(self.accesses) + (0 if self.ranges is None else len(self.ranges))

    def take(self, numbers: Rows) -> "Questions":
        """Return some of them."""
        some = self.accesses.take(numbers[numbers < len(self.accesses)])
        if self.ranges is None:
            return Questions(some, None)
        listed = numbers[numbers >= len(self.accesses)] - len(self.accesses)
        return Questions(some, self.ranges.take(listed))


def listed(
    context: PagingContext, questions: Questions, lister: Lister, course: Course
) -> Listing | None:
    """Return what a function lists for the ranges, one after the other."""
    if questions.ranges is None:
        return None
    numbers = count(len(questions.accesses))

    def placed(va: int, end: int) -> Any:
        course.place[0] = next(numbers)
        return lister(va, end)

    return ask(context, questions.ranges, placed)


Ask = Callable[[Questions], tuple[Answers, Refused]]
"""Asks a walker; raises `NoAnswer`, whose `at` is the number of the question that it failed at."""


def put(
    claims: frozenset[Capability],
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    asker: Ask,
    ranges: Ranges | None = None,
) -> Answers:
    """Return a walker's answers to the accesses, as `asker` gets them for the questions.

    Lists are asked for `ranges`, by default those of `ranges_of`.

    A walker that claims translation and nothing else of an access is asked once for each page
    that they lie in, for the first access in order; the others get that answer with their own
    offset. Where it fails, the question that it fails at is asked alone, in a process of its own,
    and put aside if it fails again; those before it and behind it are asked without it. A failure
    that no part of the questions shows stands for all of them, and a walker that hangs so hasn't
    failed: it answers the parts. After `MOST_FAILURES`, or too many attempts, no more are asked.
    An answer that is refused is a failure of its question, which isn't asked again.
    """
    first, which = _asked(claims, context, accesses)
    if not claims & LISTS:
        ranges = None
    elif ranges is None:
        ranges = ranges_of(memory, context, accesses)
    questions = Questions(accesses.take(first), ranges)
    attempts = _Attempts(questions, asker)
    attempts.put(np.arange(len(questions)), trusted=True)
    if attempts.complete and claims - LISTS and len(first) == len(accesses):
        return attempts.answered[0][1]
    answers = Answers.none(len(accesses))
    if claims - LISTS:
        answers = _spread(accesses, questions.accesses, which, attempts)
    listing = None
    if ranges is not None:
        listing = _listing(context, len(questions.accesses), ranges, attempts)
    failures = tuple(
        _unanswered(context, accesses, questions, which, each) for each in attempts.failures()
    )
    return replace(answers, listing=listing, failures=failures)


def _asked(
    claims: frozenset[Capability], context: PagingContext, accesses: Accesses
) -> tuple[Rows, Rows]:
    """Return the accesses to ask for, and for each access which of those has its answer."""
    if not claims - LISTS:
        nothing = np.zeros(0, np.intp)
        return nothing, nothing
    if claims - LISTS != {Capability.TRANSLATION}:
        every = np.arange(len(accesses))
        return every, every
    pages, linear = accesses.va // np.uint64(FRAME), linear_addresses(context, accesses)
    if linear is not accesses.va:
        # LAM and UAI mask the address of a read, and not that of a fetch: both count.
        pages = np.stack([pages, linear // np.uint64(FRAME)])
    _, first, which = np.unique(pages, axis=-1, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[which.reshape(-1)]


def _spread(accesses: Accesses, asked: Accesses, which: Rows, attempts: "_Attempts") -> Answers:
    """Return the answers of all parts, given to each access from the one that was asked for it."""
    answers, aside = Answers.none(len(asked)), np.ones(len(asked), np.bool_)
    for numbers, part in attempts.answered:
        rows = numbers[numbers < len(asked)]
        for each in fields(Outcomes):
            getattr(answers.outcomes, each.name)[rows] = getattr(part.outcomes, each.name)
        answers.silent[rows], aside[rows] = part.silent, False
    bad = [number for number in attempts.refused if number < len(asked)]
    answers.silent[bad] = aside[bad] = True
    outcomes = answers.outcomes.take(which)
    # They lie in one page: to its first byte, and from there.
    offset = accesses.va % np.uint64(FRAME) - asked.va[which] % np.uint64(FRAME)
    outcomes.pa[outcomes.kind == Kind.OK] += offset[outcomes.kind == Kind.OK]
    return Answers(outcomes, answers.silent[which], aside=np.flatnonzero(aside[which]))


def _listing(context: PagingContext, before: int, ranges: Ranges, attempts: "_Attempts") -> Listing:
    """Return the lists of all parts as one; `before` questions aren't for lists."""
    listing = gather(context, ranges, [None] * len(ranges))
    silent, aside = listing.silent, np.ones(len(ranges), np.bool_)
    mappings, at = [listing.mappings], [listing.at]
    for numbers, part in attempts.answered:
        rows = numbers[numbers >= before] - before
        if part.listing is not None:
            silent[rows], aside[rows] = part.listing.silent, False
            mappings.append(part.listing.mappings)
            at.append(rows[part.listing.at])
    bad = [number - before for number in attempts.refused if number >= before]
    silent[bad] = aside[bad] = True
    number = np.concatenate(at)
    order = np.argsort(number, kind="stable")
    order = order[~aside[number[order]]]
    found = Listed.join(mappings).take(order)
    return Listing(ranges, found, number[order], silent, np.flatnonzero(aside))


def _unanswered(
    context: PagingContext,
    accesses: Accesses,
    questions: Questions,
    which: Rows,
    failed: "_Failed",
) -> Unanswered:
    """Return a failure with the accesses that show it."""
    numbers, failure, alone = failed
    count = len(questions.accesses)
    rows = np.flatnonzero(np.isin(which, numbers))
    listed = numbers[numbers >= count] - count
    if questions.ranges is not None and len(listed):
        some = questions.ranges.take(listed)
        va = linear_addresses(context, accesses)
        at = np.searchsorted(some.first, va, side="right") - 1
        rows = np.union1d(rows, np.flatnonzero((at >= 0) & (va <= some.last[at])))
        if not len(rows):
            read = Access(int(some.first[0]), AccessType.READ, 0, False)
            return Unanswered(failure, Accesses.of([read]), rows)
    return Unanswered(failure, accesses.take(rows[:1] if alone else rows), rows)


_Failed = tuple[Rows, NoAnswer, bool]
"""The questions of a failure, and whether each of them shows it alone."""


@dataclass(slots=True)
class _Attempts:
    """What came of all attempts: the parts that were answered, and those that weren't."""

    questions: Questions
    asker: Ask
    answered: list[tuple[Rows, Answers]] = field(default_factory=list)
    failed: list[tuple[Rows, NoAnswer]] = field(default_factory=list)
    refused: Refused = field(default_factory=Refused)
    unasked: list[Rows] = field(default_factory=list)
    smallest: tuple[Rows, NoAnswer] | None = None
    left: int = _TRIES
    gone: bool = False

    def put(self, some: Rows, *, trusted: bool, again: bool = False) -> None:
        """Ask some questions, all of them together if possible.

        `trusted`: where it fails is taken for the question to blame. That is wrong for a process
        that answers late, or fails only after others; then they are halved. `again`: they came
        before one that failed, and are asked however many have failed.
        """
        if not len(some):
            return
        enough = self.left <= 0 or len(self.failed) >= MOST_FAILURES
        if self.gone or (enough and not again):
            self.unasked.append(some)
            return
        failure = self._try(some)
        if failure is not None and _slow(failure) and len(self.questions) == 1:
            failure = self._try(some)  # It wasn't asked before, as one of many.
        if failure is None:
            return
        if len(some) == 1 or isinstance(failure, Unloadable):
            self.failed.append((some, failure))
            return
        self.smallest = some, failure
        failed, unasked, at = len(self.failed), len(self.unasked), failure.at
        suspect = at if trusted and at is not None and 0 <= at < len(some) else None
        self._divide(some, suspect)
        below = self.failed[failed:]
        for number, (numbers, each) in enumerate(below, failed):
            if isinstance(each, Unloadable):  # What it failed at before is the failure.
                blamed = numbers if suspect is None else some[suspect : suspect + 1]
                self.failed[number] = blamed, failure
        if not below and len(self.unasked) == unasked and not _slow(failure):
            self.failed.append((some, failure))

    @property
    def complete(self) -> bool:
        """Whether the first attempt has all answers."""
        return len(self.answered) == 1 and not self.refused and self.smallest is None

    def failures(self) -> list["_Failed"]:
        """Return all failures, in the order of their first questions.

        If there was no time to find a single question, they are the fewest that were asked.
        """
        if self.unasked and self.smallest is not None and not self.failed:
            self.failed.append(self.smallest)
        found = [(numbers, failure, len(numbers) == 1) for numbers, failure in self.failed]
        kinds: dict[str, list[int]] = {}
        for number in sorted(self.refused):
            kinds.setdefault(self.refused[number].kind, []).append(number)
        found += [(np.array(some), self.refused[some[0]], True) for some in kinds.values()]
        return sorted(found, key=lambda each: int(each[0][0]))

    def _try(self, some: Rows) -> NoAnswer | None:
        try:
            answers, refused = self.asker(self.questions.take(some))
            self.answered.append((some, answers))
            self.refused |= {int(some[number]): each for number, each in refused.items()}
        except NoAnswer as failure:
            self.gone = isinstance(failure, Unloadable)
            self.left -= _COSTS[failure.failure]
            return failure
        return None

    def _divide(self, some: Rows, suspect: int | None) -> None:
        """Ask the parts of questions: the suspect and the others, or else halves."""
        if suspect is None:
            for half in np.array_split(some, 2):
                self.put(half, trusted=False)
            return
        count = len(self.failed)
        self.put(some[suspect : suspect + 1], trusted=True)
        trusted = len(self.failed) > count
        self.put(some[:suspect], trusted=False, again=True)
        self.put(some[suspect + 1 :], trusted=trusted)


def _slow(failure: NoAnswer) -> bool:
    return failure.failure is Failure.HANG
