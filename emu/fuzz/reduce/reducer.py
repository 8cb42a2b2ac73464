"""The reducer: simpler cases are tried, the most daring first, until none shows the same.

Every step leads to a case that is smaller in the order of `size_of`, so there is an end, and what
is left is its own reduction. (Reducers for lists of anything were looked at; those on offer are no
longer kept, and know nothing of bits.)
"""

from collections.abc import Callable
from dataclasses import dataclass

from emu.fuzz.reduce.relocate import relocations
from emu.fuzz.reduce.shorter import shortenings
from emu.fuzz.reduce.simpler import simplifications, size_of
from walker.errors import CrosswalkError
from walker.source import Case

__all__ = ["MAX_TRIES", "Reduced", "reduce_case"]

MAX_TRIES = 3000
"""How many cases are tried at the most; typical reductions take some two hundred."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The smallest case found, and how many were tried; `done` unless that was too many."""

    case: Case
    tries: int
    done: bool


def reduce_case(case: Case, shows: Callable[[Case], bool]) -> Reduced:
    """Return a case as small as can be found that still `shows`.

    Equal cases lead to equal ones, and a reduced case to itself. `shows` may raise
    `CrosswalkError` for a case that can't be tried: it doesn't show it then.
    """
    tries = 0
    again = True
    while again:
        again = False
        for candidates in (simplifications, shortenings, relocations):
            search = candidates(case)
            accepted: bool | None = None
            while tries < MAX_TRIES:
                try:
                    candidate = next(search) if accepted is None else search.send(accepted)
                except StopIteration:
                    break
                accepted = False
                if size_of(candidate) < size_of(case):
                    tries += 1
                    accepted = _shows(candidate, shows)
                if accepted:
                    case, again = candidate, True
        if tries >= MAX_TRIES:
            return Reduced(case, tries, done=False)
    return Reduced(case, tries, done=True)


def _shows(case: Case, shows: Callable[[Case], bool]) -> bool:
    try:
        return shows(case)
    except CrosswalkError:
        return False
