import csv
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from crosswalk.emu.report import table_files
from crosswalk.emu.report.listings import Coded, Column, records
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.mappings import Ranges, coalesce_pages
from crosswalk.walker.pages import Pages, pages
from tests.tables import MIB2, PS, US, USED, XD, PageTables, context

FORMS = ["csv", "parquet", "arrow"]
CONTEXT, OTHER = context(), context("pae")
NAMES = Column(
    "name",
    "NAME",
    6,
    lambda rows, _: Coded(
        np.arange(len(rows)) % 3 - 1, ['a "b", c', "é"], np.arange(len(rows), dtype=np.uint64)
    ),
    "what it is called",
)


@pytest.fixture
def memory():
    found = PageTables().map(MIB2, 0x60_0000, USED | PS | XD, level=2)
    for at in range(40):
        found.map(0x7000 + 0x1000 * at, 0x5000 + 0x3000 * (at // 3), USED | (US if at % 2 else XD))
    return found.memory


@pytest.fixture(params=[Pages, Ranges, Frames])
def rows(request, memory):
    if request.param is Frames:
        return collective_rights(memory, CONTEXT)
    if request.param is Ranges:
        return Ranges.join(coalesce_pages(pages(memory, CONTEXT), repeats=True))
    return Pages.join(pages(memory, CONTEXT))


def named(rows):
    """Extra columns, where there may be some."""
    return () if isinstance(rows, Frames) else (NAMES,)


def written(form, rows, columns=(), contexts=(), listed=None):
    listed = [(CONTEXT, rows)] if listed is None else listed
    return b"".join(table_files.table_parts(form, type(rows), listed, columns, contexts))


def read(form, data):
    source = pa.BufferReader(data)
    return parquet.read_table(source) if form == "parquet" else feather.read_table(source)


def rows_of(form, data):
    """The rows of a table; those of CSV are texts."""
    if form == "csv":
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return read(form, data).to_pylist()


def as_read(form, record):
    """A record of JSON as a table has it."""
    if form == "csv":
        return {key: "" if value is None else str(value) for key, value in record.items()}
    hexed = {key: int(record[key], 16) for key in ("root", "va", "pa", "flags") if key in record}
    return {**record, **hexed}


def expected(rows, columns=(), contexts=(), listed=None):
    """What JSON says of the same, with numbers where a table has numbers."""
    for context_, some in [(CONTEXT, rows)] if listed is None else listed:
        root = {"root": hex(context_.root)} if contexts else {}
        if len({each.mode for each in contexts}) > 1:
            root["mode"] = context_.mode.value
        for line in b"".join(records(some, context_, columns, root=root)).splitlines():
            record = json.loads(line)
            rights = record.pop("rights", {})
            extra = {each.key: record.pop(each.key) for each in columns}
            if "mappings" in record:
                record = {**record, "stride": record.pop("stride", 0), "flags": record.pop("flags")}
            yield {**record, **rights, **extra}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [lambda _: (), named], ids=["plain", "with names"])
def test_a_table_says_what_json_says_row_by_row(form, columns, rows):
    columns = columns(rows)
    found = rows_of(form, written(form, rows, columns))
    assert [as_read(form, each) for each in expected(rows, columns)] == found
    assert len(found) == len(rows) > 1


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_error_makes_a_table_differ_from_json(form, rows, monkeypatch):
    monkeypatch.setattr(table_files, "_RWX", table_files._RWX[::-1])
    found = rows_of(form, written(form, rows))
    assert [as_read(form, each) for each in expected(rows)] != found


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_several_roots_have_their_root_and_mode(form, memory):
    rows = Pages.join(pages(memory, CONTEXT))
    listed = [(CONTEXT, rows), (OTHER, rows.take(slice(2)))]
    both = [CONTEXT, OTHER]
    found = rows_of(form, written(form, rows, contexts=both, listed=listed))
    wanted = expected(rows, contexts=both, listed=listed)
    assert [as_read(form, each) for each in wanted] == found
    assert {"4-level", "PAE"} == {each["mode"] for each in found}


@pytest.mark.parametrize("form", FORMS)
def test_however_rows_come_the_table_is_the_same_and_its_parts_are_bounded(
    form, memory, monkeypatch
):
    rows = Pages.join(pages(memory, CONTEXT))
    monkeypatch.setattr(table_files, "_ROWS", 8)
    monkeypatch.setattr(table_files, "_MOST", 8)
    single = [(CONTEXT, rows.take(slice(at, at + 1))) for at in range(len(rows))]
    data = written(form, rows)
    assert len(rows) == len(rows_of(form, data))
    assert data == written(form, rows, listed=single)
    if form == "parquet":
        groups = parquet.ParquetFile(pa.BufferReader(data)).metadata
        assert [8] * 5 + [1] == [
            groups.row_group(at).num_rows for at in range(groups.num_row_groups)
        ]


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_list_is_a_table_without_rows(form, rows):
    data = written(form, rows, listed=[])
    assert [] == rows_of(form, data)
    names = data.decode() if form == "csv" else read(form, data).schema.names
    assert "supervisor" in names


def test_the_schema_says_what_columns_mean(rows):
    schema = read("parquet", written("parquet", rows, named(rows))).schema
    assert schema.metadata[b"crosswalk"] in {b"mappings/1", b"ranges/1", b"frames/1"}
    assert b"bytes" == schema.field("size").metadata[b"description"]
    assert pa.uint64() == schema.field("pa").type
    assert pa.dictionary(pa.int8(), pa.string()) == schema.field("user").type
    if not isinstance(rows, Frames):
        assert b"what it is called" == schema.field("name").metadata[b"description"]
        assert pa.string() == schema.field("name").type


def test_every_number_has_a_meaning():
    keys = {key for keys in table_files._NUMBERS.values() for key in keys}
    assert keys | {"root", "mode", "supervisor", "user"} == set(table_files._MEANINGS)
