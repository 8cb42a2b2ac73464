import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.emu.report import listings
from crosswalk.emu.report.listings import Coded, Column, Marks, heading, lines, records
from crosswalk.emu.report.records import frame_record, mapping_record, range_record
from crosswalk.emu.report.text import frame_text, mapping_text, range_text
from crosswalk.walker import Mapping, Rights
from crosswalk.walker.frames import Frames
from crosswalk.walker.mappings import Ranges, coalesce, coalesce_pages, mappings
from crosswalk.walker.pages import Pages, pages, pages_of
from tests.tables import KIB4, MIB2, PS, SIZES, USED, XD, PageTables, context

CONTEXT = context()
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

all_rights = st.sampled_from([Rights(bits) for bits in (1, 3, 5, 7, 8, 9, 27, 41, 45, 59, 63)])


@st.composite
def page_rows(draw):
    """Mappings of any size with any flags, here and there next to each other."""
    found, va, pa = [], draw(st.sampled_from([0, 0xFFFF_8000_0000_0000])), 0
    for level in draw(st.lists(st.integers(1, 3), min_size=1, max_size=12)):
        size = SIZES[level]
        if draw(st.booleans()):
            pa = draw(st.integers(0, (1 << 52) // size - 1)) * size
        va, pa = -(-va // size) * size, -(-pa // size) * size % (1 << 52)
        flags = draw(st.integers(0, (1 << 64) - 1)) & ~(((1 << 52) - 1) & -KIB4) | 1
        flags |= draw(st.sampled_from([0, 1 << 12])) if level > 1 else 0
        rights = draw(all_rights)
        times, gap = draw(st.sampled_from([(1, 0), (1, 0), (4, 0), (3, 2)]))
        for _ in range(times):
            found.append(Mapping(va, pa, size, level, flags, rights))
            va += size + gap * size
        pa = (pa + size) % (1 << 52)
    return found


def text(rows, columns=(), **options):
    return b"".join(lines(rows, CONTEXT, columns, **options)).decode().split("\n")[:-1]


def documents(rows, columns=(), **options):
    return b"".join(records(rows, CONTEXT, columns, **options)).decode().split("\n")[:-1]


@QUICK
@given(page_rows())
def test_each_line_and_record_is_that_of_the_single_mapping(listed):
    rows = Pages.join(pages_of(listed))
    assert [mapping_text(each) for each in listed] == text(rows)
    assert [json.dumps(mapping_record(each)) for each in listed] == documents(rows)


@QUICK
@given(page_rows())
def test_each_line_and_record_is_that_of_the_single_range(listed):
    rows = Ranges.join(coalesce_pages(pages_of(listed), repeats=True))
    expected = list(coalesce(listed, repeats=True))
    assert [range_text(each) for each in expected] == text(rows)
    assert [json.dumps(range_record(each)) for each in expected] == documents(rows)


@QUICK
@given(
    st.lists(
        st.tuples(st.integers(0, (1 << 39) - 1), st.integers(1, 1 << 39), all_rights), min_size=1
    )
)
def test_each_line_and_record_is_that_of_the_single_range_of_frames(ranges):
    columns = (np.array(column, np.uint64) for column in zip(*ranges, strict=True))
    start, size, rights = columns
    rows = Frames(start * np.uint64(KIB4), size * np.uint64(KIB4), rights.astype(np.uint8))
    assert [frame_text(*each) for each in rows] == text(rows)
    assert [json.dumps(frame_record(*each)) for each in rows] == documents(rows)


@pytest.mark.parametrize("planted", ["_PAGE_SIZES", "_RIGHTS", "_FLAGS"])
def test_a_text_that_is_taken_from_elsewhere_shows(planted, memory, rows, monkeypatch):
    monkeypatch.setattr(listings, planted, listings.Texts(lambda number: f"{number ^ 1}"))
    assert [mapping_text(each) for each in mappings(memory, CONTEXT)] != text(rows)


def test_more_rows_than_are_put_together_at_once_are_one_list(memory, rows, monkeypatch):
    expected = text(rows), documents(rows)
    monkeypatch.setattr(listings, "_AT_ONCE", 2)
    assert 2 == len(list(lines(rows, CONTEXT)))
    assert expected == (text(rows), documents(rows))


@pytest.fixture
def memory():
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 0x6000)
    return tables.map(MIB2, 0x60_0000, USED | PS | XD, level=2).memory


@pytest.fixture
def rows(memory):
    return Pages.join(pages(memory, CONTEXT))


def named(key, width, texts, offsets=None):
    """A column of these texts, None for none."""

    def values(rows, _):
        known = [each for each in texts if each is not None]
        codes = [-1 if each is None else known.index(each) for each in texts]
        further = None if offsets is None else np.array(offsets, np.uint64)
        return Coded(np.array(codes, np.intp), known, further)

    return Column(key, key.upper(), width, values)


cells = st.lists(
    st.none() | st.sampled_from(["a", "é", "bc", 'say "é"', "much longer"]), min_size=3, max_size=3
)
further = st.lists(st.sampled_from([0, 1, 0x10, 0xFFFF_FFFF_FFFF]), min_size=3, max_size=3)


def shown(value, offset=0):
    return value and value + (f"+{offset:#x}" if offset else "")


@QUICK
@given(cells, cells, further)
def test_extra_columns_stand_behind_at_their_places_without_spaces_at_the_end(one, other, offsets):
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 0x6000)
    tables.map(MIB2, 0x60_0000, USED | PS | XD, level=2)
    listed = list(mappings(tables.memory, CONTEXT))
    rows = Pages.join(pages_of(listed))
    columns = (named("one", 6, one), named("other", 8, other, offsets))
    head = heading(Pages, columns)

    values = [[shown(each) for each in one], [*map(shown, other, offsets)]]
    expected = []
    for page, first, second in zip(listed, *values, strict=True):
        line = f"{mapping_text(page):<{head.index('ONE') - 2}}  {first or '':<6}  {second or ''}"
        expected.append(line.rstrip())
    assert expected == text(rows, columns)
    assert [{**mapping_record(page), "one": first, "other": second}
            for page, first, second in zip(listed, *values, strict=True)] == [
        json.loads(each) for each in documents(rows, columns)
    ]  # fmt: skip


def test_records_begin_with_the_root_where_there_is_one(rows):
    root = {"root": "0x1000", "mode": "4level"}
    found = [json.loads(each) for each in documents(rows, root=root)]
    assert [{**root, **mapping_record(each)} for each in rows] == found
    assert ["root", "mode", "va"] == list(found[0])[:3]


def test_rows_that_have_all_of_some_rights_are_marked(rows):
    both = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE
    found = text(rows, marks=Marks((both,), "<", ">"))
    assert [f"<{mapping_text(each)}>" if each.rights & both == both else mapping_text(each)
            for each in rows] == found  # fmt: skip
    assert {"<", "0"} == {line[0] for line in found}


def test_the_heading_names_the_columns_of_pages_ranges_and_frames():
    assert heading(Pages, ()).endswith("FLAGS")
    column = named("name", 6, [])
    assert ["PAGES", "NAME"] == heading(Ranges, (column,)).split()[-2:]
    assert heading(Frames, ()).endswith("USR")
