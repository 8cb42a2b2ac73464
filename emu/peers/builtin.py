"""The built-in walkers, as walkers under test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from emu.peers.claims import Claim
from emu.peers.leaflist import answers_by_range
from walker.access import Access
from walker.bulk import translate_many
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext
from walker.leaves import walk_leaves
from walker.memory import PhysicalMemory
from walker.outcome import Outcome, PageFault, Translation
from walker.translate import translate

__all__ = ["BUILTIN", "Builtin", "outcomes_of"]

Answer = Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]
_ALL = frozenset({Claim.TRANSLATION, Claim.RIGHTS, Claim.FAULTS, Claim.MARKS})


@dataclass(frozen=True, slots=True)
class Builtin:
    """A walker of this project: no process of its own, since it doesn't fail."""

    name: str
    claims: frozenset[Claim]
    answer: Answer

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def outcomes_of(answers: list[Outcome]) -> Outcomes:
    """Return outcomes as columns."""
    out = Outcomes.empty(len(answers))
    for row, answer in enumerate(answers):
        if isinstance(answer, Translation):
            out.pa[row] = answer.pa
        elif isinstance(answer, PageFault):
            out.kind[row] = Kind.PAGE_FAULT
            out.error_code[row], out.cr2[row] = answer.error_code, answer.cr2
        else:
            out.kind[row] = Kind.GENERAL_PROTECTION
        for at, (pa, value) in enumerate(sorted(answer.entries)[: out.entry_pa.shape[1]]):
            out.entry_pa[row, at], out.entry_value[row, at] = pa, value
    return out


def _one_by_one(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    rows: list[Access] = [accesses[row] for row in range(len(accesses))]
    return outcomes_of([translate(memory, context, access) for access in rows])


def _by_leaves(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    def lister(va: int, end: int) -> Iterator[tuple[int, int, int]]:
        for leaves in walk_leaves(memory, context, va, end):
            columns = (leaves.va.tolist(), leaves.pa.tolist(), leaves.size.tolist())
            yield from zip(*columns, strict=True)

    return answers_by_range(context, accesses, lister)


BUILTIN = {
    each.name: each
    for each in (
        Builtin("bulk", _ALL, translate_many),
        Builtin("translate", _ALL, _one_by_one),
        Builtin("walk", frozenset({Claim.LEAVES}), _by_leaves),
    )
}
