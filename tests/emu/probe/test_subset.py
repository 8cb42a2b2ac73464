"""A prober that is given the tables on the way of its accesses answers as one that has them all."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from crosswalk.emu.check import check, crosscheck, make_plan
from crosswalk.emu.probe import Prober, subset, subset_of
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.probe.subset import Subset
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.nested import NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.seeded_tables import seeded_tables
from tests.tables import GIB1, KIB4, OPEN, PS, ROOT, A, NestedPageTables, P, PageTables, context

VA = 0x40_0000


def several():
    return PageTables().map(VA, 0x8000).map(5 * GIB1, 0x9000).map(VA + KIB4, 0xA000)


def frames_of(builder, va):
    return {builder.entry_pa(va, level) & -KIB4 for level in (4, 3, 2, 1)}


def test_a_portion_has_the_tables_on_the_way_and_no_others():
    builder = several()
    found = subset_of(builder.memory, context(), np.array([VA, VA + 0x123], np.uint64))
    assert frames_of(builder, VA) == set(found.frames.tolist())
    other = subset_of(builder.memory, context(), np.array([5 * GIB1], np.uint64))
    assert frames_of(builder, 5 * GIB1) == set(other.frames.tolist())
    assert [ROOT] == subset_of(builder.memory, context(), np.zeros(0, np.uint64)).frames.tolist()


def test_other_frames_read_as_zeros_and_are_backed_all_the_same():
    builder = several()
    memory = builder.memory
    table = builder.entry_pa(5 * GIB1, 1) & -KIB4
    portion = subset_of(memory, context(), np.array([VA], np.uint64))
    frames = np.array([ROOT, table, 1 << 50], np.uint64)
    assert memory.ranges == portion.ranges
    assert [True, True, False] == portion.backed(frames).tolist()
    assert memory.tables(frames[:1]).tolist() == portion.tables(frames[:1]).tolist()
    assert memory.tables(frames[1:2]).any()
    assert not portion.tables(frames[1:]).any()
    word = builder.entry_pa(5 * GIB1, 1)
    assert (builder.words[ROOT], 0, None) == tuple(portion.word(pa) for pa in (ROOT, word, 1 << 50))
    assert memory.read(ROOT, 8) + bytes(8) == portion.read(ROOT, 8) + portion.read(word, 8)
    with pytest.raises(BadInput):
        portion.read(1 << 50, 8)


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_the_older_modes_have_so_few_tables_that_all_are_taken(mode):
    tables = PageTables(mode).map(VA, 0x8000)
    assert tables.memory is not None
    memory = tables.memory
    assert memory is subset_of(memory, context(mode), np.array([VA], np.uint64))


@pytest.mark.parametrize("seed", range(12))
def test_what_is_observed_is_the_same_as_with_all_tables(seed):
    memory, found, accesses = seeded_tables(seed, 400, plain=True)
    whole, part = Prober(memory, found), Prober(subset_of(memory, found, accesses.va), found)
    asked = accesses.take(whole.lacking(accesses) == 0)
    expected, seen = whole.probe(asked), part.probe(asked)
    for column in ("kind", "pa", "error_code", "cr2", "entry_pa", "entry_value"):
        assert np.array_equal(getattr(expected, column), getattr(seen, column)), column


def test_tables_that_are_reached_through_a_recursive_slot_are_on_the_way():
    builder = several()
    builder.words[ROOT + 8 * 300] = ROOT | OPEN
    memory, found = builder.memory, context()
    plan = make_plan(memory, found)
    inside = plan.accesses.take(plan.va >> np.uint64(39) & np.uint64(511) == 300)
    assert len(inside) > 100
    part = subset_of(memory, found, inside.va)
    expected = Prober(memory, found).probe(inside)
    seen = Prober(part, found).probe(inside)
    assert expected.pa.tolist() == seen.pa.tolist()
    assert expected.entry_pa.tolist() == seen.entry_pa.tolist()


def test_a_mask_and_five_levels_are_read_as_the_registers_say():
    mask = 1 << 47
    builder = PageTables(5).map(VA, 0x8000)
    words = {pa: word | mask for pa, word in builder.words.items()}
    memory = type(builder.memory)(builder.ram, words)
    found = context(5, maxphyaddr=48)
    masked = type(found)(**{**_fields(found), "encryption_mask": mask, "cr3": found.cr3 | mask})
    assert 5 == len(subset_of(memory, masked, np.array([VA], np.uint64)).frames)
    assert 1 == len(subset_of(memory, found, np.array([VA], np.uint64)).frames)


def _fields(found):
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def test_a_large_page_ends_the_way():
    builder = PageTables().map(GIB1, 0, OPEN | PS, level=3)
    found = subset_of(builder.memory, context(), np.array([GIB1 + 0x1234], np.uint64))
    assert 2 == len(found.frames)


def test_a_portion_that_lacks_a_table_shows_as_a_divergence(monkeypatch):
    builder = several()
    assert 0 == check(builder.memory, context()).divergent
    missing = np.uint64(builder.entry_pa(5 * GIB1, 1) & -KIB4)

    def lacking(memory, found, va):
        frames = subset_of(memory, found, va).frames
        return Subset(memory, frames[frames != missing])

    monkeypatch.setattr(crosscheck, "subset_of", lacking)
    assert check(builder.memory, context()).divergent > 0


def test_accesses_to_addresses_that_are_not_canonical_need_no_table():
    builder = several()
    accesses = Accesses.product(np.array([1 << 60], np.uint64), ac=False)
    part = subset_of(builder.memory, context(), accesses.va)
    whole = Prober(builder.memory, context()).probe(accesses)
    assert whole.kind.tolist() == Prober(part, context()).probe(accesses).kind.tolist()


def scattered(seed):
    """Seeded tables with all addresses doubled, in RAM of which every other frame is missing."""
    memory, found, accesses = seeded_tables(seed, 60, plain=True)
    address = (1 << 40) - KIB4
    words = {
        2 * (pa & -KIB4) | pa % KIB4: word & ~address | 2 * (word & address) & address
        for pa, word in memory.words()
    }
    frames = {pa & -KIB4 for pa in words} | set(range(0, 4 << 20, 2 * KIB4))
    ram = [(frame, KIB4) for frame in sorted(frames)]
    return SparseWords(ram, words), replace(found, cr3=2 * found.cr3 & -KIB4), accesses


def outcomes(prober, accesses):
    asked = accesses.take(prober.lacking(accesses) == 0)
    seen = prober.probe(asked)
    return [(asked[row], seen[row]) for row in range(len(asked))]


@pytest.mark.parametrize("seed", range(4))
def test_of_many_ranges_those_that_addresses_lead_to_are_enough(seed):
    memory, found, accesses = scattered(seed)
    assert len(memory.ranges) > 400
    expected = outcomes(Prober(memory, found), accesses)
    few = [accesses.take(slice(at, at + 4)) for at in range(0, len(accesses), 4)]
    parts = [subset_of(memory, found, some.va) for some in few]
    assert max(len(part.ranges) for part in parts) < 100
    seen = [outcomes(Prober(part, found), some) for part, some in zip(parts, few, strict=True)]
    assert expected == list(chain.from_iterable(seen))


def test_a_range_too_few_is_found_out(monkeypatch):
    memory, found, accesses = scattered(0)
    expected = outcomes(Prober(memory, found), accesses)
    monkeypatch.setattr(subset, "_frames_behind", lambda *_: [])
    part = subset_of(memory, found, accesses.va)
    assert expected != outcomes(Prober(part, found), accesses)


def nested_and_scattered():
    """A guest's tables and nested ones, in RAM that lies in hundreds of ranges."""
    guest = (
        PageTables().map(VA, 0x8000).map(VA + KIB4, 0xA000, P | A).map(GIB1, 0, PS | OPEN, level=2)
    )
    two = NestedPageTables(guest)
    frames = {pa & -KIB4 for pa in guest.words} | {0x8000, 0x1000}
    two.map_all(sorted(frames))
    held = {pa & -KIB4 for pa in two.words} | {0x8000 + two.shift}
    held |= set(range(8 << 20, 11 << 20, 2 * KIB4))
    return SparseWords([(frame, KIB4) for frame in sorted(held)], two.words), two.context()


NESTED_ACCESSES = [
    Access(va, kind, 0)
    for va in (VA + 0x123, VA + KIB4, VA + 2 * KIB4, GIB1 + 0x1008, 1 << 60)
    for kind in AccessType
]


def test_under_nested_paging_the_ranges_that_an_access_leads_to_are_enough():
    memory, found = nested_and_scattered()
    assert len(memory.ranges) > 300
    whole, kinds = NestedProber(memory, found), set()
    for access in NESTED_ACCESSES:
        part = subset.nested_subset_of(memory, found, access.va)
        assert len(part.ranges) < 32
        expected = whole.probe(access)
        assert expected == NestedProber(part, found).probe(access)
        kinds.add(type(expected))
    assert {Translation, NestedPageFault, PageFault, GeneralProtection} == kinds


def test_under_nested_paging_a_range_too_few_is_found_out(monkeypatch):
    memory, found = nested_and_scattered()
    access = NESTED_ACCESSES[0]
    expected = NestedProber(memory, found).probe(access)
    monkeypatch.setattr(subset, "_frames_behind", lambda *_: [])
    part = subset.nested_subset_of(memory, found, access.va)
    assert expected != NestedProber(part, found).probe(access)
