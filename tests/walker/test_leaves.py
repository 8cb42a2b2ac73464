from itertools import chain

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Accesses,
    Kind,
    PagingContext,
    Rights,
    leaves,
    translate_many,
    walk_leaves,
)
from crosswalk.walker.entry import LEVELS
from crosswalk.walker.leaves import Leaves
from tests.random_tables import LAM_U48, LASS, extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PAT_LARGE,
    PS,
    RW,
    TOP,
    P,
    PageTables,
    context,
    linear,
)
from tests.walker import naive

QUICK = settings(max_examples=110, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
HALVES = (0, 1 << 47, 1 << 56, TOP - (1 << 47), TOP - (1 << 56), TOP)
BOUNDS = st.one_of(
    st.sampled_from(HALVES),
    st.builds(
        lambda at, by: min(max(at + by, 0), TOP), st.sampled_from(HALVES), st.integers(-9, 9)
    ),
    st.integers(0, TOP),
)


def walked(memory, found, start=0, end=TOP):
    """All leaves as (va, level, raw entry); no block may be empty."""
    rows = []
    for block in walk_leaves(memory, found, start, end):
        assert len(block)
        rows += zip(block.va.tolist(), block.level.tolist(), block.entry.tolist(), strict=True)
    return rows


def expected_leaves(tables, start=0, end=TOP):
    return [
        (page.va, page.level, page.entry)
        for page in naive.pages(tables)
        if start < end and page.va < end and page.va + page.size > start
    ]


@QUICK
@given(tables=extended_tables())
def test_a_walk_lists_the_leaves_that_a_naive_one_lists(tables):
    expected = expected_leaves(tables)

    assert expected == walked(tables.memory, tables.context)
    assert expected == walked(tables.segments, tables.context)


@QUICK
@given(
    tables=extended_tables(), numbers=st.tuples(*[st.integers(0, 2**46 - 1)] * 2), bounds=st.data()
)
def test_a_window_lists_the_leaves_that_touch_it(tables, numbers, bounds):
    start, end = (
        bounds.draw(BOUNDS) if number % 3 == 0 else tables.address(number) for number in numbers
    )
    assert expected_leaves(tables, start, end) == walked(tables.memory, tables.context, start, end)


@settings(QUICK, max_examples=70)
@given(
    tables=extended_tables(most=3),
    block=st.integers(1, 3),
    numbers=st.tuples(*[st.integers(0, 2**46)] * 2),
)
def test_the_seams_between_blocks_of_tables_dont_show(tables, block, numbers):
    start, end = sorted(tables.address(number) for number in numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "BLOCK", block)
        assert expected_leaves(tables) == walked(tables.memory, tables.context)
        assert expected_leaves(tables, start, end) == walked(
            tables.memory, tables.context, start, end
        )


def not_interleaved(original):
    """A walk that lists large pages before all that lies in tables beside them."""
    return lambda large, below: chain([large], below)


def blind_to_pat(original):
    """A walk to which the PAT bit of a large page is reserved."""
    return lambda found, level, leaf: (
        original(found, level, leaf=leaf) | (PAT_LARGE if leaf and level > 1 else 0)
    )


def from_the_next_page_on(original):
    """A window that leaves out large pages and tables that begin before it."""
    return lambda rows, level, start, end: original(rows, LEVELS[1], start, end)


def without_pages_of_the_root(original):
    """A walk of 32-bit paging without the pages that the page directory maps."""

    class Planted(original):
        def split(self, level, found):
            pages, below = super().split(level, found)
            return (pages.take(slice(0)) if level == len(self._levels) else pages), below

    return Planted


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("interleave", not_interleaved),
        ("reserved_bits", blind_to_pat),
        ("clip", from_the_next_page_on),
        ("_Walk", without_pages_of_the_root),
    ],
    ids=["order", "PAT", "window", "4 MiB"],
)
def test_a_rule_that_the_walk_breaks_is_found(rule, plant, monkeypatch):
    def wrong(case):
        tables, *numbers = case
        window = [tables.address(number) for number in numbers]
        found = walked(tables.memory, tables.context, *window)
        return expected_leaves(tables, *window) != found or wrong_as_a_whole(tables)

    def wrong_as_a_whole(tables):
        return expected_leaves(tables) != walked(tables.memory, tables.context)

    monkeypatch.setattr(leaves, rule, plant(getattr(leaves, rule)))
    numbers = st.integers(0, 2**46 - 1)
    case = find(st.tuples(extended_tables(), numbers, numbers), wrong, settings=SEARCH)

    monkeypatch.undo()
    assert not wrong(case)


def by_entries_alone(tables):
    """The context without what is no right of a page: keys, LASS, and LAM."""
    fields = {name: getattr(tables.context, name) for name in PagingContext.__dataclass_fields__}
    cr3, cr4 = tables.context.cr3 & ~LAM_U48, tables.context.cr4 & ~LASS
    return PagingContext(**fields | {"pkru": 0, "pkrs": 0, "cr3": cr3, "cr4": cr4})


@QUICK
@given(tables=extended_tables())
def test_the_rights_of_each_leaf_are_what_accesses_there_get(tables):
    found = by_entries_alone(tables)
    for block in walk_leaves(tables.memory, found):
        last = block.size - np.uint64(1)
        many = Accesses.product(block.va + last, ac=found.rflags_ac)
        outcomes = translate_many(tables.segments, found, many)
        wanted = np.uint8(1) << (many.type + np.where(many.cpl, 3, 0).astype(np.uint8))

        granted = (np.repeat(block.rights(found), 6) & wanted) != 0
        assert ((outcomes.kind == Kind.OK) == granted).all()
        for mine, theirs in (
            (block.pa + last, outcomes.pa),
            (block.size, outcomes.page_size),
            (block.rights(found), outcomes.rights),
        ):
            assert (np.repeat(mine, 6)[granted] == theirs[granted]).all()


def mixed(levels=4):
    """Pages of all sizes beside and between each other, on both sides of the hole."""
    tables = PageTables(levels)
    for half in (0, linear(256, *[0] * (levels - 1))):
        tables.map(half, 0x4000_0000, OPEN | PS, level=3)
        tables.map(half + GIB1, 0x5000)
        tables.map(half + GIB1 + MIB2, 0x60_0000, OPEN | PS | PAT_LARGE, level=2)
        tables.map(half + GIB1 + 2 * MIB2 + KIB4, 0x6000, OPEN | PS)
        tables.map(half + GIB1 + 3 * MIB2, 0x80_0000, OPEN | PS, level=2)
        tables.map(half + 2 * GIB1, 0x8000_0000, OPEN | PS | PAT_LARGE, level=3)
        tables.map(half + 3 * GIB1 + MIB2, 0x7000)
    return tables.map(TOP - KIB4, 0x8000)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("block", [1, 2, 3, 1024])
def test_pages_of_all_sizes_come_in_address_order(levels, block, monkeypatch):
    monkeypatch.setattr(leaves, "BLOCK", block)
    found = Leaves.join(walk_leaves(mixed(levels).memory, context(levels)))

    half = 0xFFFF_8000_0000_0000 if levels == 4 else 0xFF00_0000_0000_0000
    at = [0, GIB1, GIB1 + MIB2, GIB1 + 2 * MIB2 + KIB4, GIB1 + 3 * MIB2, 2 * GIB1]
    at += [3 * GIB1 + MIB2]
    assert [*at, *(half + va for va in at), 0xFFFF_FFFF_FFFF_F000] == found.va.tolist()
    assert [3, 1, 2, 1, 2, 3, 1] * 2 + [1] == found.level.tolist()
    sizes = [GIB1, KIB4, MIB2, KIB4, MIB2, GIB1, KIB4]
    assert sizes * 2 + [KIB4] == found.size.tolist()
    pas = [0x4000_0000, 0x5000, 0x60_0000, 0x6000, 0x80_0000, 0x8000_0000, 0x7000]
    assert pas * 2 + [0x8000] == found.pa.tolist()
    flags = [0x87, 0x7, 0x1087, 0x87, 0x87, 0x1087, 0x7]
    assert flags * 2 + [0x7] == found.flags.tolist()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (GIB1, 2 * GIB1, 4),
        (GIB1 - 1, GIB1, 1),
        (GIB1 - 1, GIB1 + 1, 2),
        (GIB1, GIB1, 0),
        (2 * GIB1, GIB1, 0),
        (TOP, 0, 0),
        (1 << 47, TOP - (1 << 47), 0),
        ((1 << 47) + 5, TOP - (1 << 47) + 1, 1),
        (1 << 63, TOP, 8),
        (TOP - 1, TOP, 1),
        (TOP - KIB4 - 1, TOP - KIB4, 0),
        (TOP - KIB4, TOP - KIB4 + 1, 1),
        (TOP, TOP, 0),
        (0, TOP, 15),
        (-5, 1, 1),
        (0, TOP + 5, 15),
    ],
)
def test_a_page_is_listed_if_a_byte_of_it_is_in_the_window(start, end, expected):
    assert expected == len(walked(mixed().memory, context(), start, end))


def test_an_empty_address_space_has_no_leaves():
    assert [] == walked(PageTables(ram=((0, 0x10000),)).memory, context())
    assert [] == walked(PageTables(ram=((0, 0x1000),)).memory, context())


def test_rights_come_down_from_every_level_and_follow_the_context():
    tables = PageTables().map(0, 0x5000).map(KIB4, 0x6000, P).change(0, 3, drop=RW)
    block = next(walk_leaves(tables.memory, context()))

    both = [[Rights(value) for value in block.rights(it)] for it in (context(), context(wp=False))]
    assert [("r-x", "r-x"), ("r-x", "---")] == [(it.supervisor, it.user) for it in both[0]]
    assert [("rwx", "r-x"), ("rwx", "---")] == [(it.supervisor, it.user) for it in both[1]]
