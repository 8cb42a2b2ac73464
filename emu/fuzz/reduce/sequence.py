"""Reducing a sequence while an access of it departs for the same cause."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from crosswalk.emu.fuzz.reduce.reducer import (
    Change,
    Reduced,
    Search,
    fewer,
    in_turn,
    one_by_one,
    reduce,
    too_many,
)
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.errors import BadInput
from crosswalk.walker.tlb import Invpcid, MovCr0, MovCr3, MovCr4, Sequence, Step, Store, Wrpkru

__all__ = ["reduced_sequence"]

_PAGE = ~0xFFF
_DEFAULT = PagingContext(cr3=0)
_REGISTERS = {MovCr0: "cr0", MovCr3: "cr3", MovCr4: "cr4"}

PLAIN = 0x7
"""The flags of a plain entry: present, writable, for the user."""

Simpler = Callable[[Sequence], Sequence]


def reduced_sequence(
    sequence: Sequence,
    shows: Callable[[Sequence], bool],
    enough: Callable[[int], bool] = too_many,
) -> Reduced[Sequence]:
    """Return a sequence as small as can be found that still `shows`, as `reduce` does."""
    return reduce(sequence, [_simplifications], one_by_one(shows), enough)


def _simplifications(sequence: Sequence) -> Search[Sequence]:
    """Yield sequences with fewer steps and entries, plainer registers, entries and steps."""
    sequence = yield from fewer(sequence, list(sequence.steps), _with_steps)
    sequence = yield from fewer(sequence, sorted(sequence.entries.items()), _with_entries)
    for changes in (_plainer_registers, _plainer_entries, _plainer_steps):
        sequence = yield from in_turn(sequence, [_tried(each) for each in changes(sequence)])


def _tried(change: Simpler) -> Change[Sequence]:
    return lambda sequence: _made(lambda: change(sequence))


def _made(make: Callable[[], Sequence]) -> Sequence | None:
    """Return a sequence, None if it would be malformed: WRPKRU without CR4.PKE, for example."""
    try:
        return make()
    except BadInput:
        return None


def _with_steps(sequence: Sequence, steps: list[Step]) -> Sequence | None:
    return _made(lambda: replace(sequence, steps=tuple(steps)))


def _with_entries(sequence: Sequence, entries: list[tuple[int, int]]) -> Sequence | None:
    return _made(lambda: replace(sequence, entries=dict(entries)))


def _plainer_registers(sequence: Sequence) -> Iterator[Simpler]:
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


def _plainer_entries(sequence: Sequence) -> Iterator[Simpler]:
    for pa, word in sorted(sequence.entries.items()):
        for bit in _bits((word ^ PLAIN) & ~ADDRESS_FIELD):
            yield lambda one, pa=pa, bit=bit: replace(  # type: ignore[misc]  # Bound now.
                one, entries={**one.entries, pa: one.entries[pa] ^ bit}
            )


def _plainer_steps(sequence: Sequence) -> Iterator[Simpler]:
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
