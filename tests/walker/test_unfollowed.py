import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from crosswalk.walker import PagingMode, Segments, Unfollowed, Vendor, unfollowed
from crosswalk.walker.unfollowed import Reason, UnfollowedEntry
from tests.random_tables import extended_tables
from tests.tables import KIB4, OPEN, PS, ROOT, XD, CountingMemory, P, PageTables, chain, context
from tests.walker import naive

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
UPPER = 0xFFFF_8000_0000_0000


def rows(found):
    return [
        (each.va, each.level, each.pa, each.entry, each.reason is Reason.OUTSIDE)
        for each in found.first
    ]


@QUICK
@given(tables=extended_tables())
def test_entries_are_counted_as_a_naive_walk_counts_them(tables):
    expected = naive.unfollowed(tables)
    present = naive.present(tables)
    root = [entry for level, entry in present if level == tables.context.levels]
    bad_root = [row for row in expected if row[1] == tables.context.levels]

    for memory in (tables.memory, tables.segments):
        found = unfollowed(memory, tables.context, first=1000)
        assert sum(outside for *_, outside in expected) == found.outside
        assert sum(not outside for *_, outside in expected) == found.reserved
        assert sorted(expected) == sorted(rows(found))
        assert len(present) == found.entries
        pages = naive.distinct_pages(tables)
        beyond = [page for page in pages if page & -KIB4 not in tables.frames]
        assert (len(pages), len(beyond)) == (found.leaves, found.leaves_outside)
        assert sum(page >> 46 > 0 for page in beyond) == found.leaves_beyond_46
        assert (len(root), len(bad_root)) == (found.root_entries, found.root_unfollowed)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_random_tables_hold_both_kinds_of_entry_at_these_levels(level, outside):
    def holds(tables):
        return any(row[1] == level and row[4] is outside for row in naive.unfollowed(tables))

    assert holds(find(extended_tables(), holds, settings=SEARCH))


def test_a_page_without_ram_is_a_mapping_and_a_table_without_ram_is_outside():
    tables = PageTables(ram=((0, 1 << 20),)).map(0x1000, 0xFEE0_0000)
    tables.words[tables.entry_pa(0x20_0000, 2)] = 0xFEC0_0000 | OPEN

    assert Unfollowed(
        outside=1,
        first=(
            UnfollowedEntry(
                va=0x20_0000,
                pa=0x3008,
                entry=0xFEC0_0007,
                level=2,
                reason=Reason.OUTSIDE,
                mode=PagingMode.LEVEL4,
            ),
        ),
        entries=5,
        leaves=1,
        leaves_outside=1,
        root_entries=1,
    ) == unfollowed(tables.memory, context())


def test_a_table_of_which_only_part_is_in_memory_is_outside():
    words = (0x2000 | OPEN).to_bytes(8, "little") + bytes(KIB4 - 8)
    half = Segments([(ROOT, words + bytes(KIB4 // 2))])

    assert (1, 0) == _counts(unfollowed(half, context()))


@pytest.mark.parametrize(
    ("level", "bits", "switches"),
    [
        (4, PS, {}),
        (3, PS, {"page1gb": False}),
        (3, PS | 1 << 29, {}),
        (2, PS | 1 << 20, {}),
        (1, 1 << 40, {"maxphyaddr": 40}),
        (1, XD, {"nxe": False}),
    ],
)
def test_a_reserved_bit_and_a_page_of_a_level_that_has_none_are_reserved(level, bits, switches):
    tables = PageTables().map(0x1000, 0x5000).change(0x1000, level, add=bits)

    found = unfollowed(tables.memory, context(**switches))
    assert (0, 1) == _counts(found)
    assert [level] == [each.level for each in found.first]


def test_an_entry_that_is_not_present_may_hold_anything():
    tables = PageTables().map(0x1000, 0x5000, flags=XD | 1 << 51 | PS)

    assert (0, 0) == _counts(unfollowed(tables.memory, context(nxe=False)))


def test_a_shared_table_is_looked_at_once_and_named_at_its_lowest_address():
    tables = PageTables(ram=((0, 1 << 20),)).map(UPPER, 0x5000)
    tables.words[tables.entry_pa(UPPER + (7 << 12), 1)] = 1 << 45 | OPEN
    tables.words[ROOT] = tables.words[tables.entry_pa(UPPER, 4)]

    found = unfollowed(tables.memory, context())
    assert (0, 1) == _counts(found)
    assert [7 << 12] == [each.va for each in found.first]


def test_addresses_of_the_upper_half_are_canonical_and_come_last():
    tables = PageTables()
    for at in (511, 256, 255):
        tables.words[ROOT + 8 * at] = at << 40 | OPEN

    found = unfollowed(tables.memory, context(), first=2)
    assert 3 == len(found)
    assert [255 << 39, UPPER] == [each.va for each in found.first]


def test_the_entries_that_need_a_wide_address_are_counted():
    tables = PageTables(ram=((0, 1 << 20),))
    for at, bit in enumerate((39, 40, 45, 46, 51)):
        tables.map(at << 12, 1 << bit)

    found = unfollowed(tables.memory, context(maxphyaddr=52))
    assert (4, 2) == (found.beyond_40, found.beyond_46)
    # Under a MAXPHYADDR of 40 they are reserved bits, and not followed.
    found = unfollowed(tables.memory, context(maxphyaddr=40))
    assert (4, 0, 0) == (found.reserved, found.beyond_40, found.beyond_46)


@pytest.mark.parametrize(("bad", "mostly"), [(2, False), (3, True)])
def test_more_than_half_of_the_root_is_mostly(bad, mostly):
    tables = PageTables().map(0, 0).map(1 << 39, 0)
    for at in range(bad):
        tables.words[ROOT + 8 * (100 + at)] = 1 << 45 | OPEN

    assert mostly is unfollowed(tables.memory, context()).implausible


def test_more_than_half_of_all_entries_is_mostly():
    tables = PageTables().map(0, 0)
    for at in range(5):
        tables.words[tables.entry_pa((1 + at) << 12, 1)] = 1 << 45 | OPEN

    assert unfollowed(tables.memory, context()).implausible


@pytest.mark.parametrize(("bit", "mostly"), [(45, False), (46, True), (51, True)])
def test_pages_far_outside_memory_make_no_sense_and_devices_do(bit, mostly):
    tables = PageTables().map(0, 0)
    for at in range(5):
        tables.words[tables.entry_pa((1 + at) << 12, 1)] = 1 << bit | OPEN

    assert mostly is unfollowed(tables.memory, context(maxphyaddr=52)).implausible


def test_bits_of_an_encryption_mask_are_no_address():
    bit = 1 << 47
    tables = PageTables(ram=((0, 1 << 20),)).map(0x1000, 0x5000)
    tables.entries = {pa: word | bit for pa, word in tables.words.items()}

    assert (1, 0) == _counts(unfollowed(tables.memory, context(maxphyaddr=52)))
    found = unfollowed(tables.memory, context(maxphyaddr=52, encryption_mask=bit))
    assert (4, 1, 0, 0) == (found.entries, found.leaves, found.leaves_outside, found.beyond_40)
    assert 0 == len(found)


def test_nothing_at_all_is_not_mostly():
    found = unfollowed(PageTables().memory, context())

    assert Unfollowed() == found
    assert not found.implausible


def test_32_bit_tables_have_entries_of_four_bytes():
    tables = PageTables("32-bit", ram=((0, 1 << 16),)).map(0x40_1000, 0x5000)
    tables.entries[0x1008] = 0x7777_7000 | OPEN

    found = unfollowed(tables.memory, context("32-bit"))
    assert (1, 0) == _counts(found)
    assert [(0x80_0000, 0x1008, 2)] == [(each.va, each.pa, each.level) for each in found.first]


def test_a_pae_address_space_that_can_not_be_entered_is_not_looked_into():
    tables = PageTables("PAE", root=0x1020, ram=((0, 1 << 16),)).map(0x1000, 0x5000)
    tables.entries[tables.entry_pa(0x1000, 1)] |= 1 << 45
    assert (0, 1) == _counts(unfollowed(tables.memory, context("PAE", root=0x1020)))

    tables.entries[0x1028] = 0x5000 | OPEN
    found = unfollowed(tables.memory, context("PAE", root=0x1020))
    assert [(0x4000_0000, 0x1028, 3)] == [(each.va, each.pa, each.level) for each in found.first]
    # AMD's processors read a PDPTE when they need it, and the others are as good as ever.
    found = unfollowed(tables.memory, context("PAE", root=0x1020, vendor=Vendor.AMD))
    assert [(0x1000, 1), (0x4000_0000, 3)] == [(each.va, each.level) for each in found.first]


def test_the_cost_is_that_of_the_distinct_tables():
    memory = CountingMemory(chain(4, P | 1 << 50))

    assert (0, 512) == _counts(unfollowed(memory, context(maxphyaddr=40)))
    assert memory.read_tables <= 4


def test_the_number_of_tables_can_be_limited():
    tables = PageTables()
    for at in range(8):
        tables.map(at << 21, 1 << 45)

    assert [3, 8] == [unfollowed(tables.memory, context(), tables=n).reserved for n in (3, None)]


def _counts(found):
    return found.outside, found.reserved
