"""`map`: a picture of address spaces, as one page of HTML."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.memory_types import chosen_types
from crosswalk.emu.cli.names import chosen_names, known_regions
from crosswalk.emu.cli.output import command_line, emit, progress, remark
from crosswalk.emu.cli.parser import release
from crosswalk.emu.cli.selection import Selection, chosen_selection, chosen_words
from crosswalk.emu.cli.sources import report_source, source_words
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.report.map.page import Finding, MapPage, Spot, map_html
from crosswalk.emu.report.map.views import View, memory_view, space_view, type_colouring
from crosswalk.emu.report.source import source_text, unfollowed_lines
from crosswalk.emu.report.text import count_text, frame_text, size_text
from crosswalk.walker.aliases import writable_and_executable
from crosswalk.walker.condensed import (
    Folding,
    condensed,
    condensed_frames,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.mapped_tables import mapped_tables, table_names, writable_tables
from crosswalk.walker.mappings import Mapping, RootedMapping
from crosswalk.walker.memory_types import MemoryTypes
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.spaces import space_key
from crosswalk.walker.symbols import Names

__all__ = ["run_map"]

_MOST = 500_000
"""The most rows of a page, those of all address spaces together, and those of physical memory."""
_FINDINGS = 64
"""The most findings of each kind that a page lists."""
_ALIASES = 4
_COMPARED = 100_000
"""The most physical ranges of which is said what an assumed CR4 changes: it is slow."""
_RANGE = " --start START --end END"
"""What the page puts the addresses of a row into."""


def run_map(options: argparse.Namespace) -> int:
    """Write the map of SOURCE, and return the exit status."""
    spaces = chosen_spaces(options, listing=True)
    report_source(spaces.source)
    types, source = chosen_types(options, spaces.source)
    spaces = replace(spaces, source=source)
    names = chosen_names(options, spaces)
    if options.symbols is None:
        names = known_regions(options, spaces)
    followed = follow(options, spaces)
    selection = chosen_selection(options, spaces, names, types=types)
    page, foldings = _page(options, followed, names, types, selection)
    data = map_html(page)
    write_file(options.output, data)
    if options.json:
        emit(_summary(page, foldings, followed, len(data)))
    for view, folding in foldings:
        if folding.rows:
            remark(f"{view.title}: {_folded_text(folding, view)}")
    remark(f"{options.output}: {size_text(len(data))}, {count_text(len(page.findings), 'finding')}")
    return 0


def _page(
    options: argparse.Namespace,
    followed: Followed,
    names: Names,
    types: MemoryTypes,
    selection: Selection,
) -> tuple[MapPage, list[tuple[View, Folding]]]:
    """Return the page, and how each of its views was folded."""
    spaces = followed.spaces
    source = spaces.source
    name = PurePath(one_line(source.name)).name or "SOURCE"
    again = source_words(options)
    memory, contexts = source.memory, spaces.contexts
    most = max(_MOST // len(contexts), 1)
    foldings: list[tuple[View, Folding]] = []
    filters = chosen_words(options)
    for context, found in selection.sections(memory, contexts):
        root = f"root {context.root:#x}"
        blocks = None if selection.everything else found
        with progress(f"mappings of {root}", lines=True) as report:
            rows, folding = condensed(memory, context, most, blocks=blocks, progress=report)
        own = ["--roots", f"{context.root:#x}"] if spaces.named else []
        command = command_line(["crosswalk", "walk", *again, *own, *filters])
        view = space_view(
            context,
            rows,
            folding,
            title=f"{root}, {context.mode} paging",
            command=f"{command}{_RANGE}",
            colourings=[type_colouring(types, rows)],
        )
        view.beside = len(contexts)
        foldings.append((view, folding))
    frames = collective_rights(memory, spaces.walked)
    rows, folding = condensed_frames(frames, _MOST)
    roots = ["--roots", options.roots] if spaces.named else []
    command = command_line(["crosswalk", "frames", *again, *roots])
    foldings.append((memory_view(rows, folding, command=command), folding))
    findings, verdicts = _findings(followed, frames, contexts)
    title = options.title or f"Address space{'s' if len(contexts) > 1 else ''} of {name}"
    page = MapPage(
        title=one_line(title),
        about=source_text(source),
        made_by=release(),
        views=[view for view, _ in foldings],
        names=names,
        findings=findings,
        verdicts=verdicts,
        notes=list(_notes(followed, foldings, names, filters)),
        of_command=f"{command} --of PA",
    )
    return page, foldings


def _folded_text(folding: Folding, view: View) -> str:
    """Return what was folded, and what lists it."""
    return (
        f"{count_text(folding.mappings, view.noun)} are folded to "
        f"{count_text(folding.rows, 'row')} of up to {size_text(folding.span)}; "
        f"{view.command.removesuffix(_RANGE)} lists them"
    )


def _notes(
    followed: Followed,
    foldings: Sequence[tuple[View, Folding]],
    names: Names,
    filters: Sequence[str],
) -> Iterable[str]:
    source = followed.source
    if filters:
        yield (
            f"Of the address spaces only the mappings that are chosen by {command_line(filters)}; "
            "physical memory and findings are those of all mappings."
        )
    yield (
        "Lines wrap like text. Lengths up to a limit, which grows with the zoom, are true to "
        "scale; longer ones, and gaps, are shortened, unless “true to scale” is chosen."
    )
    for view, folding in foldings:
        if folding.rows:
            yield f"{view.title}: {_folded_text(folding, view)}."
    if names.source:
        yield f"Names: {names.source}."
    if source.assumed:
        yield f"Assumed: {', '.join(source.assumed)}."
    yield from (one_line(text) for text in source.remarks)
    yield from (one_line(text) for text in unfollowed_lines(source, followed.unfollowed))
    if followed.spaces.named or followed.spaces.known is not None:
        yield f"{followed.spaces.text}."


def _findings(
    followed: Followed, frames: Frames, contexts: Sequence[PagingContext]
) -> tuple[list[Finding], list[str]]:
    """Return what is listed as findings, and the verdicts about all of each kind."""
    memory = followed.source.memory
    places = {space_key(context): number for number, context in enumerate(contexts)}
    both = (frames.rights & int(WRITES) != 0) & (frames.rights & int(EXECUTES) != 0)
    some = frames.take(both)
    few = some.take(slice(_FINDINGS))
    listed = []
    for each in writable_and_executable(memory, contexts, few, aliases=_ALIASES):
        how = "within one privilege" if each.within_one_privilege else "by different privileges"
        found_text = " ".join(frame_text(each.pa, each.size, each.rights).split())
        text = f"W^X: {found_text}, {how}"
        found = _spots(each.pa, (*each.writers, *each.executors), places)
        spots = (*found, Spot(len(contexts), each.pa))
        listed.append(Finding(text, spots, each.within_one_privilege))
    verdicts = []
    if len(some):
        total = size_text(int(some.size.sum()))
        first = f", the first {len(few):,} listed" if len(few) < len(some) else ""
        verdicts.append(
            f"W^X: {count_text(len(some), 'range')}, {total}, writable and executable{first}."
        )
    else:
        verdicts.append(f"W^X: {followed.no_frame()}.")
    more = followed.more()
    if len(some) and more is not None:
        verdicts.append(f"W^X: {more}.")
    assumption = _assumption(followed, frames) if len(some) else None
    if assumption is not None:
        verdicts.append(f"W^X: {assumption}.")
    return [*listed, *_table_findings(followed, frames, contexts, places, verdicts)], verdicts


def _assumption(followed: Followed, frames: Frames) -> str | None:
    """Return how much of what is found is found by an assumption, or that it wasn't looked at."""
    if len(frames) <= _COMPARED:
        return followed.assumption(frames)
    if not any(each.startswith("cr4 ") for each in followed.source.assumed):
        return None
    return (
        f"CR4 is assumed; what other bits of it would change isn't known here of more than "
        f"{_COMPARED:,} physical ranges: crosswalk frames says it"
    )


def _table_findings(
    followed: Followed,
    frames: Frames,
    contexts: Sequence[PagingContext],
    places: dict[tuple[Any, ...], int],
    verdicts: list[str],
) -> Iterable[Finding]:
    """Yield the page tables that user mode may write; add the verdict about all tables."""
    memory = followed.source.memory
    tables = mapped_tables(memory, contexts, frames)
    user = int(tables.granting(Rights.USER_WRITE).sum())
    supervisor = int(tables.granting(Rights.SUPERVISOR_WRITE).sum())
    verdicts.append(
        f"Page tables: {user:,} of {count_text(len(tables), 'frame')} writable by user mode, "
        f"{supervisor:,} by the supervisor."
    )
    found = writable_tables(memory, contexts, tables, Rights.USER_WRITE, aliases=_ALIASES)
    for number, each in enumerate(found):
        if number == _FINDINGS:
            return
        name = "/".join(table_names(each.levels))
        text = f"{name} at {each.pa:#x} is writable by user mode"
        spots = (*_spots(each.pa, each.writers, places), Spot(len(contexts), each.pa))
        yield Finding(text, spots, serious=True)


def _spots(
    pa: int, mappings: Iterable[Mapping], places: dict[tuple[Any, ...], int]
) -> dict[Spot, None]:
    """Return where mappings have a physical address, each once, in their order.

    One that begins behind it is named by its beginning.
    """
    return {
        Spot(places[space_key(each.context)], each.va + max(pa - each.pa, 0)): None
        for each in mappings
        if isinstance(each, RootedMapping)
    }


def _summary(
    page: MapPage, foldings: Sequence[tuple[View, Folding]], followed: Followed, size: int
) -> dict[str, Any]:
    return {
        "bytes": size,
        "views": [
            {
                "title": view.title,
                "rows": len(view.rows),
                "folded": {"rows": folding.rows, "mappings": folding.mappings},
            }
            for view, folding in foldings
        ],
        "findings": [each.text for each in page.findings],
        "verdicts": list(page.verdicts),
        **followed.record(),
    }
