"""What entries are to the emulated CPU, for the model of what a TLB may keep of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from crosswalk.emu.check.departures import Departure, Scope, departures, emulated_rules
from crosswalk.emu.check.emulated_rules import Pages, levels_of, rules_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.tlb import Sequence
from crosswalk.walker.tlb.model import Describe
from crosswalk.walker.tlb.steps import after
from crosswalk.walker.tlb.walks import Decode, Decoded

__all__ = ["Reading", "reading_of", "sequence_subsets"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How `TlbModel` reads entries and describes accesses for a processor with departures."""

    decode: Decode
    describe: Describe


@lru_cache(1 << 6)
def reading_of(which: tuple[Departure, ...]) -> Reading:
    """Return how a processor with these departures reads entries: as the second walk does."""

    @lru_cache(1 << 12)
    def decode(context: PagingContext, level: int, entry: int) -> Decoded:
        return _decoded(context, which, level, entry)

    def describe(context: PagingContext, access: Access) -> int:
        fetch = access.type is AccessType.EXECUTE and emulated_rules(context, which).fetch_bit
        return (
            (ErrorCode.WR if access.type is AccessType.WRITE else 0)
            | (ErrorCode.US if access.cpl == 3 else 0)
            | (ErrorCode.ID if fetch else 0)
        )

    return Reading(decode, describe)


def _decoded(
    context: PagingContext, which: tuple[Departure, ...], number: int, entry: int
) -> Decoded:
    rules = emulated_rules(context, which)
    level = levels_of(rules)[rules.levels - number]
    bare = entry & ~rules.mask
    page = level.pages is Pages.ALL or (level.pages is Pages.WITH_PS and bool(entry >> 7 & 1))
    nothing = Decoded(Kind.PAGE_FAULT, reserved=False, grant=0, next_table=0, frame=0, key=0)
    if not entry & 1:
        return nothing
    bad = bare & (level.reserved_page if page else level.reserved)
    if bad:
        late = page and not bad & ~level.late
        return nothing._replace(reserved=True, accessed=late)
    return Decoded(
        kind=Kind.OK if page else None,
        reserved=False,
        # R/W and U/S lie one bit higher in an entry, and XD forbids what is granted.
        grant=entry >> 1 & 3 | (0 if entry >> 63 else 4),
        next_table=bare & rules.frame_mask,
        frame=bare & rules.frame_mask & -(1 << level.shift),
        key=entry >> 59 & 15,
    )


def sequence_subsets(sequence: Sequence) -> Iterator[tuple[Departure, ...]]:
    """Yield the sets of single departures that change something in a state of the sequence.

    The smaller ones first, from none at all; those of one size in the table's order.
    """
    contexts = [sequence.context]
    for step in sequence.steps:
        if not isinstance(step, Access):
            contexts.append(after(contexts[-1], step))
    manual = {context: rules_of(context) for context in contexts}
    some = [
        each
        for each in departures(Scope.ACCESS)
        if any(each.change(rules) != rules for rules in manual.values())
    ]
    for count in range(len(some) + 1):
        yield from combinations(some, count)
