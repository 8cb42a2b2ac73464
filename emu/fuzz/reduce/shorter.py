"""The same case by a shorter walk: four levels in place of five, a larger page."""

from collections.abc import Iterator
from dataclasses import replace

from emu.fuzz.reduce.simpler import Search, path_of
from walker.context import CR4
from walker.entry import ADDRESS_FIELD, LEVELS, Entry
from walker.source import Case
from walker.translate import StepKind

__all__ = ["shortenings"]

_FOUR = (1 << 48) - 1


def shortenings(case: Case) -> Search:
    """Yield cases whose walk has a level less; for cases of one probe."""
    if len(case.probes) != 1:
        return
    candidate = _without_pml5(case)
    if candidate is not None and (yield candidate):
        case = candidate
    for level in (3, 2):
        for candidate in _large_pages(case, level):
            if (yield candidate):
                return


def _without_pml5(case: Case) -> Case | None:
    """Take the table below for the root."""
    context, probe = case.context(), case.probes[0]
    steps = path_of(case, probe).steps
    if context.levels != 5 or not steps or steps[0].kind is not StepKind.TABLE:
        return None
    low = probe.va & _FOUR
    va = low | (_FOUR ^ (1 << 64) - 1 if low >> 47 else 0)
    root = steps[0].entry & context.address_mask
    cpu = replace(case.cpu, cr4=case.cpu.cr4 & ~CR4.LA57, cr3=case.cpu.cr3 & ~ADDRESS_FIELD | root)
    entries = {pa: word for pa, word in case.entries.items() if pa != steps[0].pa}
    return replace(case, cpu=cpu, entries=entries, probes=(replace(probe, va=va),))


def _large_pages(case: Case, level: int) -> Iterator[Case]:
    """End the walk at a table's entry, made a page: with the last entry's flags, its own, or both.

    The last entry need not be a leaf: whatever ends the walk may do so further up.
    """
    path = path_of(case, case.probes[0])
    step = next((step for step in path.steps if step.level == level), None)
    if step is None or step.kind is not StepKind.TABLE:
        return
    last = path.steps[-1].entry
    gone = {each.pa for each in path.steps if each.level < level}
    entries = {pa: word for pa, word in case.entries.items() if pa not in gone}
    rights = int(Entry.RW | Entry.US)
    both = last & step.entry & rights | (last | step.entry) & ~rights
    size = LEVELS[level].span
    for flags in dict.fromkeys((last, step.entry, both)):
        word = flags & ~ADDRESS_FIELD | Entry.PS | size
        yield replace(case, entries={**entries, step.pa: word})
