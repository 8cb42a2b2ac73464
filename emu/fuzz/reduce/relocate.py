"""The same case with a shorter walk and at lower addresses: tables in a row, little RAM."""

from collections.abc import Generator
from dataclasses import replace

from crosswalk.emu.fuzz.reduce.passes import Search, path_of
from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import StepKind

__all__ = ["LOW_PAGE", "compacted", "relocations"]

_RAM = 1 << 20
LOW_PAGE = 0x10 * FRAME
"""Where the lowest page may begin, behind the tables."""


def relocations(case: Case) -> Search:
    """Yield cases with lower tables, indices, page and RAM; for cases of one probe.

    Outside IA-32e mode, only those whose RAM is lower.
    """
    if len(case.probes) == 1 and case.context().mode.long:
        case = yield from _lower_walk(case)
    last = max(case.entries, default=0) // FRAME * FRAME + FRAME
    for size in (_RAM, last):
        if size >= last:
            candidate = replace(case, ram=((0, size),))
            if (yield candidate):
                case = candidate


def _lower_walk(case: Case) -> Generator[Case, bool, Case]:
    for candidate in (_lower_tables(case), _lower_root(case)):
        if candidate is not None and (yield candidate):
            case = candidate
    for level in range(case.context().levels, 0, -1):
        for index in (0, 1, 256):
            moved = _other_index(case, level, index)
            if moved is not None and (yield moved):
                case = moved
                break
    page = _lower_page(case)
    if page is not None and (yield page):
        case = page
    return case


def compacted(case: Case) -> Case:
    """Return a case with its tables in a row from 0x1000 up, the root first.

    What leads to a table leads to where it is now, a page that is a table among it.
    """
    root = case.context().root // FRAME * FRAME
    frames = [root, *sorted({pa // FRAME * FRAME for pa in case.entries} - {root})]
    new = {frame: FRAME * (at + 1) for at, frame in enumerate(frames)}
    entries = {}
    for pa, word in case.entries.items():
        field = word & case.context().address_mask
        entries[new[pa // FRAME * FRAME] + pa % FRAME] = word ^ field ^ new.get(field, field)
    cpu = replace(case.cpu, cr3=case.cpu.cr3 ^ root ^ new[root])
    held = _inside(replace(case, cpu=cpu), entries)
    return case if held is None else held


def _lower_tables(case: Case) -> Case | None:
    """Put the tables of the walk to 0x1000, 0x2000 and so on, from the root down."""
    context = case.context()
    steps = path_of(case, case.probes[0]).steps
    frames = [step.pa // FRAME * FRAME for step in steps]
    if len(set(frames)) != len(frames):
        return None  # A table used twice has to stay one.
    new = {frame: FRAME * (at + 1) for at, frame in enumerate(frames)}
    entries: dict[int, int] = {}
    for at, step in enumerate(steps):
        word = step.entry
        if step.kind is StepKind.TABLE and at + 1 < len(steps):
            word = (
                word & ~ADDRESS_FIELD
                | new[frames[at + 1]]
                | word & ADDRESS_FIELD & ~context.address_mask
            )
        if word:
            entries[new[frames[at]] + step.pa % FRAME] = word
    cpu = (
        replace(case.cpu, cr3=case.cpu.cr3 & ~ADDRESS_FIELD | new[frames[0]])
        if frames
        else case.cpu
    )
    return _inside(replace(case, cpu=cpu), entries)


def _lower_root(case: Case) -> Case | None:
    """Take no notice of the bits of CR3 beside the address, as PWT and PCD."""
    cpu = case.cpu
    return replace(case, cpu=replace(cpu, cr3=cpu.cr3 & ADDRESS_FIELD))


def _other_index(case: Case, level: int, index: int) -> Case | None:
    """Use another entry of the table of this level, with the same content."""
    context, probe = case.context(), case.probes[0]
    steps = path_of(case, probe).steps
    step = next((step for step in steps if step.level == level), None)
    shift = LEVELS[level].shift
    va = probe.va & ~(511 << shift) | index << shift
    if level == context.levels:
        va = _canonical(va, context.va_bits)
    entries = dict(case.entries)
    if step is not None and step.pa in entries:
        entries[step.pa & ~(FRAME - 1) | index * 8] = entries.pop(step.pa)
    return _inside(replace(case, probes=(replace(probe, va=va),)), entries)


def _canonical(va: int, bits: int) -> int:
    low = va & (1 << bits) - 1
    return low | ((1 << 64) - (1 << bits) if low >> bits - 1 else 0)


def _lower_page(case: Case) -> Case | None:
    """Let the page begin as low as one of its size can, behind the tables."""
    context = case.context()
    leaf = path_of(case, case.probes[0]).leaf
    if leaf is None:
        return None
    size = LEVELS[leaf.level].span
    low = max(size, LOW_PAGE)
    field = context.address_mask & -size
    return _inside(case, {**case.entries, leaf.pa: leaf.entry & ~field | low})


def _inside(case: Case, entries: dict[int, int]) -> Case | None:
    """Return the case with these entries, None where one would lie outside its RAM."""
    held = all(any(start <= pa < start + size for start, size in case.ram) for pa in entries)
    return replace(case, entries=entries) if held else None
