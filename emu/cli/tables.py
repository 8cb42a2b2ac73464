"""`frames --tables`: which page tables are mapped, and who may write them."""

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from crosswalk.emu.cli.followed import Followed
from crosswalk.emu.cli.listing_output import marked, print_heading
from crosswalk.emu.cli.names import address_text
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.selection import chosen_frames
from crosswalk.emu.report.records import frame_record
from crosswalk.emu.report.text import FRAME_HEADING, count_text, frame_text, mapping_text
from crosswalk.walker.frames import Frames
from crosswalk.walker.mapped_tables import (
    MappedTables,
    mapped_tables,
    table_names,
    writable_tables,
)
from crosswalk.walker.memory import FRAME
from crosswalk.walker.rights import Rights
from crosswalk.walker.symbols import NO_NAMES, Names

__all__ = [
    "TABLES_HEADING",
    "chosen_tables",
    "list_tables",
    "table_record",
    "table_rows",
    "table_text",
]

TABLES_HEADING = f"{FRAME_HEADING}  TABLES"
_NONE = "user mode may write no page table"
_PART = "user mode may write none"
_NAMED = 64
"""The most tables whose mappings are named: those of so many are found in one pass."""


def list_tables(
    followed: Followed, frames: Frames, options: argparse.Namespace, names: Names = NO_NAMES
) -> int:
    """List the frames of page tables that are mapped, and return the exit status.

    1 where user mode may write one, else that of `Followed.nothing_found`. `frames` are the
    collective rights.
    """
    spaces = followed.spaces
    tables = mapped_tables(spaces.source.memory, spaces.walked, frames)
    roots = {context.root & -FRAME for context in spaces.contexts}
    print_heading(TABLES_HEADING, options)
    for pa, levels, va, size, rights in table_rows(chosen_tables(tables, options)):
        if options.json:
            emit(table_record(pa, levels, va, size, rights, root=pa in roots))
        else:
            text = table_text(pa, levels, va, size, rights, root=pa in roots)
            print(marked(text, rights))
    _report(followed, tables, roots, options, names)
    if tables.granting(Rights.USER_WRITE).any():
        return 1
    return followed.nothing_found(options)


def chosen_tables(tables: MappedTables, options: argparse.Namespace) -> MappedTables:
    """Return those that are mapped and that the options choose."""
    mapped = tables.take(np.flatnonzero(tables.rights))
    size = np.full(len(mapped), FRAME, np.uint64)
    kept = chosen_frames(options, Frames(mapped.pa, size, mapped.rights)).start
    return mapped.take(np.isin(mapped.pa, kept))


def table_rows(tables: MappedTables) -> Iterator[tuple[int, int, int, int, Rights]]:
    """Yield of each frame its address, levels, lowest address translated, bytes and rights."""
    columns = (tables.pa, tables.levels, tables.va, tables.size, tables.rights)
    for pa, levels, va, size, rights in zip(*(it.tolist() for it in columns), strict=True):
        yield pa, levels, va, size, Rights(rights)


def table_record(
    pa: int, levels: int, va: int, size: int, rights: Rights, *, root: bool, address: str = "va"
) -> dict[str, Any]:
    """Return a frame of page tables as a record; `address` is what its addresses are called."""
    of = {"tables": table_names(levels), "is_root": root, address: hex(va), "spans": size}
    return {**frame_record(pa, FRAME, rights), **of}


def table_text(pa: int, levels: int, va: int, size: int, rights: Rights, *, root: bool) -> str:
    """Return a frame of page tables as a line: what it is, and the lowest it translates."""
    names = "/".join(table_names(levels))
    where = ", a root" if root else f" of {va:016x}-{va + size - 1:016x}"
    return f"{frame_text(pa, FRAME, rights)}  {names}{where}"


def _report(
    followed: Followed,
    tables: MappedTables,
    roots: set[int],
    options: argparse.Namespace,
    names: Names,
) -> None:
    """Say how many tables are mapped, and who may write them; name those of user mode."""
    show = remark if options.json else print
    count = {
        name: int(tables.granting(rights).sum())
        for name, rights in (
            ("mapped", Rights(63)),
            ("supervisor", Rights.SUPERVISOR_WRITE),
            ("read", Rights.USER_READ),
            ("user", Rights.USER_WRITE),
        )
    }
    every = count_text(len(tables), "frame")
    show(
        f"tables: {every} of page tables, {count['mapped']:,} of them mapped; the supervisor may "
        f"write {count['supervisor']:,}, user mode read {count['read']:,}"
    )
    if not count["user"]:
        show(f"tables: {followed.nothing(_NONE, _PART)}")
        return
    show(f"tables: user mode may write {count['user']:,}:")
    found = writable_tables(
        followed.spaces.source.memory,
        followed.spaces.walked,
        tables,
        Rights.USER_WRITE,
        aliases=options.aliases,
    )
    for each in islice(found, _NAMED):
        where = (each.pa, each.levels, each.va, each.size, each.rights)
        show(table_text(*where, root=each.pa in roots))
        for mapping in each.writers:
            show(f"  written  through {mapping_text(mapping)}{address_text(names, mapping.va)}")
    if count["user"] > _NAMED:
        left = count_text(count["user"] - _NAMED, "other")
        show(f"  and {left}: --writable-by user lists them")
    more = followed.more()
    if more is not None:
        show(f"tables: {more}")
