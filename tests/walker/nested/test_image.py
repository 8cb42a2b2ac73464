"""Tables as an image: of just as many frames as they need, and granting what they were made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker import LimitExceeded
from crosswalk.walker.nested import image as under_test
from crosswalk.walker.nested.image import tables_image
from crosswalk.walker.protection.policy import TableKind
from tests.tables import GIB1, KIB4, MIB2
from tests.walker.nested.nested_memory import EPT, EPT_MBEC, GRANTS, PA, RWX, R, read_back

SIZES = (1, 2, 511, 512, 513, 1 << 18, (1 << 18) + 512)


@st.composite
def ranges(draw):
    """Ranges of guest-physical memory with holes, some neighbours of equal rights."""
    kind = draw(st.sampled_from(TableKind))
    found, at = [], 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.one_of(st.just(0), st.sampled_from(SIZES), st.integers(1, 1 << 19)))
        size = draw(st.one_of(st.sampled_from(SIZES), st.integers(1, 3000)))
        found.append((at * KIB4, size * KIB4, draw(st.sampled_from(GRANTS[kind]))))
        at += size
    options = {
        "kind": kind,
        "levels": draw(st.sampled_from((4, 5))),
        "offset": draw(st.sampled_from((0, KIB4, MIB2, GIB1))),
        "page1gb": draw(st.booleans()),
    }
    return found, options


def by_page(found, offset):
    """(pa, rights) of each end of what is mapped, every page of 4 KiB being too many."""
    ends = {}
    for gpa, size, rights in found:
        if rights:
            for at in {gpa, gpa + size // KIB4 // 2 * KIB4, gpa + size - KIB4}:
                ends[at] = (at + offset, rights)
    return ends


@settings(max_examples=60)
@given(ranges())
def test_an_image_grants_the_ranges_and_has_no_table_too_many(case):
    found, options = case
    data, tables = tables_image(found, PA, **options)
    assert KIB4 * tables.tables == len(data)
    words = np.frombuffer(data, "<u8").astype(np.uint64)
    pages = read_back(words, options["kind"], options["levels"])
    expected = by_page(found, options["offset"])
    said = {
        at: (pa + at - gpa, rights)
        for gpa, size, pa, rights in pages
        for at in expected
        if gpa <= at < gpa + size
    }
    assert expected == said
    assert sum(size for _, size, rights in found if rights) == sum(page[1] for page in pages)


def test_a_table_that_is_not_counted_is_found(monkeypatch):
    right = under_test._needed
    monkeypatch.setattr(under_test, "_needed", lambda *args, **more: right(*args, **more) + 1)
    data, tables = tables_image([(0, KIB4, R)], PA, kind=EPT)
    assert KIB4 * tables.tables != len(data)


def test_equal_neighbours_are_one_and_what_is_granted_nothing_is_left_out():
    apart = [(0, MIB2 - KIB4, RWX), (MIB2 - KIB4, MIB2 + KIB4, RWX), (2 * MIB2, KIB4, R & 0)]
    together = [(0, 2 * MIB2, RWX)]
    assert tables_image(together, PA, kind=EPT)[0] == tables_image(apart, PA, kind=EPT)[0]


def test_more_tables_than_the_limit_are_refused_before_they_are_made():
    terabytes = [(0, 1 << 46, GRANTS[EPT_MBEC][-1])]
    data, tables = tables_image(terabytes, PA, kind=EPT_MBEC)
    assert (129, 129 * KIB4) == (tables.tables, len(data))
    with pytest.raises(LimitExceeded, match="65,665 tables would be needed; at most 65,664 are"):
        tables_image(terabytes, PA, kind=EPT_MBEC, page1gb=False, limit=65_664)
