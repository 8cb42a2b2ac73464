"""The reducer: smaller candidates are tried, the largest steps first, until none shows the same.

It knows nothing of what it reduces: a pass is a generator that yields candidates and is sent
which was accepted. Accepted ones are smaller, so there is an end, and a reduced case is its
own reduction.

Reducers on offer were looked at in November 2026. Shrink Ray is kept, but needs Python 3.12 (3.11
has to do here), brings many packages, a language model's runtime among them, and shortens files
of text; Lithium takes lines out of files; Picire has had no release since 2021. None knows
bits of entries, or that a table may move if the entries that lead to it change, which most passes
here are about.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crosswalk.walker.errors import CrosswalkError

__all__ = [
    "MAX_TRIES",
    "Change",
    "Interrupted",
    "Reduced",
    "Search",
    "Steps",
    "fewer",
    "in_turn",
    "interesting",
    "one_by_one",
    "reduce",
    "too_many",
]

T = TypeVar("T")
Item = TypeVar("Item")

Search = Generator[Sequence[T | None], int | None, None]
"""Yields candidates to choose from, None for one that can't be made; is sent which was accepted.

That is the first of them that still shows the same, or None: the result is the same whatever the
number of candidates that are yielded, or tried, at once.
"""

Steps = Generator[Sequence[T | None], int | None, T]
"""The same; returns the case that the accepted candidates led to."""

Change = Callable[[T], T | None]
"""Makes a candidate of a case; None where it can't be made."""

MAX_TRIES = 3000
"""The most candidates that are tried; typical reductions try some fifty."""

_AT_ONCE = 32
"""The most candidates that are made before any of them is tried."""


def too_many(tries: int) -> bool:
    """Return whether no more candidates may be tried after so many."""
    return tries >= MAX_TRIES


@dataclass(frozen=True, slots=True)
class Reduced(Generic[T]):
    """The smallest case found, and the number of tries; `done` unless the search ended early."""

    case: T
    tries: int
    done: bool


class Interrupted(KeyboardInterrupt):
    """A reduction was interrupted: `reduced` is what it had come to."""

    def __init__(self, reduced: Reduced[Any]) -> None:
        super().__init__(reduced)
        self.reduced = reduced


def reduce(
    case: T,
    passes: Sequence[Callable[[T], Search[T]]],
    shows: Callable[[Sequence[T]], Iterable[bool]],
    enough: Callable[[int], bool] = too_many,
    size: Callable[[T], Any] | None = None,
    key: Callable[[T], Hashable] | None = None,
) -> Reduced[T]:
    """Return a case as small as can be found that still `shows`.

    `shows` yields for each of some candidates whether it does; it isn't asked on after the first
    that does. Equal cases lead to equal ones, and a reduced case to itself, if it was `done`.
    `enough(tries)` tells whether to end the search. Candidates whose `size` isn't smaller are
    skipped, and those of a `key` of which one has been tried; a size of None is that of none.
    Raises `Interrupted` for KeyboardInterrupt.
    """
    trials = _Trials(shows, enough, size, key)
    again = True
    try:
        while again:
            again = False
            for candidates in passes:
                for smaller in _accepted(case, candidates(case), trials):
                    case, again = smaller, True
            if enough(trials.tries):
                return Reduced(case, trials.tries, done=False)
    except KeyboardInterrupt as stop:
        raise Interrupted(Reduced(case, trials.tries, done=False)) from stop
    return Reduced(case, trials.tries, done=True)


def _accepted(case: T, search: Search[T], trials: "_Trials[T]") -> Iterator[T]:
    """Yield the cases that a pass comes to, each smaller than the one before."""
    accepted, begun = None, False
    while not trials.enough:
        try:
            batch = search.send(accepted) if begun else next(search)
        except StopIteration:
            return
        begun, accepted = True, trials.first(case, batch)
        if accepted is not None:
            case = _chosen(batch, accepted)
            yield case


class _Trials(Generic[T]):
    """Tries candidates, none twice, and counts them."""

    def __init__(
        self,
        shows: Callable[[Sequence[T]], Iterable[bool]],
        enough: Callable[[int], bool],
        size: Callable[[T], Any] | None,
        key: Callable[[T], Hashable] | None,
    ) -> None:
        self._shows, self._enough, self._size, self._key = shows, enough, size, key
        self._sized: tuple[T, Any] | None = None
        self._failed: set[Hashable] = set()
        self.tries = 0

    @property
    def enough(self) -> bool:
        """Whether no more may be tried."""
        return self._enough(self.tries)

    def first(self, case: T, batch: Sequence[T | None]) -> int | None:
        """Return the first of the batch that is smaller than the case and shows the same."""
        places = [at for at, candidate in enumerate(batch) if self._is_new(case, candidate)]
        answers = self._shows([_chosen(batch, at) for at in places])
        for at, found in zip(places, answers, strict=False):
            self.tries += 1
            if found:
                return at
            if self._key is not None:
                self._failed.add(self._key(_chosen(batch, at)))
            if self.enough:
                break
        return None

    def _is_new(self, case: T, candidate: T | None) -> bool:
        if candidate is None:
            return False
        if self._size is not None:
            if self._sized is None or self._sized[0] is not case:
                self._sized = case, self._size(case)
            size = self._size(candidate)
            if size is None or not size < self._sized[1]:
                return False
        return self._key is None or self._key(candidate) not in self._failed


def interesting(candidate: T, shows: Callable[[T], bool]) -> bool:
    """Return whether a candidate still shows the same; one that can't be tried doesn't."""
    try:
        return shows(candidate)
    except CrosswalkError:
        return False


def one_by_one(shows: Callable[[T], bool]) -> Callable[[Sequence[T]], Iterator[bool]]:
    """Return what tells of candidates, each when it is asked for, whether they show the same."""

    def of_each(candidates: Sequence[T]) -> Iterator[bool]:
        return (interesting(candidate, shows) for candidate in candidates)

    return of_each


def fewer(
    case: T, items: list[Item], made: Callable[[T, list[Item]], T | None], least: int = 0
) -> Steps[T]:
    """Yield `made` cases without half of the items, a quarter, and so on down to single ones."""
    step = (len(items) + 1) // 2
    while step:
        at = 0
        while at < len(items):
            places = range(at, min(at + step * _AT_ONCE, len(items)), step)
            left = [items[:place] + items[place + step :] for place in places]
            batch = [made(case, each) if len(each) >= least else None for each in left]
            accepted = yield batch
            if accepted is None:
                at = places[-1] + step
                continue
            case, items, at = _chosen(batch, accepted), left[accepted], places[accepted]
        step //= 2
    return case


def in_turn(case: T, changes: Sequence[Change[T]]) -> Steps[T]:
    """Yield what each change makes of the case, after those that were accepted before it."""
    at = 0
    while at < len(changes):
        batch = [change(case) for change in changes[at : at + _AT_ONCE]]
        accepted = yield batch
        if accepted is None:
            at += len(batch)
            continue
        case, at = _chosen(batch, accepted), at + accepted + 1
    return case


def _chosen(batch: Sequence[T | None], accepted: int) -> T:
    chosen = batch[accepted]
    if chosen is None:
        raise IndexError(f"candidate {accepted} wasn't made")
    return chosen
