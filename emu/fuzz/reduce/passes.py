"""Passes over cases: fewer probes and entries, plainer bits, shorter walks, lower addresses."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from crosswalk.emu.fuzz.reduce.reducer import Reduced, Search, fewer, reduce, too_many
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Entry
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import StepKind, Walk, walk_access

__all__ = [
    "LOW_PAGE",
    "PLAIN",
    "compacted",
    "large_pages",
    "reduce_case",
    "shortenings",
    "size_of",
    "without_pml5",
]

CaseSearch = Search[Case]

PLAIN = 0x7
"""The flags of a plain entry: present, writable, for the user."""

_ACCESSES = {"read": 0, "write": 1, "execute": 2}
_SWITCHES = {
    "cr0": (1 << 16,),
    "cr4": (1 << 12, 1 << 20, 1 << 21, 1 << 22, 1 << 7, 1 << 27, 1 << 28),
    "efer": (1 << 11, 1 << 20),
}
_FEATURES = ("maxphyaddr", "page1gb", "vendor", "encryption_mask")
_DEFAULT = Cpu.from_context(PagingContext(cr3=0))
_RAM = 1 << 20
LOW_PAGE = 0x10 * FRAME
"""The lowest address of a page, behind the tables."""
_FOUR_LEVELS = (1 << 48) - 1


def reduce_case(
    case: Case, shows: Callable[[Case], bool], enough: Callable[[int], bool] = too_many
) -> Reduced[Case]:
    """Return a case as small as can be found that still `shows`, in the order of `size_of`.

    See `crosswalk.emu.fuzz.reduce.reducer.reduce`.
    """
    passes = (simplifications, shortenings, relocations)
    return reduce(case, passes, shows, enough, lambda one, other: size_of(one) < size_of(other))


def walk_of(case: Case, probe: Probe) -> Walk:
    """Return the walk of a probe of a case."""
    return walk_access(case.memory(), case.context(), probe.asked)


def plain(case: Case) -> int:
    """Return the number of bits in which the case's entries differ from plain ones."""
    return sum(((word ^ PLAIN) & ~ADDRESS_FIELD).bit_count() for word in case.entries.values())


def size_of(case: Case) -> tuple[int, ...]:
    """Return the size of a case, most important number first."""
    cpu = case.cpu
    odd = sum((getattr(cpu, name) ^ getattr(_DEFAULT, name)).bit_count() for name in _SWITCHES)
    features = [getattr(cpu, name) for name in _FEATURES]
    usual = [getattr(_DEFAULT, name) for name in _FEATURES]
    return (
        len(case.probes),
        len(case.entries),
        int(features != usual),
        odd,
        cpu.pkru.bit_count(),
        plain(case),
        sum(_ACCESSES[each.access] for each in case.probes),
        sum(each.cpl for each in case.probes),
        sum(each.ac for each in case.probes),
        sum(each.va for each in case.probes),
        cpu.cr3,
        sum(case.entries),
        sum(word & ADDRESS_FIELD for word in case.entries.values()),
        len(case.ram),
        sum(start + size for start, size in case.ram),
    )


def simplifications(case: Case) -> CaseSearch:
    """Yield cases with fewer probes, entries, control bits or entry bits."""
    case = yield from fewer(case, list(case.probes), _with_probes, least=1)
    case = yield from _fewer_entries(case)
    case = yield from _plainer_root(case)
    case = yield from _plainer_cpu(case)
    case = yield from _plainer_bits(case)
    yield from _plainer_probes(case)


def _with_probes(case: Case, probes: list[Probe]) -> Case:
    return replace(case, probes=tuple(probes))


def _with_entries(case: Case, entries: list[tuple[int, int]]) -> Case:
    return replace(case, entries=dict(entries))


def _fewer_entries(case: Case) -> Generator[Case | None, bool, Case]:
    used: dict[int, int] = {}
    for probe in case.probes:
        path = walk_of(case, probe)
        used |= {pa: word for pa, word in path.words if word}
    candidate = replace(case, entries=used)
    if len(used) < len(case.entries) and (yield candidate):
        case = candidate
    # A list of mappings may depend on entries outside the walk.
    return (yield from fewer(case, sorted(case.entries.items()), _with_entries))


def _plainer_root(case: Case) -> Generator[Case | None, bool, Case]:
    """Yield the case with nothing but the address in CR3: without LAM's bits, PCD and PWT."""
    plain_root = replace(case, cpu=replace(case.cpu, cr3=case.cpu.cr3 & ADDRESS_FIELD))
    if case.context().mode.long and plain_root != case and (yield plain_root):
        return plain_root
    return case


def _plainer_cpu(case: Case) -> Generator[Case | None, bool, Case]:
    usual = replace(_DEFAULT, cr3=case.cpu.cr3)
    attempts: list[Mapping[str, object]] = [
        {name: getattr(usual, name) for name in names}
        for names in (
            (*_FEATURES, "cr0", "cr4", "efer", "pkru"),
            _FEATURES,
            *((name,) for name in _FEATURES),
            ("cr0",),
            ("cr4",),
            ("efer",),
            ("pkru",),
        )
    ]
    for attempt in attempts:
        candidate = replace(case, cpu=replace(case.cpu, **attempt))  # type: ignore[arg-type]  # Fields of a Cpu.
        if (yield candidate):
            case = candidate
    for name, bits in _SWITCHES.items():
        for bit in bits:
            value = getattr(case.cpu, name)
            if (value ^ getattr(_DEFAULT, name)) & bit:
                candidate = replace(case, cpu=replace(case.cpu, **{name: value ^ bit}))
                if (yield candidate):
                    case = candidate
    for bit in range(32):
        if case.cpu.pkru >> bit & 1:
            candidate = replace(case, cpu=replace(case.cpu, pkru=case.cpu.pkru & ~(1 << bit)))
            if (yield candidate):
                case = candidate
    return case


def _plainer_bits(case: Case) -> Generator[Case | None, bool, Case]:
    for pa in sorted(case.entries):
        odd = (case.entries[pa] ^ PLAIN) & ~ADDRESS_FIELD
        bits = [1 << at for at in range(64) if odd >> at & 1]
        for change in (odd, *bits) if len(bits) > 1 else bits:
            word = case.entries[pa]
            candidate = replace(
                case, entries={**case.entries, pa: word ^ (change & (word ^ PLAIN))}
            )
            if (yield candidate):
                case = candidate
    return case


def _plainer_probes(case: Case) -> CaseSearch:
    for at, probe in enumerate(case.probes):
        for change in (
            {"access": "read", "cpl": 0, "ac": False},
            {"access": "read"},
            {"access": "write"},
            {"cpl": 0},
            {"ac": False},
            {"va": probe.va & ~0xFFF},
        ):
            changed = replace(case.probes[at], **change)
            probes = _with(case.probes, at, changed)
            candidate = replace(case, probes=probes)
            if (yield candidate):
                case = candidate


def _with(probes: tuple[Probe, ...], at: int, probe: Probe) -> tuple[Probe, ...]:
    return (*probes[:at], probe, *probes[at + 1 :])


def shortenings(case: Case) -> CaseSearch:
    """Yield cases whose walk has a level less, for cases of one probe."""
    if len(case.probes) != 1:
        return
    (probe,) = case.probes
    shorter = without_pml5(case, [(probe.va, walk_of(case, probe))])
    if shorter is not None:
        candidate, (va,) = shorter
        candidate = replace(candidate, probes=(replace(probe, va=va),))
        if (yield candidate):
            case = candidate
    for level in (3, 2):
        for candidate in large_pages(case, walk_of(case, case.probes[0]), level):
            if (yield candidate):
                return


def without_pml5(
    case: Case, walks: Sequence[tuple[int, Walk]]
) -> tuple[Case, tuple[int, ...]] | None:
    """Return the case with the PML4 as the root, and the 48-bit addresses.

    `walks` are addresses with their walks. None unless all go through one PML5E.
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
    low = va & _FOUR_LEVELS
    return low | (_FOUR_LEVELS ^ (1 << 64) - 1 if low >> 47 else 0)


def large_pages(case: Case, path: Walk, level: int) -> Iterator[Case]:
    """Yield the case with a large page of `level` in place of a table.

    The flags are the last entry's, those of the entry at `level`, or both. The last entry need not
    be a leaf: whatever ends the walk may do so further up. Reserved address bits of a smaller page
    stay: they are reserved in the larger one, too.
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


def relocations(case: Case) -> CaseSearch:
    """Yield cases with lower tables, indices, page and RAM, for cases of one probe.

    Outside IA-32e mode, only with less RAM.
    """
    if len(case.probes) == 1 and case.context().mode.long:
        case = yield from _lower_walk(case)
    last = max(case.entries, default=0) // FRAME * FRAME + FRAME
    for size in (_RAM, last):
        if size >= last:
            candidate = replace(case, ram=((0, size),))
            if (yield candidate):
                case = candidate


def _lower_walk(case: Case) -> Generator[Case | None, bool, Case]:
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

    Entries that lead to a table, also as to a page, have its new address.
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
    """Move the tables of the walk to 0x1000, 0x2000 and so on, from the root down."""
    context = case.context()
    steps = walk_of(case, case.probes[0]).steps
    frames = [step.pa // FRAME * FRAME for step in steps]
    if len(set(frames)) != len(frames):
        return None  # A table that is used twice can't have two addresses.
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
    """Clear the bits of CR3 outside the address, such as PWT and PCD."""
    cpu = case.cpu
    return replace(case, cpu=replace(cpu, cr3=cpu.cr3 & ADDRESS_FIELD))


def _other_index(case: Case, level: int, index: int) -> Case | None:
    """Move the entry of this level to another index of its table."""
    context, probe = case.context(), case.probes[0]
    steps = walk_of(case, probe).steps
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
    """Move the page as low as one of its size can lie, behind the tables."""
    context = case.context()
    leaf = walk_of(case, case.probes[0]).leaf
    if leaf is None:
        return None
    size = LEVELS[leaf.level].span
    low = max(size, LOW_PAGE)
    field = context.address_mask & -size
    return _inside(case, {**case.entries, leaf.pa: leaf.entry & ~field | low})


def _inside(case: Case, entries: dict[int, int]) -> Case | None:
    """Return the case with these entries, None if one is outside its RAM."""
    held = all(any(start <= pa < start + size for start, size in case.ram) for pa in entries)
    return replace(case, entries=entries) if held else None
