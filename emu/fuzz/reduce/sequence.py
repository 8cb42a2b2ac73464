"""A sequence, made small while an access of it departs for the same cause."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from crosswalk.emu.fuzz.reduce.passes import PLAIN
from crosswalk.emu.fuzz.reduce.reducer import shown, too_many
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.errors import BadInput
from crosswalk.walker.tlb import Invpcid, MovCr0, MovCr3, MovCr4, Sequence, Step, Store, Wrpkru

__all__ = ["ReducedSequence", "reduced_sequence"]

Item = TypeVar("Item")
Given = ParamSpec("Given")

_PAGE = ~0xFFF
_DEFAULT = PagingContext(cr3=0)
_REGISTERS = {MovCr0: "cr0", MovCr3: "cr3", MovCr4: "cr4"}


@dataclass(frozen=True, slots=True)
class ReducedSequence:
    """The smallest sequence found, and how many were tried; `done` unless it ended early."""

    sequence: Sequence
    tries: int
    done: bool


def reduced_sequence(
    sequence: Sequence,
    shows: Callable[[Sequence], bool],
    enough: Callable[[int], bool] = too_many,
) -> ReducedSequence:
    """Return a sequence as small as can be found that still `shows`.

    Steps and entries are left out, half of them, a quarter, down to single ones; registers,
    entries and what is stored are made plain, bit by bit; accesses plain reads. Equal sequences
    lead to equal ones, and a reduced one to itself. `shows` may raise `CrosswalkError` for one
    that can't be run.
    """
    search = _Search(shows, enough)
    before = None
    while sequence != before and not search.over:
        before = sequence
        sequence = _fewer(search, sequence, list(sequence.steps), _with_steps)
        sequence = _fewer(search, sequence, sorted(sequence.entries.items()), _with_entries)
        for simpler in (_plainer_registers, _plainer_entries, _plainer_steps):
            sequence = _simpler(search, sequence, simpler)
    return ReducedSequence(sequence, search.tries, done=not search.over)


class _Search:
    """Tries candidates and counts them."""

    def __init__(self, shows: Callable[[Sequence], bool], enough: Callable[[int], bool]) -> None:
        self._shows, self._enough = shows, enough
        self.tries = 0

    @property
    def over(self) -> bool:
        """Whether no more may be tried."""
        return self._enough(self.tries)

    def accepts(
        self, make: Callable[Given, Sequence], *given: Given.args, **more: Given.kwargs
    ) -> Sequence | None:
        """Return what `make` makes of the rest if it is a sequence, and still shows the same."""
        if self.over:
            return None
        self.tries += 1
        try:
            candidate = make(*given, **more)
        except BadInput:
            return None  # As WRPKRU without the step that sets CR4.PKE.
        return candidate if shown(candidate, self._shows) else None


def _fewer(
    search: _Search,
    sequence: Sequence,
    items: list[Item],
    made: Callable[[Sequence, Several[Item]], Sequence],
) -> Sequence:
    step = (len(items) + 1) // 2
    while step:
        at = 0
        while at < len(items):
            left = items[:at] + items[at + step :]
            accepted = search.accepts(made, sequence, left)
            if accepted is None:
                at += step
            else:
                sequence, items = accepted, left
        step //= 2
    return sequence


def _with_steps(sequence: Sequence, steps: Several[Step]) -> Sequence:
    return replace(sequence, steps=tuple(steps))


def _with_entries(sequence: Sequence, entries: Several[tuple[int, int]]) -> Sequence:
    return replace(sequence, entries=dict(entries))


def _simpler(
    search: _Search,
    sequence: Sequence,
    changes: Callable[[Sequence], Iterator[Callable[[Sequence], Sequence]]],
) -> Sequence:
    for change in changes(sequence):
        accepted = search.accepts(change, sequence)
        sequence = sequence if accepted is None else accepted
    return sequence


def _plainer_registers(sequence: Sequence) -> Iterator[Callable[[Sequence], Sequence]]:
    """Yield changes of each register's bits to those of the default state, the root aside."""
    for name in ("cr0", "cr4", "efer", "pkru", "cr3"):
        value = getattr(sequence.context, name)
        odd = value ^ getattr(_DEFAULT, name)
        if name == "cr3":
            odd &= ~ADDRESS_FIELD
        for bit in _bits(odd):
            yield lambda one, name=name, bit=bit: replace(  # type: ignore[misc]  # A register by name.
                one,
                context=replace(one.context, **{name: getattr(one.context, name) ^ bit}),
            )


def _plainer_entries(sequence: Sequence) -> Iterator[Callable[[Sequence], Sequence]]:
    for pa, word in sorted(sequence.entries.items()):
        for bit in _bits((word ^ PLAIN) & ~ADDRESS_FIELD):
            yield lambda one, pa=pa, bit=bit: replace(  # type: ignore[misc]  # Bound now.
                one, entries={**one.entries, pa: one.entries[pa] ^ bit}
            )


def _plainer_steps(sequence: Sequence) -> Iterator[Callable[[Sequence], Sequence]]:
    for at, step in enumerate(sequence.steps):
        for change in _simpler_step(sequence.context, step):
            yield (
                lambda one, at=at, change=change: replace(  # type: ignore[misc]  # Bound now.
                    one, steps=(*one.steps[:at], change(one.steps[at]), *one.steps[at + 1 :])
                )
            )


def _simpler_step(context: PagingContext, step: Step) -> Iterator[Callable[[Step], Step]]:
    """Yield changes of a step to a plainer one of its kind."""
    changes: list[dict[str, object]] = []
    odd = 0
    if isinstance(step, Access):
        changes = [{"type": AccessType.READ}, {"cpl": 0}, {"ac": False}, {"va": step.va & _PAGE}]
    elif isinstance(step, Invpcid):
        changes = [{"pcid": 0}, {"va": step.va & _PAGE}]
    elif isinstance(step, Store):
        odd = (step.value ^ PLAIN) & ~ADDRESS_FIELD
    elif isinstance(step, Wrpkru):
        odd = step.value
    elif isinstance(step, MovCr0 | MovCr3 | MovCr4):
        odd = step.value ^ getattr(context, _REGISTERS[type(step)])
        odd &= ~ADDRESS_FIELD if isinstance(step, MovCr3) else -1
    for change in changes:
        if any(getattr(step, name) != value for name, value in change.items()):
            yield lambda one, change=change: replace(one, **change)  # type: ignore[misc]  # Fields by name.
    for bit in _bits(odd):
        yield lambda one, bit=bit: replace(one, value=one.value ^ bit)  # type: ignore[misc]  # One with a value.


def _bits(word: int) -> list[int]:
    return [1 << at for at in range(64) if word >> at & 1]
