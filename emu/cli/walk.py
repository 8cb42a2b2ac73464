"""`walk`: what is mapped."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from crosswalk.emu.cli.followed import BOTH, follow, write_summary
from crosswalk.emu.cli.names import chosen_names, name_columns, region_kind, shown_names
from crosswalk.emu.cli.output import emit, remark, styled
from crosswalk.emu.cli.selection import chosen_selection
from crosswalk.emu.cli.sources import chosen_range, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.cli.watch import watch_walk
from crosswalk.emu.report.listings import Column, heading, lines, records
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.text import (
    count_text,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.mappings import Ranges, coalesce_pages
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import Rights
from crosswalk.walker.symbols import NO_NAMES, Names

__all__ = ["list_pages", "marked", "print_heading", "run_walk"]

_LIMIT = 10_000_000


def run_walk(options: argparse.Namespace) -> int:
    """List the mappings of SOURCE, and return the exit status."""
    if options.watch is not None:
        return watch_walk(options)
    spaces = chosen_spaces(options, listing=True)
    source = spaces.source
    report_source(source)
    if options.save_case is not None and len(spaces.contexts) > 1:
        raise BadInput("--save-case: a case has one root: name one with --roots, or --cr3")
    write_summary(options, follow(options, spaces))
    if options.save_case is not None:
        write_file(options.save_case, dump_case(structures_case(source.memory, source.context)))
    start, end = chosen_range(options)
    names = chosen_names(options, spaces)
    selection = chosen_selection(options, spaces, names)
    sections = selection.sections(source.memory, spaces.contexts, start, end)
    list_pages(sections, options, spaces, fold=options.coalesce, names=shown_names(options, names))
    return 0


def list_pages(
    sections: Iterable[tuple[PagingContext, Iterator[Pages]]],
    options: argparse.Namespace,
    spaces: Spaces,
    *,
    fold: bool = False,
    names: Names = NO_NAMES,
) -> None:
    """Print the mappings of each root, or with `fold` their ranges; with `names` what they are.

    A range doesn't go on from one region into another then.

    `LimitExceeded` for too many, unless a limit was given.
    """
    kind, noun = (Ranges, "range") if fold else (Pages, "mapping")
    limit = _LIMIT if options.limit is None else options.limit
    count, more = 0, False
    columns = name_columns(names)
    several = len({context.mode for context in spaces.contexts}) > 1
    print_heading(heading(kind, columns), options)
    for context, found in sections:
        root = _root_record(context, several=several) if spaces.named else {}
        title = f"root {context.root:#x}{f', {context.mode}' if several else ''}:"
        shown = not spaces.named
        blocks: Iterator[Pages | Ranges] = (
            coalesce_pages(found, kind=region_kind(names)) if fold else found
        )
        for block in blocks:
            more = len(block) > limit - count
            rows = block.take(slice(limit - count)) if more else block
            if len(rows) and not shown and not options.json:
                print(title)
                shown = True
            _print_rows(rows, context, columns, root if options.json else None)
            count += len(rows)
            if more:
                break
        if more:
            break
    if more and options.limit is None:
        again = "--roots names fewer" if spaces.named else "--start picks up"
        raise LimitExceeded(f"stopped after {limit:,} lines; --limit N goes on, {again}")
    remark(f"{count_text(count, noun)}{', and there are more' if more else ''}")


def _print_rows(
    rows: Pages | Ranges,
    context: PagingContext,
    columns: Sequence[Column],
    root: dict[str, Any] | None,
) -> None:
    """Print a line for each row; a record where there is a `root`, with what is in that."""
    if root is not None:
        for record in records(rows, context, columns):
            emit({**root, **record})
        return
    for text, rights in zip(lines(rows, context, columns), rows.rights.tolist(), strict=True):
        print(marked(text, Rights(rights)))


def _root_record(context: PagingContext, *, several: bool) -> dict[str, Any]:
    """Return what names a root in records, its mode included where there are `several`."""
    root = {"root": hex(context.root)}
    return {**root, "mode": context.mode.value} if several else root


def print_heading(heading: str, options: argparse.Namespace) -> None:
    """Print the heading of columns, for people alone: on a terminal."""
    if sys.stdout.isatty() and not options.json:
        print(styled(heading, "bold"))


def marked(text: str, rights: Rights) -> str:
    """Return a line in red, on a terminal, where one privilege may write and execute."""
    if sys.stdout.isatty() and any(rights & each == each for each in BOTH):
        return styled(text, "red")
    return text
