"""Passes over cases: fewer probes and entries, plainer bits, shorter walks, plainer places."""

import functools
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from crosswalk.emu.fuzz.reduce.places import alike, relocations, way
from crosswalk.emu.fuzz.reduce.reducer import (
    Change,
    Reduced,
    Search,
    Steps,
    fewer,
    in_turn,
    reduce,
    too_many,
)
from crosswalk.emu.fuzz.reduce.slots import (
    Slot,
    entry_at,
    entry_size,
    field_of,
    frame_of,
    natural_field,
    plain_entry,
    pointed_to,
    slots_of,
    tables_of,
    with_entry,
)
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, level_of
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.translate import StepKind, Walk, walk_access

__all__ = [
    "key_of",
    "large_pages",
    "reduce_case",
    "shortenings",
    "size_of",
    "without_pml5",
]

_ACCESSES = {"read": 0, "write": 1, "execute": 2}
_SWITCHES = {
    "cr0": (1 << 16,),
    "cr4": (1 << 12, 1 << 20, 1 << 21, 1 << 22, 1 << 7, 1 << 24, 1 << 27, 1 << 28, 1 << 4),
    "efer": (1 << 11, 1 << 20),
}
_FEATURES = ("maxphyaddr", "page1gb", "vendor", "encryption_mask")
_KEYS = ("pkru", "pkrs")
_DEFAULT = Cpu.from_context(PagingContext(cr3=0))
_FOUR_LEVELS = (1 << 48) - 1
_WORD = 8
_MANY = 16
"""So many equal entries of one table are one thing, of which all or some may matter."""

_Kept = tuple[Case, set[tuple[int, int]]]


def reduce_case(
    case: Case,
    shows: Callable[[Sequence[Case]], Iterable[bool]],
    enough: Callable[[int], bool] = too_many,
) -> Reduced[Case]:
    """Return a case as small as can be found that still `shows`, in the order of `size_of`.

    See `crosswalk.emu.fuzz.reduce.reducer.reduce`.
    """
    passes = (simplifications, shortenings, relocations)
    return reduce(case, passes, shows, enough, _size, key_of)


def key_of(case: Case) -> Hashable:
    """Return what tells one case from another."""
    # What judges said, which a case may have, is no part of what is asked.
    probes = tuple((each.asked, each.predicted, each.observed) for each in case.probes)
    return case.cpu, case.ram, probes, tuple(sorted(case.entries.items()))


def size_of(case: Case) -> tuple[int, ...]:
    """Return the size of a case, most important number first."""
    return *_counts(case), *_details(case)


def _size(case: Case) -> "_Size | None":
    """Return the size, whose details are looked at where they matter.

    None for a case whose registers don't make a paging mode: it can't be tried.
    """
    try:
        return _Size(case)
    except BadInput:
        return None


class _Size:
    """The size of a case, to be compared."""

    def __init__(self, case: Case) -> None:
        self._case, self.counts = case, _counts(case)

    @functools.cached_property
    def details(self) -> tuple[int, ...]:
        return _details(self._case)

    def __lt__(self, other: "_Size") -> bool:
        if self.counts != other.counts:
            return self.counts < other.counts
        return self.details < other.details


def _counts(case: Case) -> tuple[int, ...]:
    """Return the numbers of probes, of tables used once more, and of entries."""
    slots = way(case)
    again = len(slots) - len({frame_of(slot.pa) for slot in slots})
    count = len(case.entries)
    if entry_size(case.context()) != _WORD:
        count = sum(1 for _ in slots_of(case, slots))
    return len(case.probes), again, count


def _details(case: Case) -> tuple[int, ...]:
    cpu = case.cpu
    odd = sum((getattr(cpu, name) ^ getattr(_DEFAULT, name)).bit_count() for name in _SWITCHES)
    features = [getattr(cpu, name) for name in _FEATURES]
    usual = [getattr(_DEFAULT, name) for name in _FEATURES]
    flags, bits, fields = _odd_bits(case)
    return (
        int(features != usual),
        odd,
        cpu.pkru.bit_count() + cpu.pkrs.bit_count(),
        flags,
        sum(_ACCESSES[each.access] for each in case.probes),
        sum(each.cpl for each in case.probes),
        sum(each.ac for each in case.probes),
        sum(each.va for each in case.probes),
        cpu.cr3,
        sum(case.entries),
        bits,
        fields,
        len(case.ram),
        sum(start + size for start, size in case.ram),
    )


def _odd_bits(case: Case) -> tuple[int, int, int]:
    """Return in how many flags entries differ from plain ones, and in how many bits of addresses.

    Those are of the entries that lead to no table; and the sum of those addresses.
    """
    context, mask = case.context(), field_of(case.context())
    slots = way(case)
    tables = tables_of(case, (slots,))
    flags = bits = fields = 0
    for slot in slots_of(case, slots):
        flags += ((slot.entry ^ plain_entry(context, slot)) & ~mask).bit_count()
        field = slot.entry & mask
        free = pointed_to(context, slot, tables) is None
        if free and field != natural_field(context, slot, len(tables)):
            bits, fields = bits + 1 + field.bit_count(), fields + field
    return flags, bits, fields


def simplifications(case: Case) -> Search[Case]:
    """Yield cases with fewer probes, entries, control bits or entry bits."""
    case = yield from fewer(case, list(case.probes), _with_probes, least=1)
    case = yield from _fewer_entries(case)
    case = yield from in_turn(case, (_plainer_root,))
    case = yield from _plainer_cpu(case)
    case = yield from _plainer_bits(case)
    yield from _plainer_probes(case)


def _with_probes(case: Case, probes: list[Probe]) -> Case:
    return replace(case, probes=tuple(probes))


def _with_entries(case: Case, entries: list[tuple[int, int]]) -> Case:
    return replace(case, entries=dict(entries))


def _fewer_entries(case: Case) -> Steps[Case]:
    """Yield the case with the entries of its walks, or of its way, alone; then with fewer."""
    used = {
        pa: word
        for probe in case.probes
        for pa, word in walk_access(case.memory(), case.context(), probe.asked).words
        if word
    }
    on_way = {slot.pa & -8 for slot in way(case)}
    attempts = (used, {pa: word for pa, word in case.entries.items() if pa in on_way})
    batch = [replace(case, entries=each) if each else None for each in attempts]
    accepted = yield batch
    chosen = None if accepted is None else batch[accepted]
    case = case if chosen is None else chosen
    # A list of mappings may depend on entries outside the walk.
    case, kept = yield from _fewer_alike(case)
    items = [item for item in sorted(case.entries.items()) if item not in kept]
    case = yield from fewer(
        case, items, lambda one, left: _with_entries(one, [*left, *sorted(kept)])
    )
    if entry_size(case.context()) == _WORD:
        return case
    slots = list(slots_of(case, way(case)))
    return (yield from fewer(case, slots, _with_slots))


def _fewer_alike(case: Case) -> Generator[Sequence[Case | None], int | None, _Kept]:
    """Yield the case without equal entries of one table, and return it with those it needs all.

    They are needed all where one of them is: what looks at many equal ones sees no difference
    between them.
    """
    kept: set[tuple[int, int]] = set()
    tables: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for item in sorted(case.entries.items()):
        tables.setdefault((frame_of(item[0]), item[1]), []).append(item)
    for some in [some for some in tables.values() if len(some) >= _MANY]:
        rest = [item for item in case.entries.items() if item not in set(some)]
        batch = [_with_entries(case, rest), _with_entries(case, [*rest, *some[:-1]])]
        accepted = yield batch
        if accepted is None:
            kept |= set(some)
        else:
            case = batch[accepted]
    return case, kept


def _with_slots(case: Case, slots: list[Slot]) -> Case:
    context, entries = case.context(), dict[int, int]()
    for slot in slots:
        entries = with_entry(context, entries, slot.pa, slot.entry)
    return replace(case, entries=entries)


def _plainer_root(case: Case) -> Case | None:
    """Return the case with nothing but the address in CR3: without LAM's bits, PCD and PWT."""
    context = case.context()
    mask = context.encryption_mask | (ADDRESS_FIELD if context.mode.long else context.root)
    return replace(case, cpu=replace(case.cpu, cr3=case.cpu.cr3 & mask))


def _plainer_cpu(case: Case) -> Steps[Case]:
    usual = {name: getattr(_DEFAULT, name) for name in (*_FEATURES, *_SWITCHES, *_KEYS)}
    changes: list[Change[Case]] = [
        _cpu_with({name: usual[name] for name in names})
        for names in (tuple(usual), _FEATURES, *((name,) for name in usual))
    ]
    changes += [_switched(name, bit) for name, bits in _SWITCHES.items() for bit in bits]
    case = yield from in_turn(case, changes)
    for name in _KEYS:
        bits = [1 << at for at in range(32) if getattr(case.cpu, name) >> at & 1]
        case = yield from fewer(case, bits, _with_keys(name))
    return case


def _with_keys(name: str) -> Callable[[Case, list[int]], Case | None]:
    """Return what leaves these bits alone of a register of keys' rights."""
    return lambda case, left: _cpu_with({name: sum(left)})(case)


def _cpu_with(values: Mapping[str, object]) -> Callable[[Case], Case]:
    return lambda case: replace(case, cpu=replace(case.cpu, **values))  # type: ignore[arg-type]  # Fields of a Cpu.


def _switched(name: str, bit: int) -> Change[Case]:
    """Return what makes one bit of a register the usual one."""

    def change(case: Case) -> Case | None:
        value = getattr(case.cpu, name)
        odd = (value ^ getattr(_DEFAULT, name)) & bit
        return _cpu_with({name: value ^ bit})(case) if odd else None

    return change


def _plainer_bits(case: Case) -> Steps[Case]:
    """Yield the case with fewer flags in which entries differ from plain ones."""
    context, mask = case.context(), field_of(case.context())
    odd: list[tuple[tuple[int, ...], int, bool]] = []
    for group in alike(case):
        plain = plain_entry(context, group[0])
        differ = (group[0].entry ^ plain) & ~mask
        pas = tuple(slot.pa for slot in group)
        odd += [(pas, 1 << at, bool(plain >> at & 1)) for at in range(64) if differ >> at & 1]

    def kept(case: Case, left: list[tuple[tuple[int, ...], int, bool]]) -> Case:
        entries = case.entries
        for pas, bit, usual in set(odd) - set(left):
            for pa in pas:
                entry = entry_at(context, entries, pa)
                entries = with_entry(context, entries, pa, entry | bit if usual else entry & ~bit)
        return replace(case, entries=entries)

    case = yield from in_turn(case, (lambda one: kept(one, []),))
    return (yield from fewer(case, odd, kept))


def _plainer_probes(case: Case) -> Search[Case]:
    plainer = (
        {"access": "read", "cpl": 0, "ac": False},
        {"access": "read"},
        {"access": "write"},
        {"cpl": 0},
        {"ac": False},
    )
    places = range(len(case.probes))
    yield from in_turn(case, [_probe_with(at, fields) for at in places for fields in plainer])


def _probe_with(at: int, fields: Mapping[str, object]) -> Change[Case]:
    def change(case: Case) -> Case:
        probe = replace(case.probes[at], **fields)  # type: ignore[arg-type]  # Fields of a Probe.
        return replace(case, probes=(*case.probes[:at], probe, *case.probes[at + 1 :]))

    return change


def shortenings(case: Case) -> Search[Case]:
    """Yield cases whose walk has a level less, for cases of one probe."""
    if len(case.probes) == 1:
        case = yield from in_turn(case, (_of_four_levels,))
        for level in (3, 2):
            path = walk_access(case.memory(), case.context(), case.probes[0].asked)
            if (yield list(large_pages(case, path, level))) is not None:
                return


def _of_four_levels(case: Case) -> Case | None:
    (probe,) = case.probes
    path = walk_access(case.memory(), case.context(), probe.asked)
    shorter = without_pml5(case, [(probe.va, path)])
    if shorter is None:
        return None
    candidate, (va,) = shorter
    return replace(candidate, probes=(replace(probe, va=va),))


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


def large_pages(case: Case, path: Walk, number: int) -> Iterator[Case]:
    """Yield the case with a large page of a level in place of a table.

    The flags are the last entry's, those of the entry at that level, or both. The last entry need
    not be a leaf: whatever ends the walk may do so further up. Reserved address bits of a smaller
    page stay: they are reserved in the larger one, too.
    """
    context = case.context()
    step = next((step for step in path.steps if step.level == number), None)
    if step is None or step.kind is not StepKind.TABLE:
        return
    last = path.steps[-1]
    words = case.entries
    for each in path.steps:
        if each.level < number:
            words = with_entry(context, words, each.pa, 0)
    rights = int(Entry.RW | Entry.US)
    both = last.entry & step.entry & rights | (last.entry | step.entry) & ~rights
    size, mask = level_of(context, number).span, field_of(context)
    within = (level_of(context, last.level).span - 1) & mask & ~Entry.PAT_LARGE
    for flags in dict.fromkeys((last.entry, step.entry, both)):
        for low in dict.fromkeys((0, last.entry & within)):
            word = flags & ~mask | Entry.PS | size | low
            yield replace(case, entries=with_entry(context, words, step.pa, word))
