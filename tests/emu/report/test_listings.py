import numpy as np
import pytest

from crosswalk.emu.report.listings import Coded, Column, heading, lines, records
from crosswalk.emu.report.records import mapping_record, range_record
from crosswalk.emu.report.text import mapping_text, range_text
from crosswalk.walker.mappings import Ranges, coalesce, coalesce_pages, mappings
from crosswalk.walker.pages import Pages, pages
from tests.tables import MIB2, PS, USED, XD, PageTables, context

CONTEXT = context()


@pytest.fixture
def memory():
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 0x6000)
    return tables.map(MIB2, 0x60_0000, USED | PS | XD, level=2).memory


@pytest.fixture
def rows(memory):
    return Pages.join(pages(memory, CONTEXT))


NAMES = Column("name", "NAME", 6, lambda rows, _: Coded(np.arange(len(rows)) - 1, ["a", "b"]))


def test_lines_without_extra_columns_are_those_of_single_mappings(memory, rows):
    expected = [mapping_text(each) for each in mappings(memory, CONTEXT)]
    assert expected == list(lines(rows, CONTEXT, ()))
    assert [mapping_record(each) for each in mappings(memory, CONTEXT)] == list(
        records(rows, CONTEXT, ())
    )


def test_ranges_have_lines_and_records_of_their_own(memory):
    folded = Ranges.join(coalesce_pages(pages(memory, CONTEXT)))
    expected = list(coalesce(mappings(memory, CONTEXT)))
    assert 2 == len(expected)
    assert [range_text(each) for each in expected] == list(lines(folded, CONTEXT, ()))
    assert [range_record(each) for each in expected] == list(records(folded, CONTEXT, ()))


def test_an_extra_column_stands_behind_at_one_place_and_is_null_where_there_is_none(rows):
    found = list(lines(rows, CONTEXT, (NAMES,)))
    head = heading(Pages, (NAMES,))
    assert mapping_text(next(iter(rows))) == found[0]
    assert ["a", "b"] == [line[head.index("NAME") :] for line in found[1:]]
    assert [None, "a", "b"] == [each["name"] for each in records(rows, CONTEXT, (NAMES,))]


def test_the_heading_names_the_columns_of_pages_and_of_ranges():
    assert heading(Pages, ()).endswith("FLAGS")
    assert ["PAGES", "NAME"] == heading(Ranges, (NAMES,)).split()[-2:]
