import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import LimitExceeded, Rights, collective_rights
from crosswalk.walker.protection import overlay, regions
from crosswalk.walker.protection.regions import linear_regions
from tests.random_tables import address_spaces, random_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    MODES,
    OPEN,
    PS,
    ROOT,
    RW,
    USED,
    XD,
    P,
    PageTables,
    chain,
    context,
)
from tests.walker.protection.frame_by_frame import region_numbers, regions_by_frame

QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, database=None, phases=[Phase.generate])
DIRECT = 0xFFFF_8880_0000_0000


def linear(memory, context, count=4):
    return linear_regions(memory, context, collective_rights(memory, context), count)


def same(tables, count=4):
    return same_in(tables.memory, tables.context, count)


def same_in(memory, context, count):
    found = [region_numbers(each) for each in linear(memory, context, count)]
    return regions_by_frame(memory, context, count) == found


@QUICK
@given(tables=random_tables(MODES, most=3), count=st.integers(0, 5))
def test_regions_are_those_that_going_frame_by_frame_finds(tables, count):
    assert same(tables, count)


@QUICK
@given(spaces=address_spaces(), count=st.integers(0, 5), merged=st.integers(1, 3))
def test_regions_of_several_address_spaces_are_those_of_going_frame_by_frame(spaces, count, merged):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_MERGED", merged)
        assert same_in(*spaces, count)


def no_run_is_merged(runs):
    return tuple(np.concatenate(column) for column in zip(*runs, strict=True))


def test_bytes_that_each_root_counts_are_found(monkeypatch):
    monkeypatch.setattr(regions, "_merged", no_run_is_merged)
    spaces = find(address_spaces(), lambda it: not same_in(*it, 4), settings=SEARCH)
    monkeypatch.undo()
    assert same_in(*spaces, 4)


def test_what_roots_share_is_looked_at_once_in_many_address_spaces(monkeypatch):
    tables = kernel()
    roots = [0x10_0000 + at * KIB4 for at in range(50)]
    for root in roots:
        tables.entries |= {root + 8 * at: tables.entries[ROOT + 8 * at] for at in (273, 511)}
    spaces = [context(), *(context(root=root) for root in roots)]
    monkeypatch.setattr(regions, "MAX_MAPPINGS", 5)
    direct, *_ = linear(tables.memory, spaces)
    assert (DIRECT, 51 * 2, 2 * MIB2) == (direct.offset, direct.mappings, direct.ram)

    monkeypatch.setattr(regions, "MAX_MAPPINGS", 4)
    with pytest.raises(LimitExceeded, match="5 mappings"):
        linear(tables.memory, spaces)


def no_offset(leaves):
    return leaves.va


def no_large_pages(ram, pa):
    return original_below(ram, np.minimum(pa, np.uint64(0x2000)))


def all_alike(leaves):
    return original_keys(leaves) | np.uint64(7)


original_below, original_keys = overlay.ram_below, regions.page_keys


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [("_offsets", no_offset), ("ram_below", no_large_pages), ("page_keys", all_alike)],
    ids=["no offset", "memory above not counted", "rights too many"],
)
def test_a_rule_broken_is_found(rule, wrong, monkeypatch):
    monkeypatch.setattr(regions, rule, wrong)
    tables = find(random_tables(most=3), lambda it: not same(it), settings=SEARCH)
    monkeypatch.undo()
    assert same(tables)


def kernel():
    """A direct map that writes, an image whose first page it is in the way of, a user's page."""
    tables = PageTables().map(DIRECT, 0, P | RW | XD | PS, level=2)
    tables.map(DIRECT + MIB2, MIB2, P | RW | XD | PS, level=2)
    image = 0xFFFF_FFFF_8000_0000
    tables.map(image, 0x5000, P).map(image + KIB4, 0x6000, P | RW | XD)
    return tables.map(0x40_0000, 0x9000, OPEN)


def test_the_direct_map_comes_first_and_what_dropping_it_gains_is_said():
    tables = kernel()
    direct, image, user = linear(tables.memory, context())
    assert (DIRECT, DIRECT, DIRECT + 2 * MIB2) == (direct.offset, direct.va, direct.end)
    assert (2, 2 * MIB2, 2 * MIB2 - 3 * KIB4) == (direct.mappings, direct.ram, direct.alone)
    # Of the image's text, that is: its data is written by others anyway.
    assert (KIB4, 0, KIB4) == (direct.writes, direct.executes, direct.both)
    assert ((0x5000, KIB4, Rights(7), Rights(5)),) == direct.largest

    assert (2 * KIB4, 0, 0, KIB4, KIB4) == (
        image.ram, image.alone, image.writes, image.executes, image.both,
    )  # fmt: skip
    assert (KIB4, 0, 0, KIB4) == (user.ram, user.alone, user.writes, user.executes)


def test_of_two_that_map_as_much_the_lower_offset_comes_first():
    tables = PageTables().map(GIB1, 0x5000).map(MIB2, 0x5000).map(2 * GIB1, 0x8000)
    found = [each.offset for each in linear(tables.memory, context())]
    assert [MIB2 - 0x5000, GIB1 - 0x5000, 2 * GIB1 - 0x8000] == found


def test_memory_that_is_not_ram_counts_for_nothing():
    tables = PageTables(ram=((0, 1 << 20),)).map(0, 0x5000)
    tables.map(DIRECT, GIB1, OPEN | PS, level=3)
    (region,) = linear(tables.memory, context())
    assert (2**64 - 0x5000, KIB4, KIB4) == (region.offset, region.ram, region.alone)


def test_where_nothing_is_mapped_there_are_no_regions():
    assert [] == linear(PageTables().memory, context())


def test_a_bomb_is_refused_before_it_is_unfolded():
    memory = chain(4, ROOT | USED)
    with pytest.raises(LimitExceeded, match="68,719,476,736 mappings"):
        linear(memory, context())
