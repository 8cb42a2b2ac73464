"""The reducer: simpler cases are tried, the most daring first, until none shows the same.

Every step leads to a case that is smaller in the order of `size_of`, so there is an end, and what
is left is its own reduction.

Reducers on offer were looked at in November 2026. Shrink Ray is kept, but needs Python 3.12 (3.11
has to do here), brings many packages, a language model's runtime among them, and shortens files
of text; Lithium takes lines out of files; Picire has had no release since 2021. None knows
bits of entries, or that a table may move if what points to it does, and that is what all but the
first steps are about.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from crosswalk.emu.fuzz.reduce.passes import simplifications, size_of
from crosswalk.emu.fuzz.reduce.relocate import relocations
from crosswalk.emu.fuzz.reduce.shorter_walk import shortenings
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import Case

__all__ = ["MAX_TRIES", "Reduced", "reduce_case", "shown", "too_many"]

Candidate = TypeVar("Candidate")

MAX_TRIES = 3000
"""How many cases are tried at the most; typical reductions take some two hundred."""


def too_many(tries: int) -> bool:
    """Return whether so many tries are all that there may be."""
    return tries >= MAX_TRIES


@dataclass(frozen=True, slots=True)
class Reduced:
    """The smallest case found, and how many were tried; `done` unless it ended before its end."""

    case: Case
    tries: int
    done: bool


def reduce_case(
    case: Case, shows: Callable[[Case], bool], enough: Callable[[int], bool] = too_many
) -> Reduced:
    """Return a case as small as can be found that still `shows`.

    Equal cases lead to equal ones, and a reduced case to itself, if it was `done`. `enough` says
    after so many tries whether to end here. `shows` may raise `CrosswalkError` for a case that
    can't be tried: it doesn't show it then.
    """
    tries = 0
    again = True
    while again:
        again = False
        for candidates in (simplifications, shortenings, relocations):
            search = candidates(case)
            accepted: bool | None = None
            while not enough(tries):
                try:
                    candidate = next(search) if accepted is None else search.send(accepted)
                except StopIteration:
                    break
                accepted = False
                if size_of(candidate) < size_of(case):
                    tries += 1
                    accepted = shown(candidate, shows)
                if accepted:
                    case, again = candidate, True
        if enough(tries):
            return Reduced(case, tries, done=False)
    return Reduced(case, tries, done=True)


def shown(candidate: Candidate, shows: Callable[[Candidate], bool]) -> bool:
    """Return whether a candidate still shows it; one that can't be tried doesn't."""
    try:
        return shows(candidate)
    except CrosswalkError:
        return False
