"""`walk` with --eptp or --ncr3: what a host's tables map for a guest."""

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from crosswalk.emu.cli.host_tables import (
    HostSpace,
    chosen_space,
    refuse_others,
    write_host_summary,
)
from crosswalk.emu.cli.listing_options import FILTERS, FORMATS, PAGE_SIZES
from crosswalk.emu.cli.listing_output import chosen_format, write_list
from crosswalk.emu.cli.selection import frame_of, plain_conditions, reaching
from crosswalk.emu.cli.sources import chosen_range
from crosswalk.emu.cli.walk import limited
from crosswalk.emu.report.host_tables import TYPE_NAMES
from crosswalk.emu.report.listings import Coded, Column
from crosswalk.walker.chosen import Condition, Spans, chosen_pages
from crosswalk.walker.errors import BadInput
from crosswalk.walker.guest_pages import EptPages, GuestPages, GuestRanges
from crosswalk.walker.nested.ept_bulk import ept_types_of
from crosswalk.walker.nested.second_level import EptTables, guest_ranges
from crosswalk.walker.pages import Pages, pages

__all__ = ["list_guest_pages", "walk_host"]

_WALK = (
    *(each.dest for each in FILTERS.options if each.dest not in ("flags", "user")),
    *("start", "end", "coalesce", "limit", "summary", "memory_type"),
    *(each.dest for each in FORMATS.options),
)
"""Options of `walk` that mean something here, too."""
_EPT_TYPES = tuple(name.lower() for name in TYPE_NAMES if name)


def walk_host(options: argparse.Namespace) -> int:
    """List what a host's tables map, and return the exit status."""
    refuse_others(options, _WALK)
    chosen_format(options)
    start, end = chosen_range(options)
    conditions = _conditions(options)
    space = chosen_space(options)
    write_host_summary(options, space)
    if options.aliases_of is not None:
        conditions.append(reaching([_aliased(options.aliases_of, space)]))
    condition = _all(conditions)
    list_guest_pages(space, condition, options, (start, end), fold=options.coalesce)
    return 0


def list_guest_pages(
    space: HostSpace,
    condition: Condition[Any] | None,
    options: argparse.Namespace,
    between: tuple[int, int],
    *,
    fold: bool = False,
) -> None:
    """Write what is mapped in a range of guest-physical addresses, or with `fold` its ranges."""
    tables, memory = space.tables, space.contents.memory
    edges = Spans.of([]).edges if fold else None
    sections = chosen_pages(memory, tables, condition, None, *between, edges=edges)
    page = EptPages if isinstance(tables, EptTables) else GuestPages
    kind: type[GuestPages | GuestRanges] = GuestRanges if fold else page
    noun = "range" if fold else "mapping"
    listed = (
        (tables, rows)
        for _, blocks in sections
        for rows in (guest_ranges(blocks, tables) if fold else _as(page, blocks))
    )
    columns = [_type_column()] if isinstance(tables, EptTables) else []
    write_list(options, kind, limited(listed, options, noun, rooted=False), columns)


def _as(kind: type[GuestPages], blocks: Iterable[Pages]) -> Iterator[GuestPages]:
    for it in blocks:
        yield kind(it.va, it.pa, it.flags, it.rights, it.shift)


def _type_column() -> Column:
    """Return the extra column with the memory type of an EPT's leaves."""

    def values(rows: EptPages | GuestRanges, _: object) -> Coded:
        return Coded(ept_types_of(rows.flags).astype(np.intp), TYPE_NAMES)

    meaning = "memory type of the entry that maps the page, before the guest's PAT"
    return Column("memory_type", "TYPE", max(map(len, TYPE_NAMES)), values, meaning)


def _conditions(options: argparse.Namespace) -> list[Condition[Any]]:
    """Return what the options ask for; `BadInput` in one line for what no page can be."""
    given = {name: value for name, value in vars(options).items() if value}
    conditions = plain_conditions(given)
    if "page_size" in given:
        conditions.append(_of_sizes(given["page_size"]))
    if "memory_type" in given:
        if options.eptp is None:
            raise BadInput("--memory-type and --ncr3: choose one of them")
        conditions.append(_of_types(given["memory_type"]))
    return conditions


def _all(conditions: list[Condition[Any]]) -> Condition[Any] | None:
    """Return the condition that all of these hold; None for no condition."""
    if not conditions:
        return None
    return lambda rows, tables: np.logical_and.reduce([it(rows, tables) for it in conditions])


def _of_sizes(names: tuple[str, ...]) -> Condition[Any]:
    if "4M" in names:
        raise BadInput("--page-size 4M: a host's tables have 4K, 2M, 1G")
    shifts = [PAGE_SIZES[name] for name in names]
    return lambda rows, _: np.isin(rows.shift, shifts)


def _of_types(names: tuple[str, ...]) -> Condition[Any]:
    for name in names:
        if name not in _EPT_TYPES:
            raise BadInput(f"--memory-type {name}: an EPT has {', '.join(_EPT_TYPES)}")
    wanted = [TYPE_NAMES.index(name.upper()) for name in names]
    return lambda rows, _: np.isin(ept_types_of(rows.flags), wanted)


def _aliased(target: tuple[str, int], space: HostSpace) -> tuple[int, int]:
    """Return the frame of --aliases-of, as a range: an address is a guest-physical one."""
    kind, address = target
    if kind == "pa":
        return frame_of(address)
    for block in pages(space.contents.memory, space.tables, address, address + 1):
        for page in block:
            return frame_of(page.pa + address - page.va)
    raise BadInput(f"--aliases-of {address:#x}: nothing is mapped there")
