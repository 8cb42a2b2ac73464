"""The reducer: smaller candidates are tried, the largest steps first, until none shows the same.

It knows nothing of what it reduces: a pass is a generator that yields candidates and is sent
whether each was accepted. Accepted ones are smaller, so there is an end, and a reduced case is its
own reduction.

Reducers on offer were looked at in November 2026. Shrink Ray is kept, but needs Python 3.12 (3.11
has to do here), brings many packages, a language model's runtime among them, and shortens files
of text; Lithium takes lines out of files; Picire has had no release since 2021. None knows
bits of entries, or that a table may move if the entries that lead to it change, which most passes
here are about.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from crosswalk.walker.errors import CrosswalkError

__all__ = ["MAX_TRIES", "Reduced", "Search", "fewer", "interesting", "reduce", "too_many"]

T = TypeVar("T")
Item = TypeVar("Item")

Search = Generator[T | None, bool, None]
"""Yields candidates, None for one that can't be made, and is sent whether each was accepted."""

MAX_TRIES = 3000
"""The most candidates that are tried; typical reductions try some two hundred."""


def too_many(tries: int) -> bool:
    """Return whether no more candidates may be tried after so many."""
    return tries >= MAX_TRIES


@dataclass(frozen=True, slots=True)
class Reduced(Generic[T]):
    """The smallest case found, and the number of tries; `done` unless the search ended early."""

    case: T
    tries: int
    done: bool


def reduce(
    case: T,
    passes: Sequence[Callable[[T], Search[T]]],
    shows: Callable[[T], bool],
    enough: Callable[[int], bool] = too_many,
    smaller: Callable[[T, T], bool] = lambda _candidate, _case: True,
) -> Reduced[T]:
    """Return a case as small as can be found that still `shows`.

    Equal cases lead to equal ones, and a reduced case to itself, if it was `done`. `enough(tries)`
    tells whether to end the search; candidates that aren't `smaller` are skipped. `shows` may
    raise `CrosswalkError` for a case that can't be tried: such a case isn't accepted.
    """
    tries = 0
    again = True
    while again:
        again = False
        for candidates in passes:
            search = candidates(case)
            accepted: bool | None = None
            while not enough(tries):
                try:
                    candidate = next(search) if accepted is None else search.send(accepted)
                except StopIteration:
                    break
                accepted = False
                if candidate is None:
                    tries += 1
                elif smaller(candidate, case):
                    tries += 1
                    accepted = interesting(candidate, shows)
                    case = candidate if accepted else case
                again |= accepted
        if enough(tries):
            return Reduced(case, tries, done=False)
    return Reduced(case, tries, done=True)


def interesting(candidate: T, shows: Callable[[T], bool]) -> bool:
    """Return whether a candidate still shows the same; one that can't be tried doesn't."""
    try:
        return shows(candidate)
    except CrosswalkError:
        return False


def fewer(
    case: T, items: list[Item], made: Callable[[T, list[Item]], T | None], least: int = 0
) -> Generator[T | None, bool, T]:
    """Yield `made` cases without half of the items, a quarter, and so on down to single ones."""
    step = (len(items) + 1) // 2
    while step:
        at = 0
        while at < len(items):
            left = items[:at] + items[at + step :]
            candidate = made(case, left) if len(left) >= least else None
            accepted = len(left) >= least and (yield candidate)
            if accepted and candidate is not None:
                case, items = candidate, left
            else:
                at += step
        step //= 2
    return case
