"""The same case by a shorter walk: four levels in place of five, a larger page."""

from collections.abc import Iterator
from dataclasses import replace

from emu.fuzz.reduce.simpler import Search
from walker.context import CR4
from walker.entry import ADDRESS_FIELD, LEVELS, Entry
from walker.source import Case
from walker.translate import StepKind, walk

__all__ = ["shortenings"]

_FOUR = (1 << 48) - 1


def shortenings(case: Case) -> Search:
    """Yield cases whose walk has a level less; for cases of one probe."""
    if len(case.probes) != 1:
        return
    for make in (_without_pml5, _larger_page, _larger_page):
        for candidate in make(case):
            if (yield candidate):
                case = candidate
                break


def _without_pml5(case: Case) -> Iterator[Case]:
    """Take the table below for the root."""
    context, probe = case.context(), case.probes[0]
    steps = walk(case.memory(), context, probe.va).steps
    if context.levels == 5 and steps and steps[0].kind is StepKind.TABLE:
        low = probe.va & _FOUR
        va = low | (_FOUR ^ (1 << 64) - 1 if low >> 47 else 0)
        root = steps[0].entry & context.address_mask
        cpu = replace(
            case.cpu,
            cr4=case.cpu.cr4 & ~CR4.LA57,
            cr3=case.cpu.cr3 & ~ADDRESS_FIELD | root,
        )
        entries = {pa: word for pa, word in case.entries.items() if pa != steps[0].pa}
        yield replace(case, cpu=cpu, entries=entries, probes=(replace(probe, va=va),))


def _larger_page(case: Case) -> Iterator[Case]:
    """Let the entry above the leaf map the page: with the leaf's flags, its own, or both."""
    steps = walk(case.memory(), case.context(), case.probes[0].va).steps
    if len(steps) < 2 or steps[-1].kind is not StepKind.LEAF or not LEVELS[steps[-2].level].large:
        return
    above, leaf = steps[-2:]
    size = LEVELS[above.level].span
    address = max(size, leaf.entry & case.context().address_mask & -size)
    entries = {pa: word for pa, word in case.entries.items() if pa != leaf.pa}
    rights = int(Entry.RW | Entry.US)
    for flags in (
        leaf.entry,
        above.entry,
        leaf.entry & above.entry & rights | (leaf.entry | above.entry) & ~rights,
    ):
        word = flags & ~ADDRESS_FIELD | Entry.PS | address
        yield replace(case, entries={**entries, above.pa: word})
