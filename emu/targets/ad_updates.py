"""Which A and D bits a walker under test may set: the choices that the manuals leave."""

from dataclasses import replace

import numpy as np

from crosswalk.emu.check.compare import agreements, differing_fields
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Entries, Outcome

__all__ = ["allowed_marks", "by_choice"]


def allowed_marks(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, truth: Outcomes
) -> Outcomes:
    """Return the truth, where an access faults with all the words that it may change.

    Those are the walker's, where it predicts this fault: a CPU shows one choice of several.
    """
    faults = np.flatnonzero(truth.kind == Kind.PAGE_FAULT)
    if not len(faults):
        return truth
    predicted, seen = translate_many(memory, context, accesses.take(faults)), truth.take(faults)
    rows = faults[agreements(predicted, seen)]
    held = predicted.take(agreements(predicted, seen))
    entry_pa, entry_value = truth.entry_pa.copy(), truth.entry_value.copy()
    entry_pa[rows], entry_value[rows] = held.entry_pa, held.entry_value
    return replace(truth, entry_pa=entry_pa, entry_value=entry_value)


def by_choice(memory: PhysicalMemory, said: Outcomes, allowed: Outcomes) -> Outcomes:
    """Return what is allowed, where both fault with the choice that comes closest to what is said.

    That is the words as they are said, without the bits that may not be set in them. A word can
    hold two entries that a walk uses, so that less than all of its bits may be set.
    """
    differs = differing_fields(allowed, said)["entries"]
    rows = np.flatnonzero(differs & (said.kind != Kind.OK) & (allowed.kind != Kind.OK))
    if not len(rows):
        return allowed
    entry_pa, entry_value = allowed.entry_pa.copy(), allowed.entry_value.copy()
    for row in rows.tolist():
        entry_pa[row], entry_value[row] = 0, 0
        for at, (pa, value) in enumerate(_chosen(memory, said[row], allowed[row])):
            entry_pa[row, at], entry_value[row, at] = pa, value
    return replace(allowed, entry_pa=entry_pa, entry_value=entry_value)


def _chosen(memory: PhysicalMemory, said: Outcome, allowed: Outcome) -> Entries:
    """Return the words of an answer, each with no more bits set than is allowed."""
    most = dict(allowed.entries)
    before = {pa: memory.word(pa) or 0 for pa in most}
    chosen = [(pa, value & most[pa] | before[pa]) for pa, value in said.entries if pa in most]
    return tuple((pa, value) for pa, value in chosen if value != before[pa])
