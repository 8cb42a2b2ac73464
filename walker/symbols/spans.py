"""Spans: named ranges of linear addresses, in bulk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from functools import cached_property
from re import compile as regex

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.memory import U64

__all__ = ["Span", "SpanKind", "Spans", "Strings"]

_PATTERN = frozenset("*?[")


class SpanKind(StrEnum):
    """What a name is of: a part of the address space, of a file, or one thing in it."""

    REGION = "region"
    SECTION = "section"
    SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Span:
    """The linear addresses [start, end) that have a name; `end` may be 2^64."""

    name: str
    start: int
    end: int
    kind: SpanKind


class Strings(Sequence[str]):
    """Foreign names: pieces of one text, decoded when they are asked for.

    `blob` holds them all; `begin` and `end`, int64[n], are where each lies in it. A tab separates
    a symbol's name from its module's, as in /proc/kallsyms: `ext4_iget`, tab, `[ext4]`.
    """

    def __init__(self, blob: bytes, begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        self._blob, self._begin, self._end = blob, begin, end

    @classmethod
    def of(cls, names: Iterable[str]) -> "Strings":
        """Return these names."""
        held = [name.encode("utf-8", "surrogateescape") for name in names]
        end = np.cumsum([0, *map(len, held)], dtype=np.int64)
        return cls(b"".join(held), end[:-1], end[1:])

    def __len__(self) -> int:
        return len(self._begin)

    def __getitem__(self, at: int) -> str:  # type: ignore[override]  # No slices: `take`.
        """Return a name as it is."""
        return self._blob[self._begin[at] : self._end[at]].decode("utf-8", "replace")

    def shown(self, at: int) -> str:
        """Return a name fit for a line: printable, and cut after 200 characters."""
        return one_line(self[at].replace("\t", " "))

    def take(self, rows: NDArray[np.intp]) -> "Strings":
        """Return the chosen names."""
        return Strings(self._blob, self._begin[rows], self._end[rows])

    @cached_property
    def held(self) -> list[bytes]:
        """The names as bytes."""
        blob = self._blob
        pairs = zip(self._begin.tolist(), self._end.tolist(), strict=True)
        return [blob[begin:end] for begin, end in pairs]

    def rows_of(self, pattern: str) -> list[int]:
        """Return which names are this one; where none is, which match it as a shell pattern.

        Without the name of a module, or by that alone: `[ext4]`.
        """
        wanted = pattern.encode("utf-8", "surrogateescape")
        parts = [name.partition(b"\t") for name in self.held]
        rows = [row for row, (name, _, module) in enumerate(parts) if wanted in (name, module)]
        if rows or not _is_pattern(pattern):
            return rows
        translated = translate(pattern).encode("utf-8", "surrogateescape")
        matches: Callable[[bytes], object] = regex(translated).match
        return [row for row, (name, _, _) in enumerate(parts) if matches(name)]


def _is_pattern(text: str) -> bool:
    """Return whether a name is a shell pattern: it has `*`, `?` or `[`."""
    return bool(_PATTERN.intersection(text))


class Spans:
    """n spans of one kind, by address: `start` and `last` uint64[n], both included; `names`.

    Several may begin at one address: the first of them gives an address its name.
    """

    def __init__(self, kind: SpanKind, start: U64, last: U64, names: Strings) -> None:
        order = np.argsort(start, kind="stable")
        if (order != np.arange(len(order))).any():
            start, last, names = start[order], last[order], names.take(order)
        self.kind, self.start, self.last, self.names = kind, start, last, names
        # Of those that begin at one address the first.
        fresh = np.ones(len(start), np.bool_)
        fresh[1:] = start[1:] != start[:-1]
        self._first = np.flatnonzero(fresh)
        self._begins: U64 = start[self._first]

    @classmethod
    def of(cls, kind: SpanKind, spans: Iterable[Span]) -> "Spans":
        """Return these spans, all of this kind; one without addresses is left out."""
        held = [span for span in spans if span.start < span.end]
        start = np.array([span.start for span in held], np.uint64)
        last = np.array([span.end - 1 for span in held], np.uint64)
        return cls(kind, start, last, Strings.of(span.name for span in held))

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, at: int) -> Span:
        """Return one of them."""
        return Span(self.names[at], int(self.start[at]), int(self.last[at]) + 1, self.kind)

    def __iter__(self) -> Iterator[Span]:
        """Yield each of them, by address."""
        return (self[at] for at in range(len(self)))

    def addresses(self) -> dict[str, int]:
        """Return where each begins, by name; of one name the first."""
        found: dict[str, int] = {}
        for name, start in zip(self.names, self.start.tolist(), strict=True):
            found.setdefault(name, start)
        return found

    def rows_at(self, va: U64) -> NDArray[np.int64]:
        """Return for each address which span it lies in, int64[n]; -1 where it lies in none.

        It is the last one that begins at or before the address, if that reaches so far.
        """
        if not len(self):
            return np.full(len(va), -1, np.int64)
        at = np.searchsorted(self._begins, va, "right").astype(np.int64) - 1
        row = self._first[np.maximum(at, 0)]
        inside = (at >= 0) & (va <= self.last[row])
        return np.where(inside, row, np.int64(-1))

    def rows_between(self, va: U64, last: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and last span of each range of addresses, int64[n] both; -1 for none.

        Of the spans that give their addresses a name, those with one from `va` to `last`, included.
        """
        inside = self.rows_at(va)
        at = np.searchsorted(self._begins, va).astype(np.int64)
        until = np.searchsorted(self._begins, last, "right").astype(np.int64) - 1
        begun = until >= at
        rows = np.append(self._first, -1)  # What begins nowhere isn't begun.
        low = np.where(
            inside >= 0, inside, np.where(begun, rows[np.minimum(at, len(rows) - 1)], -1)
        )
        high = np.where(begun, rows[until], inside)
        return low, high

    def moved(self, offset: int) -> "Spans":
        """Return them `offset` bytes further up, modulo 2^64."""
        by = np.uint64(offset % (1 << 64))
        return Spans(self.kind, self.start + by, self.last + by, self.names) if by else self

    def within(self, others: "Spans") -> "Spans":
        """Return them cut off where the one of `others` that each begins in ends."""
        row = others.rows_at(self.start)
        held = row >= 0
        last = self.last.copy()
        last[held] = np.minimum(last[held], others.last[row[held]])
        return Spans(self.kind, self.start, last, self.names)

    def find(self, pattern: str) -> list[Span]:
        """Return those of this name; where none has it, those that match it as a shell pattern."""
        return [self[row] for row in self.names.rows_of(pattern)]
