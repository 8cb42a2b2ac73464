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

    def region_texts(self, va: U64) -> list[str | None]:
        """Return the name of the region that each address lies in; None for none.

        Where no region is known, it is the section's.
        """
        regions = _texts(self.regions, self.regions.rows_at(va))
        if not len(self.sections):
            return regions
        sections = _texts(self.sections, self.sections.rows_at(va))
        return [one or other for one, other in zip(regions, sections, strict=True)]

    def symbol_texts(self, va: U64) -> list[str | None]:
        """Return the symbol that each address lies in, as `name+0x10`; None for none."""
        label = self.label(va)
        shown = _texts(self.symbols, label.symbol)
        return [
            name if name is None or not offset else _further(name, offset)
            for name, offset in zip(shown, label.offset.tolist(), strict=True)
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
