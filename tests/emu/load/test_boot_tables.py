from itertools import count

import pytest

from crosswalk.emu.load.boot_tables import LOW_4_GIB, BootTables
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.mappings import coalesce, mappings
from tests.tables import segments_of

ROOT = 0x1000
EVERYTHING = (1 << 64) - 1


def mapped(spans, levels=4):
    """(va, pa, size, rights) of what the tables map, equal neighbours folded."""
    tables = BootTables(levels, count(ROOT, 0x1000).__next__)
    tables.map(spans)
    memory = segments_of(tables.words, [(0, 16 << 20)])
    cr4 = CR4.PAE | (CR4.LA57 if levels == 5 else 0)
    found = coalesce(mappings(memory, PagingContext(cr3=tables.root, cr4=cr4)), ignore=EVERYTHING)
    return [(each.va, each.pa, each.size, each.rights.supervisor) for each in found]


@pytest.mark.parametrize("levels", [4, 5])
def test_the_first_4_gib_are_mapped_to_themselves(levels):
    assert [(0, 0, 4 << 30, "rwx")] == mapped([LOW_4_GIB], levels)


def test_a_segment_is_mapped_in_small_pages_at_its_linear_address():
    high = 0xFFFF_FFFF_8010_0000
    assert [(high, 0x10_0000, 0x3000, "rwx")] == mapped([(high + 0x10, 0x10_0010, 0x2001)])


def test_a_segment_goes_before_what_was_mapped_there():
    found = mapped([(0, 0, 4 << 20), (0x20_1000, 0x30_0000, 0x2000)])
    assert [(0, 0), (0x20_1000, 0x30_0000), (0x20_3000, 0x20_3000)] == [each[:2] for each in found]
    assert 4 << 20 == sum(each[2] for each in found)


def test_large_pages_serve_where_both_addresses_allow_it():
    tables = BootTables(4, count(ROOT, 0x1000).__next__)
    tables.map([(0, 0, 2 << 20), (0x4000_0000, 0x20_0000, 2 << 20), (0x8000_0000, 0x1000, 2 << 20)])
    large = [word for word in tables.words.values() if word & 1 << 7]
    assert [0x83, 0x20_0083] == sorted(large)
