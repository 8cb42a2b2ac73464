import numpy as np
import pytest

from crosswalk.emu.targets.answers import Ranges
from crosswalk.emu.targets.mapping_lists import (
    MAX_LISTED,
    ask,
    gather,
    look_up,
    ranges_of,
    true_listing,
)
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.frames import count_mappings
from tests.emu.seeded_tables import seeded_tables
from tests.emu.targets.walkers import LARGE, PAGE, READ_ONLY, reads, space
from tests.tables import LEGACY, LONG, OPEN, PS, ROOT, USED, PageTables, chain, context

KIB4, MIB2, TOP = 1 << 12, 1 << 21, 1 << 64
HALF = 1 << 47


def bounds(ranges):
    columns = (ranges.first.tolist(), ranges.last.tolist(), ranges.whole.tolist())
    return list(zip(*columns, strict=True))


def one_range(first=0, last=HALF - 1):
    return Ranges(*(np.array([each], np.uint64) for each in (first, last)), np.array([True]))


def listed(*mappings):
    return gather(context(), one_range(), [mappings])


def test_a_small_space_is_asked_for_as_its_two_halves():
    ranges = ranges_of(space().memory, context(), reads(PAGE, 1 << 60))
    assert [(0, HALF - 1, True), (TOP - HALF, TOP - 1, True)] == bounds(ranges)


def test_with_five_levels_the_halves_are_larger():
    ranges = ranges_of(space(5).memory, context(5), reads(PAGE))
    assert [(0, (1 << 56) - 1, True), (TOP - (1 << 56), TOP - 1, True)] == bounds(ranges)


def test_where_tables_lead_back_to_themselves_only_pages_are_asked_for():
    memory = chain(4, 0x5000 | USED)
    ranges = ranges_of(memory, context(), reads(0x1234, 0x1238, HALF, TOP - 1))
    assert [(0x1000, 0x1FFF, False), (TOP - KIB4, TOP - 1, False)] == bounds(ranges)


def test_slots_with_too_many_mappings_are_left_out_of_what_is_whole():
    builder = PageTables(ram=((0, 1 << 26),)).map(PAGE, 0x20_0000)
    slot = 1 << 39
    for at in range(MAX_LISTED + 1):
        builder.map(3 * slot + at * KIB4, at * KIB4, OPEN)
    builder.map(5 * slot, 0x20_0000)
    ranges = ranges_of(builder.memory, context(), reads(3 * slot + 0x1010, 4 * slot))
    assert [
        (0, 3 * slot - 1, True),
        (3 * slot + 0x1000, 3 * slot + 0x1FFF, False),
        (4 * slot, HALF - 1, True),
        (TOP - HALF, TOP - 1, True),
    ] == bounds(ranges)


def test_neighbours_that_are_too_many_together_are_two_ranges():
    builder = PageTables(ram=((0, 1 << 26),))
    for at in range(MAX_LISTED):
        builder.map(at * KIB4, at * KIB4)
    builder.map(7 << 39, 0x20_0000)
    ranges = ranges_of(builder.memory, context(), reads(0))
    assert [(0, (7 << 39) - 1), (7 << 39, HALF - 1)] == [each[:2] for each in bounds(ranges)[:2]]


def test_the_true_list_is_that_of_the_tables():
    ranges = ranges_of(space().memory, context(), reads(PAGE))
    listing = true_listing(space().memory, context(), ranges)
    columns = (listing.mappings.va, listing.mappings.pa, listing.mappings.size)
    assert [
        (PAGE, 0x20_0000, KIB4),
        (READ_ONLY, 0x20_1000, KIB4),
        (LARGE, 0x60_0000, MIB2),
    ] == list(zip(*(column.tolist() for column in columns), strict=True))
    assert [0x7, 1 << 63 | 1, 0x87] == listing.mappings.flags.tolist()


def test_a_lister_gets_an_end_that_is_not_included():
    seen = []
    ranges = ranges_of(space().memory, context(), reads(PAGE))
    ask(context(), ranges, lambda va, end: seen.append((va, end)) or [])
    assert [(0, HALF), (TOP - HALF, TOP)] == seen


def test_addresses_are_looked_up_in_what_was_listed():
    listing = listed((PAGE, 0x9000, KIB4), (LARGE, 0, MIB2, 0x80))
    va = np.array([PAGE - 1, PAGE, PAGE + 0xFFF, PAGE + KIB4, LARGE + MIB2 - 1], np.uint64)
    at, there = look_up(listing, va)
    assert [False, True, True, False, True] == there.tolist()
    assert [0, 0, 1] == at[there].tolist()


def test_a_mapping_counts_for_the_range_that_it_was_listed_for_alone():
    pages = Ranges(
        np.array([0x1000, 0x5000], np.uint64),
        np.array([0x1FFF, 0x5FFF], np.uint64),
        np.array([False, False]),
    )
    # Asked for the first page it claims all of 2 MiB; asked for the second it says nothing.
    listing = gather(context(), pages, [[(0, 0, MIB2)], []])
    assert [True, False] == look_up(listing, np.array([0x1000, 0x5000], np.uint64))[1].tolist()


def test_what_does_not_touch_the_range_asked_for_is_left_out():
    ranges = one_range(0x1000, 0x1FFF)
    lists = [[(0, 0, KIB4), (0x1000, 0x8000, KIB4), (0x2000, 0, KIB4)]]
    listing = gather(context(), ranges, lists)
    assert [0x1000] == listing.mappings.va.tolist()


@pytest.mark.parametrize(
    ("mapping", "kind"),
    [
        ((0, 0), "no mapping"),
        ((0, 0, 0), "no mapping"),
        ((0, 0, "4096"), "no mapping"),
        ((0, -1, 4096), "no mapping"),
        ((0, 1 << 64, 4096), "no mapping"),
        ((0, 0, 4096, "7"), "no mapping"),
        ((0, 0, 4096, None, 7), "no mapping"),
        ((0, 0, 4096, None, "rwx"), "no mapping"),
        ((0, 0, 4096, None, "u-x", None), "no mapping"),
        (7, "no mapping"),
        ((TOP - KIB4, 0, MIB2), "no mapping"),
        ((HALF, 0, KIB4), "a mapping that is not canonical"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_nonsense_in_a_list_is_a_failure(mapping, kind):
    with pytest.raises(NoAnswer) as caught:
        listed(mapping)
    assert (Failure.NONSENSE, kind) == (caught.value.failure, caught.value.kind)


def test_numbers_may_be_numpys():
    listing = listed(tuple(np.array([PAGE, 0x9000, KIB4], np.uint64)))
    assert [0x9000] == listing.mappings.pa.tolist()


@pytest.mark.parametrize(
    "other", [(PAGE, 0x9000, KIB4), (PAGE - MIB2 // 2, 0, MIB2)], ids=["twice", "overlapping"]
)
def test_two_mappings_of_one_address_are_nonsense(other):
    with pytest.raises(NoAnswer) as caught:
        listed((PAGE, 0x9000, KIB4), other)
    assert "two mappings of one address" == caught.value.kind


def test_an_endless_list_is_a_flood():
    def forever():
        while True:
            yield (PAGE, 0x9000, KIB4)

    with pytest.raises(NoAnswer) as caught:
        gather(context(), one_range(), [forever()])
    assert (Failure.FLOOD, "too many mappings") == (caught.value.failure, caught.value.kind)


@pytest.mark.parametrize("mode", LEGACY)
def test_all_of_4_gib_is_asked_for_in_the_modes_of_32_bits(mode):
    tables = PageTables(mode).map(PAGE, 0x9000).map(0xC000_0000, 0x40_0000, OPEN | PS, level=2)
    ranges = ranges_of(tables.memory, context(mode), reads(PAGE, 0xC000_1000, 0xFFFF_F000))
    assert [(0, 0xFFFF_FFFF, True)] == bounds(ranges)
    listing = true_listing(tables.memory, context(mode), ranges)
    assert [PAGE, 0xC000_0000] == listing.mappings.va.tolist()


def test_pages_of_the_upper_half_are_asked_for_one_by_one_in_32_bit_paging():
    tables = PageTables("32-bit")
    for slot in range(1024):
        tables.entries[ROOT + 4 * slot] = ROOT | OPEN
    found = ranges_of(tables.memory, context("32-bit"), reads(0xC000_1000))
    assert [(0xC000_1000, 0xC000_1FFF)] == [row[:2] for row in bounds(found) if not row[2]]


@pytest.mark.parametrize("modes", [LONG, LEGACY], ids=["IA-32e", "32 bits"])
def test_ranges_hold_as_many_mappings_as_are_counted(modes):
    whole = 0
    for seed in range(40):
        made = seeded_tables(seed, 60, *modes)
        ranges = ranges_of(made.memory, made.context, made.accesses)
        total = sum(count_mappings(made.memory, made.context).values())
        held = len(true_listing(made.memory, made.context, ranges).mappings)
        if total <= MAX_LISTED:
            whole += 1
            assert total == held
            assert ranges.whole.all()
        assert held <= 8 * MAX_LISTED
    assert 5 <= whole
