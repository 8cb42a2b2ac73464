"""The composites of a layout: accesses of more than one byte."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.probe.composites import FORMS, NAMES, SAME_PKRU, Composites, Family
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.memory import FRAME, U64

__all__ = ["composites_of"]

_SHARE = 64
_CROSS = np.array([NAMES.index(f"cross:{kind.name.lower()}") for kind in AccessType], np.uint8)
_OTHERS = np.array(
    [at for at, form in enumerate(FORMS.values()) if form.family is not Family.CROSS], np.uint8
)
# Bytes between the start of a crossing access and the end of its page.
_BEFORE = np.array([6 if kind is AccessType.EXECUTE else 4 for kind in AccessType], np.uint64)
_COLUMNS = ("va", "type", "cpl", "ac")
_PAGE, _SLOT, _DESCRIPTOR = np.uint64(FRAME - 1), np.uint64(15), np.uint64(8)


def composites_of(layout: Layout) -> Composites:
    """Return the composites of a layout, of all families: equal ones for equal layouts.

    One access of 64 is repeated, with its type, CPL and AC, across the end of its page, preferably
    where the next page is accessed as well; a few more are at the ends of the canonical halves. As
    many others become locked read-modify-writes, loads of segment registers, or two accesses to
    the page in a row.
    """
    accesses = layout.accesses
    count = len(accesses) // _SHARE
    if not count:
        return _made(layout, accesses.take(slice(0)), np.zeros(0, np.uint8))
    ends = accesses.va | _PAGE
    next_too = np.isin(ends + np.uint64(1), accesses.va & ~_PAGE)
    rows = np.flatnonzero(next_too)
    if len(rows) < count:
        rows = np.arange(len(accesses))
    crossing = _joined(accesses.take(_evenly(rows, count)), _at_ends(layout))
    others = accesses.take(_evenly(np.arange(len(accesses)), count))
    form = np.concatenate([_CROSS[crossing.type], _OTHERS[np.arange(count) % len(_OTHERS)]])
    return _made(layout, _joined(crossing, others), form)


def _made(layout: Layout, accesses: Accesses, form: NDArray[np.uint8]) -> Composites:
    """Return composites of these forms, made of these accesses."""
    chance = np.random.default_rng([len(accesses), layout.context.pkru])
    count = len(accesses)
    va = _placed(form, accesses)
    return Composites(
        form,
        va,
        accesses.cpl,
        accesses.ac,
        va,
        np.where(chance.random(count) < 0.5, np.uint8(3), np.uint8(0)),
        chance.random(count) < 0.5,
        _pkru(chance, layout, form),
    )


def _at_ends(layout: Layout) -> Accesses:
    """Return accesses across the ends of the canonical halves, and one within the upper half."""
    half = 1 << layout.context.va_bits - 1
    pages = (half - FRAME, (1 << 64) - half - FRAME, half)
    return Accesses.of(
        [
            Access(page, kind, cpl, ac)
            for page in pages
            for kind in AccessType
            for cpl, ac in ((0, True), (3, False))
        ]
    )


def _joined(one: Accesses, other: Accesses) -> Accesses:
    columns = ((getattr(each, name) for each in (one, other)) for name in _COLUMNS)
    return Accesses(*(np.concatenate(list(pair)) for pair in columns))


def _evenly(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Return so many of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)] if count else rows[:0]


def _placed(form: NDArray[np.uint8], accesses: Accesses) -> U64:
    """Return the start of each composite, as its form requires, on the pages of these accesses."""
    families = np.array([each.family for each in FORMS.values()])[form]
    ends = (accesses.va | _PAGE) + np.uint64(1) - _BEFORE[accesses.type]
    slots = accesses.va & ~_SLOT
    va = np.where(families == Family.CROSS, ends, accesses.va)
    va = np.where(families == Family.IMPLICIT, slots | _DESCRIPTOR, va)
    placed: U64 = np.where(families == Family.TWICE, slots, va)
    return placed


def _pkru(
    chance: np.random.Generator, layout: Layout, form: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return PKRU between two accesses: unchanged, or with PKE mostly a random value."""
    other = chance.integers(0, 1 << 32, len(form), dtype=np.int64)
    other[chance.random(len(form)) < 0.3] = SAME_PKRU
    twice = np.array([each.family is Family.TWICE for each in FORMS.values()])[form]
    return np.where(twice & layout.context.pke, other, np.int64(SAME_PKRU))
