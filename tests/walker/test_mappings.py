import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    HekiArgs,
    Mapping,
    Rights,
    coalesce_leaves,
    heki_walk,
    mappings,
    walk_leaves,
)
from crosswalk.walker.rights import rights_table
from tests.random_tables import extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PAT_LARGE,
    PS,
    TOP,
    USED,
    XD,
    G,
    P,
    PageTables,
    context,
    linear,
)
from tests.walker import naive

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HIGH = 0xFFFF_8000_0000_0000
HIGH_5 = 0xFF00_0000_0000_0000


def heki(tables, start, end, **switches):
    """The (va, pa, size, flags) of each call of `heki_walk`."""
    calls = []
    heki_walk(
        tables.memory,
        context(tables.mode, **switches),
        start,
        end,
        lambda args: calls.append((args.va, args.pa, args.size, args.flags)),
        HekiArgs(),
    )
    return calls


def kernel(levels=4, high=HIGH):
    """A page of each size in the upper half, one in the lower, and the last of all."""
    tables = PageTables(levels).map(0x7000, 0x5000, P)
    tables.map(high, 0x4000_0000, USED | PS | PAT_LARGE, level=3)
    tables.map(high + GIB1, 0x60_0000, USED | PS | XD, level=2)
    tables.map(high + GIB1 + MIB2, 0x6000, P | PS)
    return tables.map(TOP - KIB4, 0x8000, OPEN | G)


END = HIGH + GIB1 + MIB2 + KIB4


def test_heki_walk_reports_each_leaf_with_its_raw_flags_in_address_order():
    assert [
        (0x7000, 0x5000, KIB4, 0x1),
        (HIGH, 0x4000_0000, GIB1, 0x10A7),
        (HIGH + GIB1, 0x60_0000, MIB2, 0x8000_0000_0000_00A7),
        (HIGH + GIB1 + MIB2, 0x6000, KIB4, 0x81),
        (TOP - KIB4, 0x8000, KIB4, 0x107),
    ] == heki(kernel(), 0, TOP)


@pytest.mark.parametrize(
    ("page", "pa", "size", "flags"),
    [
        (HIGH, 0x4000_0000, GIB1, 0x10A7),
        (HIGH + GIB1, 0x60_0000, MIB2, 0x8000_0000_0000_00A7),
        (HIGH + GIB1 + MIB2, 0x6000, KIB4, 0x81),
        (TOP - KIB4, 0x8000, KIB4, 0x107),
    ],
    ids=["1G", "2M", "4K", "last"],
)
def test_heki_walk_reports_the_part_of_a_page_that_lies_in_the_range(page, pa, size, flags):
    tables, half, end = kernel(), size // 2, page + size

    assert [(page + 1, pa + 1, size - 1, flags)] == heki(tables, page + 1, end)
    assert [(page, pa, size - 1, flags)] == heki(tables, page, end - 1)
    assert [(page + half, pa + half, 5, flags)] == heki(tables, page + half, page + half + 5)
    assert [(end - 1, pa + size - 1, 1, flags)] == heki(tables, end - 1, end)
    assert [] == heki(tables, page + half, page + half)


def test_heki_walk_clips_the_first_and_the_last_page_of_a_range_only():
    assert [
        (HIGH + GIB1 - 0x1234, 0x8000_0000 - 0x1234, 0x1234, 0x10A7),
        (HIGH + GIB1, 0x60_0000, MIB2, 0x8000_0000_0000_00A7),
        (HIGH + GIB1 + MIB2, 0x6000, 0x10, 0x81),
    ] == heki(kernel(), HIGH + GIB1 - 0x1234, HIGH + GIB1 + MIB2 + 0x10)


def test_heki_walk_reaches_the_last_page_with_an_end_of_2_to_the_64():
    assert [(TOP - 1, 0x8FFF, 1, 0x107)] == heki(kernel(), TOP - 1, TOP)
    assert [(TOP - KIB4, 0x8000, KIB4 - 1, 0x107)] == heki(kernel(), END, TOP - 1)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (0x7000, 0x7000), (0x8000, 0x7000), (TOP, 0), (TOP, TOP), (TOP - 1, 0x7000)],
)
def test_heki_walk_of_an_empty_or_inverted_range_calls_nothing(start, end):
    assert [] == heki(kernel(), start, end)


@pytest.mark.parametrize(("levels", "high"), [(4, HIGH), (5, HIGH_5)])
def test_heki_walk_finds_nothing_in_the_canonical_hole(levels, high):
    tables = kernel(levels, high).map(TOP - high - KIB4, 0x9000)

    assert [] == heki(tables, TOP - high, high)
    assert [(high, 0x4000_0000, 1, 0x10A7)] == heki(tables, TOP - high + 5, high + 1)
    assert [(TOP - high - 1, 0x9FFF, 1, 0x7)] == heki(tables, TOP - high - 1, high - 5)
    both = heki(tables, TOP - high - 1, high + 1)
    assert [(TOP - high - 1, 0x9FFF, 1, 0x7), (high, 0x4000_0000, 1, 0x10A7)] == both


def test_heki_walk_with_a_folded_level_lists_the_same():
    # An address of 48 bits is canonical with 57 as well.
    four, five = kernel(), kernel(5)

    assert 5 == len(heki(four, 0, TOP))
    assert heki(four, 0, TOP) == heki(five, 0, TOP)
    assert heki(four, HIGH + 5, END - 5) == heki(five, HIGH + 5, END - 5)


def test_heki_walk_leaves_out_what_is_absent_or_reserved():
    tables = kernel().change(0x7000, 1, drop=P).change(HIGH + GIB1, 2, add=1 << 51)
    assert [HIGH, HIGH + GIB1 + MIB2, TOP - KIB4] == [call[0] for call in heki(tables, 0, TOP)]
    without_xd = heki(kernel(), 0, TOP, nxe=False)
    assert [0x7000, HIGH, HIGH + GIB1 + MIB2, TOP - KIB4] == [call[0] for call in without_xd]


def test_heki_walk_hands_over_the_very_args_it_was_given():
    class Counter(HekiArgs):
        count = 0
        calls = ()

    def note(args):
        args.count += 1
        args.calls = (*args.calls, (args.va, args.size))
        args.va = args.pa = args.size = args.flags = -1
        seen.append(args)

    seen, mine = [], Counter()
    heki_walk(kernel().memory, context(), HIGH + 0x10, END, note, mine)

    assert 3 == mine.count == len(seen)
    assert all(args is mine for args in seen)
    expected = ((HIGH + 0x10, GIB1 - 0x10), (HIGH + GIB1, MIB2), (HIGH + GIB1 + MIB2, KIB4))
    assert expected == mine.calls


def test_heki_walk_stops_where_the_callback_raises():
    def refuse(args):
        seen.append(args.va)
        raise LookupError

    seen = []
    with pytest.raises(LookupError):
        heki_walk(kernel().memory, context(), 0, TOP, refuse, HekiArgs())
    assert [0x7000] == seen


@QUICK
@given(tables=extended_tables(), numbers=st.tuples(*[st.integers(0, 2**46)] * 2))
def test_heki_walk_cuts_the_naive_walk_to_its_range(tables, numbers):
    start, end = sorted(tables.address(number) for number in numbers)
    calls = []
    heki_walk(
        tables.memory,
        tables.context,
        start,
        end,
        lambda args: calls.append((args.va, args.pa, args.size, args.flags)),
        HekiArgs(),
    )

    expected = []
    for page in naive.pages(tables):
        first, last = max(start, page.va), min(end, page.va + page.size)
        if first < last:
            expected.append((first, page.pa + first - page.va, last - first, page.flags))
    assert expected == calls


@QUICK
@given(tables=extended_tables(), numbers=st.tuples(*[st.integers(0, 2**46)] * 2))
def test_mappings_are_the_rows_of_the_walk(tables, numbers):
    start, end = sorted(tables.address(number) for number in numbers)
    rights = rights_table(tables.context)
    expected = [
        Mapping(page.va, page.pa, page.size, page.level, page.flags, rights[page.grant])
        for page in naive.pages(tables)
        if start < end and page.va < end and page.va + page.size > start
    ]
    assert expected == list(mappings(tables.memory, tables.context, start, end))


@QUICK
@given(tables=extended_tables())
def test_folded_ranges_hold_all_mappings(tables):
    blocks = walk_leaves(tables.memory, tables.context)
    folded = [each for ranges in coalesce_leaves(blocks, tables.context) for each in ranges]
    sizes = [page.size for page in naive.pages(tables)]
    assert (len(sizes), sum(sizes)) == tuple(
        sum(getattr(each, name) for each in folded) for name in ("count", "size")
    )


def test_a_mapping_is_whole_even_where_its_range_cuts_it():
    page = next(mappings(kernel().memory, context(), HIGH + 5, HIGH + 6))

    assert Mapping(HIGH, 0x4000_0000, GIB1, 3, 0x10A7, Rights(63)) == page
    assert linear(256, 0, 0, 0) == page.va
