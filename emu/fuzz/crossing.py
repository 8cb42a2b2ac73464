"""The accesses of a layout that go on in the next page."""

import numpy as np

from emu.fuzz.layout import Layout
from emu.probe.composites import NAMES, SAME_PKRU, Composites
from walker.access import AccessType
from walker.memory import FRAME

__all__ = ["crossings"]

_SHARE = 64
_FORMS = np.array([NAMES.index(f"cross:{kind.name.lower()}") for kind in AccessType], np.uint8)
# How far before the end of the page each begins.
_BEFORE = np.array([6 if kind is AccessType.EXECUTE else 4 for kind in AccessType], np.uint64)


def crossings(layout: Layout) -> Composites:
    """Return one access of 64, made at the end of its page: they go on in the next one.

    Type, CPL and AC are those of the layout's own. Pages are preferred of which the next one is
    accessed as well; they lie all over the layout, and are the same for equal layouts.
    """
    accesses = layout.accesses
    count = len(accesses) // _SHARE
    ends = accesses.va | np.uint64(FRAME - 1)
    beside = np.isin(ends + np.uint64(1), accesses.va & ~np.uint64(FRAME - 1))
    rows = np.flatnonzero(beside)
    if len(rows) < count:
        rows = np.arange(len(accesses))
    some = accesses.take(rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)])
    va = (some.va | np.uint64(FRAME - 1)) + np.uint64(1) - _BEFORE[some.type]
    return Composites(
        _FORMS[some.type],
        va,
        some.cpl,
        some.ac,
        va,
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
        np.full(count, SAME_PKRU, np.int64),
    )
