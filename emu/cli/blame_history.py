"""The history of an entry: what its frame was before, and where its value was copied from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.blame import Store, Written
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = ["Copied", "chain_of", "stores_before", "twins_of"]

_TWINS = 4
"""How many words that hold the same as an entry are followed: those of the lowest addresses."""
_WALKS = int(Entry.A | Entry.D)


@dataclass(frozen=True, slots=True)
class Copied:
    """A word that a value was copied from, and the store that had put it there.

    Of no store where the loader left it, or where only later ones are kept.
    """

    pa: int
    store: Store | None
    by_loader: bool


def twins_of(ram: Ram, context: PagingContext, step: Step) -> tuple[int, ...]:
    """Return words that an entry for a table may have been copied from, or copied to: addresses.

    They lie at the same place of other frames and hold the same, but for A and D: kernels give each
    root what another has in its slots. Of an entry that maps a page, or nothing, there are none.
    """
    size = level_of(context, step.level).entry_size
    at = step.pa - ram.start
    if step.kind is not StepKind.TABLE or not 0 <= at < ram.size:
        return ()
    words = ram.words.view(np.uint32 if size == 4 else np.uint64)
    column = words[at % FRAME // size :: FRAME // size].astype(np.uint64)
    rows = np.flatnonzero((column ^ np.uint64(step.entry)) & ~np.uint64(_WALKS) == 0)
    found = (ram.start + row * FRAME + at % FRAME for row in rows[: _TWINS + 1].tolist())
    return tuple(each for each in found if each != step.pa)[:_TWINS]


def chain_of(store: Store, written: Mapping[int, Written]) -> list[Copied]:
    """Return where the value of a store was copied from, the nearest word first.

    It ends where a value was not copied, or where the log doesn't say what put it there.
    """
    found: list[Copied] = []
    seen = set()
    while store.source is not None and store.source not in seen:
        seen.add(store.source)
        there = written[store.source]
        before = [each for each in there.stores if each.order < store.order]
        by_loader = not before and len(there.stores) == there.count
        found.append(Copied(store.source, before[-1] if before else None, by_loader))
        if not before:
            break
        store = before[-1]
    return found


def stores_before(
    path: Walk, number: int, context: PagingContext, written: Mapping[int, Written]
) -> int:
    """Return how many of the kept stores to an entry were made before its frame was a table.

    `number` is the entry's in the path. They are those before the last one that cleared it, of
    those made before the table was linked: by the entry above, wherever that was first set, or for
    a root, by the first store that was made under it.
    """
    step = path.steps[number]
    stores = written[step.pa].stores
    linked = _linked(path, number, context, written)
    cleared = [at for at, each in enumerate(stores) if not each.after and each.order < linked]
    return cleared[-1] if cleared else 0


def _linked(
    path: Walk, number: int, context: PagingContext, written: Mapping[int, Written]
) -> float:
    """Return the order of the store by which, or from which on, an entry's frame is a table."""
    frame = path.steps[number].pa & -FRAME
    if not number:
        under = (each.order for each in _every(written) if each.cr3 & -FRAME == frame)
        return min(under, default=float("inf"))
    above = written.get(path.steps[number - 1].pa)
    stores: Sequence[Store] = () if above is None else above.stores
    for each in reversed(stores):
        if _refers(context, each.after, frame) and not _refers(context, each.before, frame):
            chain = [it.store for it in chain_of(each, written) if it.store is not None]
            return (chain[-1] if chain else each).order
    return 0


def _every(written: Mapping[int, Written]) -> Iterator[Store]:
    for each in written.values():
        yield from each.stores


def _refers(context: PagingContext, entry: int, frame: int) -> bool:
    return bool(entry & Entry.P) and entry & context.address_mask & -FRAME == frame
