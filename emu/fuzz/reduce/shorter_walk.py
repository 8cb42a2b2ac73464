"""The same case by a shorter walk: four levels in place of five, a larger page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosswalk.emu.fuzz.reduce.passes import Search, path_of
from crosswalk.walker.context import CR4
from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Entry
from crosswalk.walker.formats import Case
from crosswalk.walker.translate import StepKind, Walk

__all__ = ["large_pages", "shortenings", "without_pml5"]

_FOUR = (1 << 48) - 1


def shortenings(case: Case) -> Search:
    """Yield cases whose walk has a level less; for cases of one probe."""
    if len(case.probes) != 1:
        return
    (probe,) = case.probes
    shorter = without_pml5(case, [(probe.va, path_of(case, probe))])
    if shorter is not None:
        candidate, (va,) = shorter
        candidate = replace(candidate, probes=(replace(probe, va=va),))
        if (yield candidate):
            case = candidate
    for level in (3, 2):
        for candidate in large_pages(case, path_of(case, case.probes[0]), level):
            if (yield candidate):
                return


def without_pml5(
    case: Case, walks: Sequence[tuple[int, Walk]]
) -> tuple[Case, tuple[int, ...]] | None:
    """Return the case with the table below for the root, and what the addresses are then.

    `walks` are addresses with the walks of each. None unless all go through one PML5E.
    """
    context = case.context()
    first = {path.steps[0] for _, path in walks if path.steps}
    if context.levels != 5 or len(first) != 1 or not all(path.steps for _, path in walks):
        return None
    (top,) = first
    if top.kind is not StepKind.TABLE:
        return None
    root = top.entry & context.address_mask
    cpu = replace(case.cpu, cr4=case.cpu.cr4 & ~CR4.LA57, cr3=case.cpu.cr3 & ~ADDRESS_FIELD | root)
    entries = {pa: word for pa, word in case.entries.items() if pa != top.pa}
    return replace(case, cpu=cpu, entries=entries), tuple(_of_four(va) for va, _ in walks)


def _of_four(va: int) -> int:
    low = va & _FOUR
    return low | (_FOUR ^ (1 << 64) - 1 if low >> 47 else 0)


def large_pages(case: Case, path: Walk, level: int) -> Iterator[Case]:
    """End the walk at a table's entry, made a page: with the last entry's flags, its own, or both.

    The last entry need not be a leaf: whatever ends the walk may do so further up. Address bits
    that a smaller page reserves are reserved in the larger one, too, and stay.
    """
    step = next((step for step in path.steps if step.level == level), None)
    if step is None or step.kind is not StepKind.TABLE:
        return
    last = path.steps[-1]
    gone = {each.pa for each in path.steps if each.level < level}
    entries = {pa: word for pa, word in case.entries.items() if pa not in gone}
    rights = int(Entry.RW | Entry.US)
    both = last.entry & step.entry & rights | (last.entry | step.entry) & ~rights
    size = LEVELS[level].span
    within = (LEVELS[last.level].span - 1) & ADDRESS_FIELD & ~Entry.PAT_LARGE
    for flags in dict.fromkeys((last.entry, step.entry, both)):
        word = flags & ~ADDRESS_FIELD | Entry.PS | size
        for low in dict.fromkeys((0, last.entry & within)):
            yield replace(case, entries={**entries, step.pa: word | low})
