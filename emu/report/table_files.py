"""Listings as tables for other programs, by pyarrow: CSV, Parquet, and Arrow's IPC file.

In Parquet and Arrow addresses, sizes and flags are numbers; in CSV addresses and flags are in
hexadecimal with 0x, as in JSON. The schema is documented in docs/command-line.md.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crosswalk.emu.report.cells import hexadecimal, lengths
from crosswalk.emu.report.listings import Coded, Column, Rows, coded_cell, extra
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.frames import Frames
from crosswalk.walker.guest_pages import EptPages, GuestPages, GuestRanges
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.memory import U64
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import rwx
from crosswalk.walker.second_level import TableContext

__all__ = ["table_parts"]

_ROWS = 1 << 16
"""How many rows are written at once, at least: a row group of Parquet, a batch of Arrow."""
_MOST = 1 << 18

_VERSIONS = {
    Pages: "mappings/1",
    Ranges: "ranges/1",
    Frames: "frames/1",
    GuestPages: "guest-mappings/1",
    EptPages: "guest-mappings/1",
    GuestRanges: "guest-ranges/1",
}
"""What the metadata of a table say that it is."""

_NUMBERS = {
    Pages: ("va", "pa", "size", "level", "flags"),
    Ranges: ("va", "pa", "size", "mappings", "stride", "flags"),
    Frames: ("pa", "size"),
    GuestPages: ("gpa", "pa", "size", "level", "flags"),
    EptPages: ("gpa", "pa", "size", "level", "flags"),
    GuestRanges: ("gpa", "pa", "size", "mappings", "stride", "flags"),
}
"""The columns but rights, by what is listed."""

_ATTRIBUTES = {
    Pages: {},
    Ranges: {"mappings": "count"},
    Frames: {"pa": "start"},
    GuestPages: {"gpa": "va"},
    EptPages: {"gpa": "va"},
    GuestRanges: {"gpa": "va", "mappings": "count"},
}
"""What these are called there, where that is otherwise."""

_DICTIONARY = pa.dictionary(pa.int8(), pa.string())

_HEXADECIMAL = ("root", "va", "gpa", "pa", "flags")
"""The columns that CSV has in hexadecimal."""

_MEANINGS = {
    "root": "physical address of the root table",
    "mode": "paging mode",
    "va": "linear address of the first byte",
    "gpa": "guest-physical address of the first byte",
    "pa": "physical address of the first byte",
    "size": "bytes",
    "level": "level of the leaf: 1 is a PTE",
    "mappings": "number of pages",
    "stride": "bytes from one mapping of the page at pa to the next, 0 where pa goes on",
    "flags": "bits of the leaf (of the first page) outside its address field",
    "supervisor": "rights of the supervisor, as rwx",
    "user": "rights of user mode, as rwx",
}


def table_parts(
    form: str,
    kind: type[Rows],
    listed: Iterable[tuple[TableContext, Rows]],
    columns: Sequence[Column],
    contexts: Sequence[PagingContext],
) -> Iterator[bytes]:
    """Yield the bytes of a table, piece by piece: `form` is csv, parquet or arrow.

    A column with the root is added where there are `contexts`, one with the mode where these have
    several. Memory is bounded, however many rows there are.
    """
    schema = _schema(form, kind, columns, contexts)
    sink = _Sink()
    with _WRITERS[form](pa.PythonFile(sink, mode="w"), schema) as writer:
        for table in _grouped(
            (_batch(schema, form, context, rows, columns) for context, rows in _pieces(listed)),
            schema,
        ):
            writer.write_table(table)
            yield sink.taken()
    yield sink.taken()


def _pieces(
    listed: Iterable[tuple[TableContext, Rows]],
) -> Iterator[tuple[TableContext, Rows]]:
    for context, rows in listed:
        for at in range(0, len(rows), _MOST):
            yield context, rows.take(slice(at, at + _MOST))


def _grouped(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Yield tables of enough rows each."""
    some: list[Any] = []
    for batch in batches:
        some.append(batch)
        if sum(each.num_rows for each in some) >= _ROWS:
            yield pa.Table.from_batches(some, schema).combine_chunks()
            some = []
    if some:
        yield pa.Table.from_batches(some, schema).combine_chunks()


def _schema(
    form: str,
    kind: type[Rows],
    columns: Sequence[Column],
    contexts: Sequence[PagingContext],
) -> Any:
    fields = dict.fromkeys(["root"] if contexts else [], pa.uint64())
    if len({each.mode for each in contexts}) > 1:
        fields["mode"] = _DICTIONARY
    fields |= {key: pa.uint8() if key == "level" else pa.uint64() for key in _NUMBERS[kind]}
    fields |= {"supervisor": _DICTIONARY, "user": _DICTIONARY}
    if form == "csv":
        fields |= {key: pa.string() for key in _HEXADECIMAL if key in fields}
    found = [
        pa.field(key, what, metadata=_metadata(_MEANINGS[key])) for key, what in fields.items()
    ]
    found += [pa.field(each.key, pa.string(), metadata=_metadata(each.meaning)) for each in columns]
    return pa.schema(found, metadata={"crosswalk": _VERSIONS[kind]})


def _metadata(meaning: str) -> dict[str, str]:
    return {"description": meaning}


def _batch(
    schema: Any, form: str, context: TableContext, rows: Rows, columns: Sequence[Column]
) -> Any:
    """Return rows of one address space as a batch of the columns that the schema has."""
    values: dict[str, Any] = {
        each.key: _texts(coded) for each, coded in extra(rows, context, columns)
    }
    values |= {
        "root": np.full(len(rows), context.root, np.uint64),
        "supervisor": _coded(rows.rights & np.uint8(7), _RWX),
        "user": _coded(rows.rights >> np.uint8(3), _RWX),
    }
    if isinstance(context, PagingContext):
        values["mode"] = _coded(np.full(len(rows), _MODES.index(context.mode)), _MODES)
    for key in _NUMBERS[type(rows)]:
        values[key] = getattr(rows, _ATTRIBUTES[type(rows)].get(key, key))
    if form == "csv":
        values |= {key: _hexadecimal(values[key]) for key in _HEXADECIMAL if key in values}
    return pa.record_batch([pa.array(values[key]) for key in schema.names], schema=schema)


_MODES = [mode.value for mode in PagingMode]
_RWX = [rwx(bits) for bits in range(8)]


def _coded(codes: NDArray[Any], texts: Sequence[str]) -> Any:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int8), texts)


def _hexadecimal(values: U64) -> Any:
    digits = hexadecimal(values)
    sign = np.broadcast_to(np.frombuffer(b"0x", np.uint8), (len(values), 2))
    return _strings(np.concatenate([sign, digits], axis=1))


def _texts(coded: Coded) -> Any:
    return _strings(coded_cell(coded), coded.codes >= 0)


def _strings(cell: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None) -> Any:
    """Return the texts of a cell, null where they aren't `valid`."""
    ends = np.zeros(len(cell) + 1, np.int32)
    np.cumsum(lengths(cell), out=ends[1:])
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    flat = cell.reshape(-1)
    text = pa.py_buffer(flat[flat != 0])
    return pa.StringArray.from_buffers(len(cell), pa.py_buffer(ends), text, bits)


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def _csv(sink: Any, schema: Any) -> Any:
    from pyarrow import csv  # noqa: PLC0415  # What isn't written isn't imported.

    return csv.CSVWriter(sink, schema, write_options=csv.WriteOptions(quoting_style="needed"))


def _parquet(sink: Any, schema: Any) -> Any:
    from pyarrow import parquet  # noqa: PLC0415  # The same.

    return parquet.ParquetWriter(sink, schema)


def _arrow(sink: Any, schema: Any) -> Any:
    return pa.ipc.new_file(sink, schema)


_WRITERS: dict[str, Callable[[Any, Any], Any]] = {
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
}
