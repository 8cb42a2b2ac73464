"""A composite's case, made small while it shows the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from emu.fuzz.reduce.reducer import reduce_case, too_many
from emu.probe.composites import SAME_PKRU, Composites
from emu.report.composite_case import CompositeCase

__all__ = ["reduced_composite"]


def reduced_composite(
    case: CompositeCase,
    shows: Callable[[CompositeCase], bool],
    enough: Callable[[int], bool] = too_many,
) -> CompositeCase:
    """Return the case as small as can be found while it still `shows`, as `reduce_case` does."""
    small = reduce_case(case.case, lambda each: shows(replace(case, case=each)), enough)
    case = replace(case, case=small.case)
    for simpler in _simpler(case.composite):
        candidate = replace(case, composite=simpler(case.composite))
        if shows(candidate):
            case = candidate
    return case


def _simpler(composite: Composites) -> Iterator[Callable[[Composites], Composites]]:
    changes = {"cpl": 0, "ac": False, "then_cpl": 0, "then_ac": False, "then_pkru": SAME_PKRU}
    if composite.then_va[0] != composite.va[0]:
        yield lambda one: replace(one, then_va=one.va)
    for name, value in changes.items():
        column = getattr(composite, name)
        if column[0] != value:
            plain = np.array([value], column.dtype)
            yield lambda one, name=name, plain=plain: replace(one, **{name: plain})  # type: ignore[misc]  # A column by name.
