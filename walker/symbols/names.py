"""What addresses are called: the region, the section and the symbol that each lies in."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.memory import U64
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans

__all__ = ["NO_NAMES", "Labels", "Names"]

_NEAR = 3
_COMPARED = 100_000
"""The most names that are compared with one that there isn't: it takes about a second."""


class Labels(NamedTuple):
    """What n addresses are called: rows of a `Names`, and the distance from the symbol's start.

    `region` and `symbol` int64[n], -1 for none; `offset` uint64[n] in bytes, 0 where there is no
    symbol.
    """

    region: NDArray[np.int64]
    symbol: NDArray[np.int64]
    offset: U64


@dataclass(frozen=True)
class Names:
    """Names of linear addresses.

    `regions` don't overlap; `sections` are those of the symbols' file. `wider` are regions that
    hold others, which `find` finds and no address is called by. `source` says where the names come
    from, in words, empty where there are none.
    """

    regions: Spans
    sections: Spans
    symbols: Spans
    wider: tuple[Span, ...] = ()
    source: str = ""

    def __bool__(self) -> bool:
        return bool(len(self.regions) or len(self.sections) or len(self.symbols))

    def label(self, va: U64) -> Labels:
        """Return what each address, uint64[n], is called."""
        symbol = self.symbols.rows_at(va)
        offset = np.zeros(len(va), np.uint64)
        known = symbol >= 0
        offset[known] = va[known] - self.symbols.start[symbol[known]]
        region = self.regions.rows_at(va)
        return Labels(region, symbol, offset)

    def region_codes(self, va: U64) -> tuple[NDArray[np.intp], list[str]]:
        """Return the names of regions, and which of them each address lies in, intp[n].

        That is -1 for none. Where no region is known, it is the name of the section.
        """
        rows = self.regions.rows_at(va)
        if len(self.sections):
            others = self.sections.rows_at(va)
            inside = (rows < 0) & (others >= 0)
            rows = np.where(inside, others + len(self.regions), rows)
        used, codes = np.unique(rows, return_inverse=True)
        count = len(self.regions)
        names = [
            (self.regions if row < count else self.sections).names.shown(
                row - count * (row >= count)
            )
            for row in used.tolist()
            if row >= 0
        ]
        none = int(len(used) > len(names))  # The row -1 is the first.
        return codes.astype(np.intp) - none, names

    def region_texts(self, va: U64) -> list[str | None]:
        """Return what `region_codes` does, as a text or None for each address."""
        codes, names = self.region_codes(va)
        held = [*names, None]
        return [held[code] for code in codes.tolist()]

    def symbol_codes(self, va: U64) -> tuple[NDArray[np.intp], list[str], U64]:
        """Return the names of symbols, which of them each address lies in, and how far, in bytes.

        intp[n], -1 for none, and uint64[n].
        """
        label = self.label(va)
        used, codes = np.unique(label.symbol, return_inverse=True)
        names = [self.symbols.names.shown(row) for row in used.tolist() if row >= 0]
        none = int(len(used) > len(names))  # The row -1 is the first.
        return codes.astype(np.intp) - none, names, label.offset

    def symbol_texts(self, va: U64) -> list[str | None]:
        """Return the symbol that each address lies in, as `name+0x10`; None for none."""
        label = self.label(va)
        return self._offset_texts(label.symbol, label.offset)

    def range_texts(self, va: U64, last: U64) -> list[str | None]:
        """Return the symbols from each address to another, `last`, included; None for none.

        One is `name+0x10`; of more the first and the last: `name … other`.
        """
        return [
            f"{first} … {other}" if other is not None and several else first
            for first, other, several in zip(*self._ends(va, last), strict=True)
        ]

    def end_texts(self, va: U64, last: U64) -> tuple[list[str | None], list[str | None]]:
        """Return the first symbol from each address to another, as `name+0x10`, and the last."""
        first, others, _ = self._ends(va, last)
        return first, others

    def _ends(
        self, va: U64, last: U64
    ) -> tuple[list[str | None], list[str | None], NDArray[np.bool_]]:
        """Return the first symbol and the last, and whether they are two."""
        low, high = self.symbols.rows_between(va, last)
        none = high < 0
        begin = self.symbols.start[np.maximum(low, 0)] if len(self.symbols) else va
        offset = np.where(none | (begin > va), np.uint64(0), va - begin)
        first = self._offset_texts(np.where(none, -1, low), offset)
        return first, _texts(self.symbols, np.where(none, -1, high)), low != high

    def _offset_texts(self, rows: NDArray[np.int64], offset: U64) -> list[str | None]:
        shown = _texts(self.symbols, rows)
        return [
            name if name is None or not distance else _further(name, distance)
            for name, distance in zip(shown, offset.tolist(), strict=True)
        ]

    def text(self, va: int) -> str:
        """Return what an address is called, as `text: ext4_readpage+0x10`; "" for nothing."""
        one = np.array([va], np.uint64)
        parts = (self.region_texts(one)[0], self.symbol_texts(one)[0])
        return ": ".join(part for part in parts if part)

    def find(self, pattern: str, kinds: Sequence[SpanKind] = tuple(SpanKind)) -> list[Span]:
        """Return the regions, sections and symbols of this name, or that match a shell pattern.

        Of one kind alone: regions go before sections, these before symbols. A name is looked for
        before it is taken for a pattern.
        """
        for spans in (self.regions, self.sections, self.symbols):
            if spans.kind not in kinds:
                continue
            wider = self.wider if spans.kind is SpanKind.REGION else ()
            held = Spans.of(spans.kind, wider).find(pattern) if wider else []
            found = [*held, *spans.find(pattern)]
            if found:
                return found
        return []

    def near(self, name: str, kinds: Sequence[SpanKind] = tuple(SpanKind)) -> list[str]:
        """Return up to three names like one that there isn't, the most alike first."""
        held: list[str] = []
        if SpanKind.REGION in kinds:
            held += [span.name for span in self.wider]
        for spans in (self.regions, self.sections, self.symbols):
            if spans.kind in kinds:
                held += [spans.names.shown(row) for row in range(min(len(spans), _COMPARED))]
        return get_close_matches(name, list(dict.fromkeys(held)), _NEAR)

    @property
    def edges(self) -> U64:
        """The addresses at which a region begins, or others go on after one, ascending."""
        after = self.regions.last + np.uint64(1)
        return distinct(np.concatenate([self.regions.start, after[after != 0]]))


def _further(name: str, offset: int) -> str:
    """Return an address behind a symbol, as Linux does: `ext4_iget+0x10 [ext4]`."""
    name, space, module = name.partition(" [")
    return f"{name}+{offset:#x}{space}{module}"


def _texts(spans: Spans, rows: NDArray[np.int64]) -> list[str | None]:
    """Return the name of each row, fit for a line; None for -1."""
    used = np.unique(rows)
    held: dict[int, str | None] = {
        row: None if row < 0 else spans.names.shown(row) for row in used.tolist()
    }
    return [held[row] for row in rows.tolist()]


def _none(kind: SpanKind) -> Spans:
    return Spans.of(kind, ())


NO_NAMES = Names(_none(SpanKind.REGION), _none(SpanKind.SECTION), _none(SpanKind.SYMBOL))
"""No names at all."""
