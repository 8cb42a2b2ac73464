"""Lists written as --format, --json, --output and --legend say."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from crosswalk.emu.cli.followed import BOTH
from crosswalk.emu.cli.output import remark, styled
from crosswalk.emu.report.legend import legend
from crosswalk.emu.report.listings import Column, Marks, Rows, heading, lines, records
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import write_parts
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.rights import Rights
from crosswalk.walker.second_level import TableContext

__all__ = ["chosen_format", "is_answer", "marked", "print_heading", "write_list"]

Listed = Iterable[tuple[TableContext, Rows]]
"""What is listed: rows of an address space, those of one after those of another."""

_TABLES = ("csv", "parquet", "arrow")


def chosen_format(options: argparse.Namespace) -> str:
    """Return the form of the list; `BadInput` for two, and for bytes on a terminal."""
    if options.json and options.format not in (None, "json"):
        raise BadInput(f"--json and --format {options.format}: choose one of them")
    form = options.format or ("json" if options.json else "text")
    if form in ("parquet", "arrow") and options.output is None and sys.stdout.isatty():
        raise BadInput(f"--format {form} is nothing for a terminal: give --output FILE")
    return str(form)


def is_answer(options: argparse.Namespace) -> bool:
    """Return whether lines for people stand on standard output, and other such lines may, too."""
    return chosen_format(options) == "text" and options.output is None


def write_list(
    options: argparse.Namespace,
    kind: type[Rows],
    listed: Listed,
    columns: Sequence[Column] = (),
    *,
    contexts: Sequence[PagingContext] = (),
) -> None:
    """Write rows of one kind, with extra columns; by root, where there are `contexts`."""
    form = chosen_format(options)
    if options.legend:
        for line in legend(kind, columns, colours=_colours(options)):
            remark(line)
    if form != "text" and issubclass(kind, Ranges):
        columns = [it for each in columns for it in each.ends or (each,)]
    if form in _TABLES:
        # pyarrow is an extra, and takes a tenth of a second to import.
        from crosswalk.emu.report.table_files import table_parts  # noqa: PLC0415

        parts = table_parts(form, kind, listed, columns, contexts)
    elif form == "json":
        parts = _records(listed, columns, contexts)
    else:
        parts = _lines(kind, listed, columns, contexts, options)
    if options.output is not None:
        write_parts(options.output, parts)
        return
    for part in parts:
        sys.stdout.flush()
        sys.stdout.buffer.write(part)


def print_heading(heading: str, options: argparse.Namespace) -> None:
    """Print the heading of columns, for people alone: on a terminal."""
    if sys.stdout.isatty() and not options.json:
        print(styled(heading, "bold"))


def marked(text: str, rights: Rights) -> str:
    """Return a line in red, on a terminal, where one privilege may write and execute."""
    if sys.stdout.isatty() and any(rights & each == each for each in BOTH):
        return styled(text, "red")
    return text


def _colours(options: argparse.Namespace) -> bool:
    """Return whether the list is for people: on a terminal."""
    return options.output is None and sys.stdout.isatty()


def _lines(
    kind: type[Rows],
    listed: Listed,
    columns: Sequence[Column],
    contexts: Sequence[PagingContext],
    options: argparse.Namespace,
) -> Iterator[bytes]:
    marks, encoding = None, "utf-8"
    if options.output is None:
        encoding = sys.stdout.encoding
    if _colours(options):
        yield f"{styled(heading(kind, columns), 'bold')}\n".encode(encoding)
        before, _, behind = styled("|", "red").partition("|")
        marks = Marks(BOTH, before, behind)
    shown, several = None, _several_modes(contexts)
    for context, rows in listed:
        if contexts and len(rows) and context is not shown:
            mode = f", {context.mode}" if several and isinstance(context, PagingContext) else ""
            yield f"root {context.root:#x}{mode}:\n".encode()
            shown = context
        yield from lines(rows, context, columns, marks=marks, encoding=encoding)


def _records(
    listed: Listed, columns: Sequence[Column], contexts: Sequence[PagingContext]
) -> Iterator[bytes]:
    several = _several_modes(contexts)
    for context, rows in listed:
        root: dict[str, Any] = {}
        if contexts:
            root["root"] = hex(context.root)
        if several and isinstance(context, PagingContext):
            root["mode"] = context.mode.value
        yield from records(rows, context, columns, root=root)


def _several_modes(contexts: Sequence[PagingContext]) -> bool:
    """Return whether there is more than one paging mode, so that each has to be named."""
    return len({context.mode for context in contexts}) > 1
