"""Reducing a composite's case while it shows the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from crosswalk.emu.fuzz.reduce.passes import large_pages, reduce_case, size_of, without_pml5
from crosswalk.emu.fuzz.reduce.places import compacted
from crosswalk.emu.fuzz.reduce.reducer import (
    Interrupted,
    Reduced,
    interesting,
    one_by_one,
    too_many,
)
from crosswalk.emu.probe.composites import SAME_PKRU
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.walker.entry import LEVELS
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import walk

__all__ = ["reduced_composite"]

_LOW_PAGE = 0x10 * FRAME
"""The lowest address of a page, behind the tables."""


def reduced_composite(
    case: CompositeCase,
    shows: Callable[[CompositeCase], bool],
    enough: Callable[[int], bool] = too_many,
) -> Reduced[CompositeCase]:
    """Return a case as small as can be found that still `shows`, as `reduce_case` does."""
    tries = 0
    again = True
    try:
        while again and not enough(tries):
            again = False
            before, whole = tries, case
            small = reduce_case(
                case.case,
                one_by_one(lambda each, whole=whole: shows(replace(whole, case=each))),  # type: ignore[misc]  # Bound now.
                lambda count, before=before: enough(before + count),  # type: ignore[misc]  # The same.
            )
            tries += small.tries
            case = replace(case, case=small.case)
            for change in _CHANGES:
                for candidate in change(case):
                    if enough(tries):
                        return Reduced(case, tries, done=False)
                    tries += 1
                    if interesting(candidate, shows):
                        case, again = candidate, True
                        break
    except Interrupted as stop:
        inner = stop.reduced
        whole = replace(case, case=inner.case)
        raise Interrupted(Reduced(whole, tries + inner.tries, done=False)) from stop
    except KeyboardInterrupt as stop:
        raise Interrupted(Reduced(case, tries, done=False)) from stop
    return Reduced(case, tries, done=not again)


def _plain_column(name: str, value: int) -> Callable[[CompositeCase], Iterator[CompositeCase]]:
    def change(case: CompositeCase) -> Iterator[CompositeCase]:
        column = getattr(case.composite, name)
        if column[0] != value:
            plain = np.array([value], column.dtype)
            yield replace(case, composite=replace(case.composite, **{name: plain}))

    return change


def _same_address(case: CompositeCase) -> Iterator[CompositeCase]:
    composite = case.composite
    if composite.then_va[0] != composite.va[0]:
        yield replace(case, composite=replace(composite, then_va=composite.va))


def _shorter(case: CompositeCase) -> Iterator[CompositeCase]:
    """Yield the case with four levels in place of five, or with a larger page in a walk."""
    inner, composite = case.case, case.composite
    va, then = int(composite.va[0]), int(composite.second_va()[0])
    paths = [walk(inner.memory(), inner.context(), each) for each in (va, then)]
    shorter = without_pml5(inner, list(zip((va, then), paths, strict=True)))
    if shorter is not None:
        candidate, (low, low_then) = shorter
        second = low if composite.then_va[0] == composite.va[0] else low_then
        moved = replace(
            composite, va=np.array([low], np.uint64), then_va=np.array([second], np.uint64)
        )
        yield replace(case, case=candidate, composite=moved)
    for level in (3, 2):
        for path in paths:
            for candidate in large_pages(inner, path, level):
                if size_of(candidate) < size_of(inner):
                    yield replace(case, case=candidate)


def _lower(case: CompositeCase) -> Iterator[CompositeCase]:
    """Yield the case with its tables in a row, at low addresses."""
    composite = case.composite
    vas = [int(composite.va[0]), int(composite.second_va()[0])]
    lower = compacted(case.case, vas)
    if size_of(lower) < size_of(case.case):
        yield replace(case, case=lower)


def _lower_pages(case: CompositeCase) -> Iterator[CompositeCase]:
    """Yield the case with the pages of its two walks as low as pages of their size can be."""
    context, composite = case.case.context(), case.composite
    entries = dict(case.case.entries)
    for at, va in enumerate((int(composite.va[0]), int(composite.second_va()[0]))):
        leaf = walk(case.case.memory(), context, va).leaf
        if leaf is not None and leaf.pa in entries:
            size = LEVELS[leaf.level].span
            field = context.address_mask & -size
            entries[leaf.pa] = leaf.entry & ~field | (max(size, _LOW_PAGE) + at * size)
    lower = replace(case.case, entries=entries)
    if size_of(lower) < size_of(case.case):
        yield replace(case, case=lower)


_CHANGES = (
    _same_address,
    _plain_column("cpl", 0),
    _plain_column("ac", 0),
    _plain_column("then_cpl", 0),
    _plain_column("then_ac", 0),
    _plain_column("then_pkru", SAME_PKRU),
    _shorter,
    _lower,
    _lower_pages,
)
