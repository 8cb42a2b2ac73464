"""Results of composites: of both halves, and the half that is reported."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import Parts
from crosswalk.emu.fuzz.coverage.family import AXES, Axis, Bools, Family, Numbers, number
from crosswalk.emu.fuzz.coverage.walks import ANSWERS, answers
from crosswalk.emu.probe.composites import FORMS, NAMES, CompositeOutcomes, Composites
from crosswalk.emu.probe.composites import Family as Kinds
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.memory import FRAME

__all__ = ["COMPOSITES", "composite_cells"]

_HALF = (*ANSWERS, "not canonical")
_OK, _ABSENT, _RESERVED, _DENIED, _KEY, _NON_CANONICAL = range(6)
_NONE = 6
_NEITHER, _FIRST, _SECOND, _BOTH = range(4)
_SHAPE = (len(NAMES), 2, len(_HALF), len(_HALF) + 1, 4)
_OF_TABLES = (_ABSENT, _RESERVED, _NON_CANONICAL)
"""Results that two accesses to one page have in common."""


def _halves(kind: AccessType) -> list[int]:
    """Return the possible results of an access of one byte: keys don't concern fetches."""
    return [each for each in range(6) if each != _KEY or kind is not AccessType.EXECUTE]


def _reported(first: int, second: int, *, each: bool) -> int:
    """Return the reported half: of one access with two faults the emulated CPU reports one."""
    faults = (first != _OK, second not in {_OK, _NONE})
    if each:
        return faults[0] + 2 * faults[1]
    return _FIRST if faults[0] else _SECOND if faults[1] else _NEITHER


def _cells(name: str) -> Iterator[tuple[int, int, int]]:
    """Yield the possible results of a composite: (first half, second half, reported)."""
    form = FORMS[name]
    match form.family:
        case Kinds.CROSS:
            pairs = list(product(_halves(form.types[0]), repeat=2))
        case Kinds.TWICE:
            one, two = (set(_halves(kind)) - {*_OF_TABLES} for kind in form.types)
            pairs = [*product(sorted(one), sorted(two)), *((each, each) for each in _OF_TABLES)]
        case Kinds.IMPLICIT if len(form.types) == 2:
            # The descriptor is read, and then written: what refuses the read refuses the write,
            # and a key may refuse the write alone.
            same = ((each, each) for each in range(6))
            pairs = [*same, (_OK, _DENIED), (_OK, _KEY), (_DENIED, _KEY)]
        case _:
            pairs = [(each, _NONE) for each in range(6)]
    for first, second in pairs:
        yield first, second, _reported(first, second, each=form.family is Kinds.TWICE)


def _possible() -> Bools:
    possible = np.zeros(_SHAPE, np.bool_)
    for form, name in enumerate(NAMES):
        for first, second, reported in _cells(name):
            possible[form, :, first, second, reported] = True
    return possible


def composite_cells(composites: Composites, parts: Parts, seen: CompositeOutcomes) -> Numbers:
    """Return the numbers of the cells that composites with these outcomes touch.

    `parts` are the outcomes of their one-byte accesses by themselves.
    """
    first, second = _half(parts.first), _half(parts.second)
    twice = composites.family(Kinds.TWICE)
    second = np.where(composites.family(Kinds.CROSS) | composites.has_two(), second, _NONE)
    faults = seen.kind != Kind.OK
    page = np.uint64(FRAME - 1)
    non_canonical = seen.kind[:, 0] == Kind.GENERAL_PROTECTION
    # Without an address in a #GP, the half that is not canonical is the reported one.
    on_second = np.where(
        non_canonical, first != _NON_CANONICAL, (seen.cr2[:, 0] & ~page) != (composites.va & ~page)
    )
    # An implicit access has both halves on one page: it ends with the first that faults.
    implicit = composites.family(Kinds.IMPLICIT)
    on_second = np.where(implicit, first == _OK, on_second & composites.family(Kinds.CROSS))
    reported = np.where(faults[:, 0], np.where(on_second, _SECOND, _FIRST), _NEITHER)
    reported = np.where(twice, faults[:, 0] + 2 * faults[:, 1], reported)
    user = (composites.cpl == 3).astype(np.int64)
    return number(_SHAPE, composites.form, user, first, second, reported)


def _half(outcomes: Outcomes) -> NDArray[np.int64]:
    non_canonical = outcomes.kind == Kind.GENERAL_PROTECTION
    return np.where(non_canonical, _NON_CANONICAL, answers(outcomes).astype(np.int64))


COMPOSITES = Family(
    "composites",
    (
        Axis("access", NAMES),
        AXES["user"],
        Axis("first half", _HALF),
        Axis("second half", (*_HALF, "none")),
        Axis("told of", ("neither", "the first", "the second", "both")),
    ),
    _possible(),
)
