"""Forms of smallest cases: what is left of them without levels, page sizes and indices."""

from collections import Counter
from dataclasses import dataclass

from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.entry import (
    ADDRESS_FIELD,
    Entry,
    is_leaf,
    leaf_address,
    level_of,
    reserved_bits,
)
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import Step, StepKind, walk_access

__all__ = ["Form", "form_of"]

_PLAIN = int(Entry.P | Entry.RW | Entry.US)
_DEFAULT = PagingContext(cr3=0)
_MODE = {"cr0": 0, "cr4": int(CR4.PAE | CR4.PSE | CR4.LA57), "efer": int(EFER.LME | EFER.LMA)}
_LOW, _HIGH = 1, 2
_FEATURES = ("maxphyaddr", "page1gb", "vendor", "encryption_mask")


@dataclass(frozen=True, slots=True)
class Form:
    """What a case of one access needs, wherever it lies.

    `last` is how the walk ends, `leaf` the flags of its last entry and `above` those of the others,
    as far as they aren't plain; `beside` the flags of all other entries, with their numbers. `page`
    is the address of the page where that isn't the first behind the tables; below 0 it says which
    address bits are reserved ones. `access`, `half`
    and `offset` are of the access, `cpu` and `features` what isn't the usual there.
    """

    last: str
    leaf: int
    above: tuple[int, ...]
    beside: tuple[tuple[int, int], ...]
    page: int
    access: tuple[str, int, bool]
    half: int
    offset: int
    cpu: tuple[int, ...]
    features: tuple[object, ...]


def form_of(case: Case) -> Form | None:
    """Return the form of a case; None for one of several accesses, or of none."""
    if len(case.probes) != 1:
        return None
    context, (probe,) = case.context(), case.probes
    steps = walk_access(case.memory(), context, probe.asked).steps
    walked = dict(step.word for step in steps)
    beside = Counter(
        word & ~ADDRESS_FIELD & ~Entry.PS for pa, word in case.entries.items() if pa not in walked
    )
    odd = [_odd(context, step) for step in steps]
    return Form(
        last=steps[-1].kind if steps else "",
        leaf=odd[-1] if odd else 0,
        above=tuple(sorted(flags for flags in odd[:-1] if flags)),
        beside=tuple(sorted(beside.items())),
        page=_page(context, steps),
        access=(probe.access, probe.cpl, probe.ac),
        half=probe.va >> 63,
        offset=probe.va % FRAME,
        cpu=(
            *(
                (getattr(case.cpu, name) ^ getattr(_DEFAULT, name)) & ~bits
                for name, bits in _MODE.items()
            ),
            case.cpu.pkru,
            case.cpu.pkrs,
        ),
        features=tuple(
            None if value == getattr(_DEFAULT, name) else value
            for name in _FEATURES
            for value in [getattr(case.cpu, name)]
        ),
    )


def _odd(context: PagingContext, step: Step) -> int:
    """Return the flags of an entry that aren't plain; PS isn't, where it makes the page."""
    plain = _PLAIN if step.restricts else int(Entry.P)
    if step.kind is StepKind.LEAF and step.level > 1:
        plain |= Entry.PS
    field = ADDRESS_FIELD & (0xFFFF_FFFF if context.mode is PagingMode.BIT32 else -1)
    return (step.entry ^ plain) & ~field


def _page(context: PagingContext, steps: tuple[Step, ...]) -> int:
    """Return the address of the page, 0 where that doesn't matter.

    Of an entry with reserved bits: which bits of an address are among them.
    """
    if not steps or steps[-1].kind not in (StepKind.LEAF, StepKind.RESERVED):
        return 0
    last = steps[-1]
    if last.kind is StepKind.RESERVED:
        leaf = is_leaf(context, last.level, last.entry)
        wrong = last.entry & reserved_bits(context, last.level, leaf=leaf) & ADDRESS_FIELD
        low = wrong & (1 << context.maxphyaddr) - 1
        return -(_LOW * bool(low) + _HIGH * bool(wrong ^ low))
    span = level_of(context, last.level).span
    address = leaf_address(context, last.level, last.entry)
    first = FRAME * (len({step.pa // FRAME for step in steps}) + 1)
    return 0 if address == max(span, first) & -span else address
