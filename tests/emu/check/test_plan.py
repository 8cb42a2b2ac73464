import numpy as np
import pytest

from crosswalk.emu.check import Place, make_plan
from crosswalk.walker.access import AccessType
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.memory import SparseWords
from tests.tables import GIB1, KIB4, MIB2, OPEN, PS, ROOT, TOP, P, PageTables, context

VA = 0x40_0000


def built():
    return PageTables().map(VA, 0x8000).map(VA + 2 * KIB4, 0x9000, P)


def planned(plan, place):
    rows = plan.take(plan.place == place)
    return {
        (va, AccessType(kind).name, cpl, ac)
        for va, kind, cpl, ac in zip(
            rows.va.tolist(), rows.type.tolist(), rows.cpl.tolist(), rows.ac.tolist(), strict=True
        )
    }


def addresses(plan, place):
    return sorted({va for va, *_ in planned(plan, place)})


def test_a_page_is_accessed_in_all_ways_at_both_ends():
    plan = make_plan(built().memory, context())
    pages = planned(plan, Place.PAGE_4K)
    for page in (VA, VA + 2 * KIB4):
        for cpl in (0, 3):
            for at, names in (
                (0, ("READ", "WRITE", "EXECUTE")),
                (KIB4 - 16, ("EXECUTE",)),
                (KIB4 - 1, ("READ", "WRITE", "EXECUTE")),
            ):
                assert {(page + at, name, cpl, False) for name in names} <= pages
    assert 2 * 2 * 7 == len(pages)


@pytest.mark.parametrize(
    ("level", "size", "place"), [(2, MIB2, Place.PAGE_2M), (3, GIB1, Place.PAGE_1G)]
)
def test_a_large_page_is_accessed_inside_as_well(level, size, place):
    memory = PageTables().map(GIB1, 0, OPEN | PS, level=level).memory
    inside = set(addresses(make_plan(memory, context()), place))
    assert {GIB1, GIB1 + size - 16, GIB1 + size - 1} < inside
    (middle,) = inside - {GIB1, GIB1 + size - 16, GIB1 + size - 1}
    assert middle % MIB2 // KIB4 != 0
    assert middle % KIB4 != 0


def test_user_pages_under_smap_are_accessed_with_either_ac():
    for ac in (False, True):
        pages = planned(make_plan(built().memory, context(smap=True, ac=ac)), Place.PAGE_4K)
        assert {(VA, "READ", 0, not ac), (VA, "WRITE", 0, not ac)} == {
            row for row in pages if row[3] != ac
        }


def test_what_is_between_pages_is_accessed_at_its_ends_and_in_its_middle():
    holes = addresses(make_plan(built().memory, context()), Place.HOLE)
    after = VA + 3 * KIB4
    half = 1 << 47
    assert [
        0, (VA - 1) // 2, VA - 1,
        VA + KIB4, VA + KIB4 + (KIB4 - 1) // 2, VA + 2 * KIB4 - 1,
        after, after + (half - 1 - after) // 2, half - 1,
        TOP - half, TOP - half + (half - 1) // 2, TOP - 1,
    ] == holes  # fmt: skip


def test_pages_at_the_ends_of_the_halves_leave_no_gap_there():
    last, high = (1 << 47) - KIB4, TOP - (1 << 47)
    builder = PageTables()
    for va in (0, last, high, TOP - KIB4):
        builder.map(va, 0x8000)
    holes = addresses(make_plan(builder.memory, context()), Place.HOLE)
    assert [KIB4, last - 1, high + KIB4, TOP - KIB4 - 1] == [holes[at] for at in (0, 2, 3, 5)]
    assert 6 == len(holes)


def test_blocked_entries_and_addresses_that_are_not_canonical_are_accessed():
    builder = built().map(VA + 8 * KIB4, 0xA000, OPEN | 1 << 51).map(GIB1, 0x1000, 0x8)
    plan = make_plan(builder.memory, context())
    malformed = VA + 8 * KIB4
    # The probe's own reading knows of no reserved bits: it has a page there, which is accessed.
    assert [malformed, malformed + KIB4 - 16, malformed + KIB4 - 1, GIB1] == addresses(
        plan, Place.MALFORMED
    )
    assert [1 << 47, 1 << 63, TOP - (1 << 47) - 1] == addresses(plan, Place.NOT_CANONICAL)


def test_a_range_leaves_out_what_is_outside():
    plan = make_plan(built().memory, context(), start=VA + KIB4, end=VA + 3 * KIB4)
    assert [VA + 2 * KIB4, VA + 3 * KIB4 - 16, VA + 3 * KIB4 - 1] == addresses(plan, Place.PAGE_4K)
    assert [VA + KIB4, VA + KIB4 + 2047, VA + 2 * KIB4 - 1] == addresses(plan, Place.HOLE)
    assert [] == addresses(plan, Place.NOT_CANONICAL)


def test_an_empty_address_space_has_holes():
    plan = make_plan(SparseWords([(ROOT, KIB4)], {}), context())
    assert {Place.HOLE, Place.NOT_CANONICAL} == {Place(each) for each in np.unique(plan.place)}


def test_more_mappings_than_the_limit_are_counted_and_refused():
    assert len(make_plan(built().memory, context(), limit=2)) > 0
    with pytest.raises(LimitExceeded, match="2 mappings; the limit is 1"):
        make_plan(built().memory, context(), limit=1)
    with pytest.raises(LimitExceeded, match="more than 1 mappings in this range"):
        make_plan(built().memory, context(), end=1 << 40, limit=1)
    assert len(make_plan(built().memory, context(), end=VA + KIB4, limit=1)) > 0


def test_a_table_outside_ram_is_accessed():
    # Where no gap's end or middle happens to lie.
    builder = built()
    builder.words[builder.entry_pa(VA, 2) + 80] = 0x8000_0000 | OPEN
    plan = make_plan(builder.memory, context())
    first = (VA >> 21) + 10 << 21
    assert ((plan.va >= first) & (plan.va < first + MIB2)).any()
