"""`walk`: what is mapped."""

import argparse
from collections.abc import Iterable, Iterator

from crosswalk.emu.cli.followed import follow, write_summary
from crosswalk.emu.cli.host_options import names_host
from crosswalk.emu.cli.listing_output import chosen_format, write_list
from crosswalk.emu.cli.memory_types import type_column, type_kind, typed_spaces
from crosswalk.emu.cli.names import chosen_names, name_columns, region_kind, shown_names
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.selection import chosen_selection
from crosswalk.emu.cli.software import list_states, refuse_with_software
from crosswalk.emu.cli.sources import chosen_range, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.cli.watch import watch_walk
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.text import count_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.mappings import Ranges, coalesce_pages, joined_kinds
from crosswalk.walker.memory_types import MemoryTypes
from crosswalk.walker.pages import Pages
from crosswalk.walker.second_level import Space
from crosswalk.walker.symbols import NO_NAMES, Names

__all__ = ["limited", "list_pages", "run_walk"]

_LIMIT = 10_000_000


def run_walk(options: argparse.Namespace) -> int:
    """List the mappings of SOURCE, and return the exit status."""
    if names_host(options):
        # What other listings don't need is not imported for them.
        from crosswalk.emu.cli.host_walk import walk_host  # noqa: PLC0415

        return walk_host(options)
    if options.software is not None:
        refuse_with_software(options)
    if options.expect is not None:
        # What lists nothing else needs is not imported for a listing.
        from crosswalk.emu.cli.expecting import run_expected  # noqa: PLC0415

        return run_expected(options)
    if options.watch is not None:
        return watch_walk(options)
    chosen_format(options)
    spaces = chosen_spaces(options, listing=True)
    report_source(spaces.source)
    spaces, types = typed_spaces(options, spaces)
    source = spaces.source
    if options.save_case is not None and len(spaces.contexts) > 1:
        raise BadInput("--save-case: a case has one root: name one with --roots, or --cr3")
    names = chosen_names(options, spaces)
    shown = shown_names(options, names)
    write_summary(options, follow(options, spaces, shown))
    if options.save_case is not None:
        write_file(options.save_case, dump_case(structures_case(source.memory, source.context)))
    if options.software is not None:
        return list_states(options, spaces)
    start, end = chosen_range(options)
    selection = chosen_selection(options, spaces, names, types=types)
    edges = shown.edges if options.coalesce else None
    sections = selection.sections(source.memory, spaces.contexts, start, end, edges=edges)
    shown_types = types if options.types else None
    list_pages(sections, options, spaces, fold=options.coalesce, names=shown, types=shown_types)
    return 0


def list_pages(
    sections: Iterable[tuple[PagingContext, Iterator[Pages]]],
    options: argparse.Namespace,
    spaces: Spaces,
    *,
    fold: bool = False,
    names: Names = NO_NAMES,
    types: MemoryTypes | None = None,
) -> None:
    """Write the mappings of each root, or with `fold` their ranges, repeats of one page included.

    With `names` what they are, and with `types` their memory types. A range doesn't go on from one
    region into another then, nor from one memory type.
    """
    apart = joined_kinds(region_kind(names), None if types is None else type_kind(types))
    found: Iterator[tuple[PagingContext, Pages | Ranges]] = (
        (context, block)
        for context, blocks in sections
        for block in (coalesce_pages(blocks, kind=apart, repeats=True) if fold else blocks)
    )
    contexts = spaces.contexts if spaces.named else ()
    listed = limited(found, options, "range" if fold else "mapping", rooted=spaces.named)
    kind = Ranges if fold else Pages
    columns = [*name_columns(names), *([] if types is None else [type_column(types)])]
    write_list(options, kind, listed, columns, contexts=contexts)


def limited(
    listed: Iterable[tuple[Space, Pages | Ranges]],
    options: argparse.Namespace,
    noun: str,
    *,
    rooted: bool,
) -> Iterator[tuple[Space, Pages | Ranges]]:
    """Yield no more rows than --limit says, and report how many there are.

    `LimitExceeded` for too many, unless a limit was given.
    """
    limit = _LIMIT if options.limit is None else options.limit
    count, more = 0, False
    for context, block in listed:
        more = len(block) > limit - count
        rows = block.take(slice(limit - count)) if more else block
        yield context, rows
        count += len(rows)
        if more:
            break
    if more and options.limit is None:
        again = "--roots names fewer" if rooted else "--start picks up"
        raise LimitExceeded(f"stopped after {limit:,} lines; --limit N goes on, {again}")
    remark(f"{count_text(count, noun)}{', and there are more' if more else ''}")
