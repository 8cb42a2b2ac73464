"""Address spaces in so many rows at most, held to the mappings one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Rights, collective_rights, condensed, mappings
from crosswalk.walker.condensed import (
    Condensed,
    Form,
    condensed_frames,
)
from crosswalk.walker.condensed import (
    condensed as condense,
)
from crosswalk.walker.mappings import IGNORED
from tests.random_tables import extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    ROOT,
    USED,
    XD,
    CountingMemory,
    PageTables,
    chain,
    context,
)

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = 1 << 20


def rows_of(rows):
    names = list(Condensed.__slots__)
    columns = [getattr(rows, name).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def told(row):
    """The pages that a row says there are, each as (va, pa, size, flags, rights)."""
    page = 1 << row["shift"]
    spread = row["size"] - page
    step = spread // max(row["count"] - 1, 1)
    for at in range(row["count"]):
        pa = row["pa"] + (at * page if row["form"] == Form.RANGE else 0)
        yield row["va"] + at * step, pa, page, row["flags"] & ~IGNORED, row["rights"]


def listed(tables):
    return [
        (each.va, each.pa, each.size, each.flags & ~IGNORED, int(each.rights))
        for each in mappings(tables.memory, tables.context)
    ]


def hold_to(rows, pages):
    """Hold rows to the mappings that they stand for: every one lies in one row, as that says."""
    left = sorted(pages)
    for row in rows_of(rows):
        inside = [each for each in left if row["va"] <= each[0] < row["va"] + row["size"]]
        left = [each for each in left if not row["va"] <= each[0] < row["va"] + row["size"]]
        assert row["count"] == len(inside)
        assert row["mapped"] == sum(size for _, _, size, _, _ in inside)
        assert row["rights"] == np.bitwise_or.reduce([each[4] for each in inside])
        assert row["pa"] == min(pa for _, pa, _, _, _ in inside)
        assert row["pa_end"] == max(pa + size for _, pa, size, _, _ in inside)
        same = len({each[4] for each in inside}) == 1
        if row["form"] >= Form.FOLDED:
            assert (Form.FOLDED if same else Form.MIXED) == row["form"]
            sizes = {size for _, _, size, _, _ in inside}
            assert (sizes.pop().bit_length() - 1 if len(sizes) == 1 else 0) == row["shift"]
        else:
            assert [(*each[:3], *each[4:]) for each in inside] == [
                (*each[:3], *each[4:]) for each in told(row)
            ]
    assert [] == left


@QUICK
@given(tables=extended_tables())
def test_rows_hold_exactly_the_mappings(tables):
    rows, folding = condense(tables.memory, tables.context, MANY)
    assert (0, 0, 0) == folding
    assert listed(tables) == [page for row in rows_of(rows) for page in told(row)]
    hold_to(rows, listed(tables))


@QUICK
@given(tables=extended_tables(), most=st.integers(1, 12))
def test_what_is_folded_stands_for_all_of_it(tables, most):
    rows, folding = condense(tables.memory, tables.context, most)
    hold_to(rows, listed(tables))
    folded = [row for row in rows_of(rows) if row["form"] >= Form.FOLDED]
    assert (len(folded), sum(row["count"] for row in folded)) == folding[:2]
    assert max((row["size"] for row in folded), default=0) == folding.span


@QUICK
@given(tables=extended_tables(), opened=st.sampled_from([4, 64, 1 << 22]))
def test_what_is_not_listed_stands_for_all_of_it(tables, opened):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(condensed, "LISTED", -1)
        patch.setattr(condensed, "_OPENED", opened)
        rows, _ = condense(tables.memory, tables.context, MANY)
    hold_to(rows, listed(tables))


def test_a_row_that_is_wrong_is_noticed():
    tables = PageTables().map(0x1000, 0x5000, OPEN).map(0x2000, 0x9000, OPEN)
    rows, _ = condense(tables.memory, context(), MANY)
    pages = [
        (each.va, each.pa, each.size, each.flags & ~IGNORED, int(each.rights))
        for each in mappings(tables.memory, context())
    ]
    hold_to(rows, pages)
    rows.pa[1] += np.uint64(KIB4)
    with pytest.raises(AssertionError):
        hold_to(rows, pages)


def forms(tables, most=MANY):
    rows, folding = condense(tables.memory, context(), most)
    return Counter(Form(row["form"]).name for row in rows_of(rows)), rows, folding


def test_tables_that_lead_to_no_mapping_are_looked_at_once():
    # 512 ** 4 ways, all of which end in an empty table.
    memory = CountingMemory(chain(5, 0))
    rows, folding = condense(memory, context(5), MANY)
    assert (0, (0, 0, 0)) == (len(rows), folding)
    assert memory.read_tables < 100


def test_pages_of_one_frame_are_one_row():
    tables = PageTables()
    for at in range(100):
        tables.map(at * KIB4, 0x5000, OPEN)
    found, rows, _ = forms(tables)
    assert {"REPEAT": 1} == found
    assert [(100 * KIB4, 0x5000, 0x6000)] == [
        (row["size"], row["pa"], row["pa_end"]) for row in rows_of(rows)
    ]


def test_pages_of_one_frame_at_equal_distances_are_one_row():
    tables = PageTables()
    for at in range(100):
        tables.map(at * 16 * KIB4, 0x5000, OPEN)
    tables.map(100 * 16 * KIB4 + KIB4, 0x5000, OPEN)  # Not at that distance.
    tables.map(GIB1, 0x6000, OPEN)
    found, rows, _ = forms(tables)
    assert {"STRIDE": 1, "RANGE": 2} == found
    assert (100, 99 * 16 * KIB4 + KIB4) == (rows.count[0], rows.size[0])


def test_the_busiest_parts_are_folded_and_others_stay():
    tables = PageTables()
    for at in range(512):
        tables.map(MIB2 + at * KIB4, (at * 37 % 512) * KIB4, OPEN)
    for at in range(8):
        tables.map(GIB1 + at * 2 * KIB4, 0x5000 + at * 3 * KIB4, OPEN)
    found, rows, folding = forms(tables, most=16)
    assert {"FOLDED": 1, "RANGE": 8} == found
    assert (1, 512, MIB2) == folding
    assert (MIB2, MIB2) == (rows.va[0], rows.size[0])
    _, rows, folding = forms(tables, most=1)
    assert 1 == len(rows)


def test_pages_that_differ_in_rights_are_folded_as_mixed():
    tables = PageTables()
    for at in range(64):
        tables.map(at * KIB4, 0x5000, OPEN | (XD if at % 2 else 0))
    found, rows, _ = forms(tables, most=4)
    assert {"MIXED": 1} == found
    assert Rights.USER_EXECUTE & int(rows.rights[0])


def test_an_address_space_of_two_to_the_36th_mappings_takes_few_rows():
    memory = chain(4, ROOT + 3 * KIB4 | USED)
    rows, _ = condense(memory, context(), 1000)
    assert 1 << 36 == int(rows.count.sum())
    assert 1 << 48 == int(rows.mapped.sum())
    assert len(rows) <= 1000


def test_what_a_repeated_table_leaves_alone_is_listed():
    """A shadow of one frame that is mapped 2^27 times, and a few pages beside it."""
    tables = PageTables()
    tables.map(0x1000, 0x7000, OPEN).map(0x3000, 0x9000, OPEN | XD)
    table = 0x80_0000
    for at in range(512):
        tables.entries[table + 8 * at] = 0x5000 | USED
        tables.entries[table + KIB4 + 8 * at] = table | USED
    for at in range(256, 512):
        tables.entries[ROOT + 8 * at] = table + 2 * KIB4 | USED
    for at in range(512):
        tables.entries[table + 2 * KIB4 + 8 * at] = table + KIB4 | USED
    rows, folding = condense(tables.memory, context(), MANY)
    assert [1, 1, 1 << 35] == rows.count.tolist()
    assert [Form.RANGE, Form.RANGE, Form.REPEAT] == rows.form.tolist()
    assert 0 == folding.rows


@QUICK
@given(tables=extended_tables(), most=st.integers(1, 8))
def test_collective_rights_are_folded_as_mappings_are(tables, most):
    frames = collective_rights(tables.memory, tables.context)
    whole, folding = condensed_frames(frames, MANY)
    assert list(frames) == [
        (row["va"], row["size"], Rights(row["rights"])) for row in rows_of(whole)
    ]
    assert 0 == folding.rows
    few, _ = condensed_frames(frames, most)
    assert int(frames.size.sum()) == int(few.mapped.sum())


def test_no_mappings_are_no_rows():
    rows, folding = condense(PageTables().memory, context(), 10, blocks=[])
    assert (0, (0, 0, 0)) == (len(rows), folding)


def test_large_pages_keep_their_size():
    tables = PageTables().map(0, 0, OPEN | PS, level=2).map(MIB2, MIB2, OPEN)
    _, rows, _ = forms(tables)
    assert [21, 12] == rows.shift.tolist()
