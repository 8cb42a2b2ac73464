"""Which mappings a command is about: the options that choose some, in bulk."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import EXECUTES, WRITES, Rights

__all__ = ["FILTERS", "Predicate", "Selection", "chosen_selection"]

Predicate = Callable[[Pages, PagingContext], NDArray[np.bool_]]
"""Which of these mappings of an address space are chosen, bool[n]."""

FILTERS = {
    "writable": WRITES,
    "executable": EXECUTES,
    "user": Rights.USER_READ | Rights.USER_EXECUTE,
}
"""The rights of which a page has some, by the option that asks for that."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The mappings that all of some predicates choose; with none of them, all."""

    predicates: tuple[Predicate, ...] = ()

    def of(self, pages: Pages, context: PagingContext) -> Pages:
        """Return those of these mappings that are chosen."""
        if not self.predicates:
            return pages
        kept = np.ones(len(pages), np.bool_)
        for predicate in self.predicates:
            kept &= predicate(pages, context)
        return pages.take(np.flatnonzero(kept))


def chosen_selection(options: argparse.Namespace) -> Selection:
    """Return the selection that the options ask for."""
    predicates = [_some_of(rights) for name, rights in FILTERS.items() if getattr(options, name)]
    if options.level is not None:
        predicates.append(_level(int(options.level)))
    return Selection(tuple(predicates))


def _some_of(rights: Rights) -> Predicate:
    return lambda pages, _: (pages.rights & np.uint8(rights)) != 0


def _level(level: int) -> Predicate:
    return lambda pages, _: pages.level == level
