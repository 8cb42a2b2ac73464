"""The built-in walkers, as walkers under test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.targets.answers import Answers, fill_row, nothing_said
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.mapping_lists import ask, ranges_of
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.translate import translate

__all__ = ["BUILTIN", "Builtin"]

_ALL = frozenset({Capability.TRANSLATION, Capability.RIGHTS, Capability.FAULTS, Capability.MARKS})


@dataclass(frozen=True, slots=True)
class Builtin:
    """A walker of this project: no process of its own, since it doesn't fail."""

    name: str
    claims: frozenset[Capability]
    answer: Callable[[PhysicalMemory, PagingContext, Accesses], Answers]

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def _in_bulk(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
    outcomes = translate_many(memory, context, accesses)
    return Answers(outcomes, np.zeros(len(accesses), np.bool_))


def _one_by_one(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
    answers = nothing_said(accesses)
    for row in range(len(accesses)):
        fill_row(answers, row, translate(memory, context, accesses[row]))
    return answers


def _by_leaves(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
    def lister(va: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        for leaves in walk_leaves(memory, context, va, end):
            columns = (leaves.va, leaves.pa, leaves.size, leaves.flags)
            yield from zip(*(column.tolist() for column in columns), strict=True)

    said = nothing_said(accesses)
    listing = ask(context, ranges_of(memory, context, accesses), lister)
    return Answers(said.outcomes, said.silent, listing)


BUILTIN = {
    each.name: each
    for each in (
        Builtin("bulk", _ALL, _in_bulk),
        Builtin("translate", _ALL, _one_by_one),
        Builtin("walk", frozenset({Capability.LEAVES, Capability.FLAGS}), _by_leaves),
    )
}
