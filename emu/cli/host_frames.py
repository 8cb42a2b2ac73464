"""`frames` with --eptp or --ncr3: what a host's tables grant of each physical range."""

import argparse
from collections.abc import Callable
from itertools import islice

import numpy as np

from crosswalk.emu.cli.followed import within_one_privilege
from crosswalk.emu.cli.host_tables import (
    HostSpace,
    chosen_space,
    refuse_others,
    write_host_summary,
)
from crosswalk.emu.cli.host_walk import list_guest_pages
from crosswalk.emu.cli.listing_options import FORMATS, FRAME_FILTERS
from crosswalk.emu.cli.listing_output import (
    chosen_format,
    is_answer,
    marked,
    print_heading,
    write_list,
)
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.selection import chosen_frames, frame_of, reaching
from crosswalk.emu.cli.tables import (
    TABLES_HEADING,
    chosen_tables,
    table_record,
    table_rows,
    table_text,
)
from crosswalk.emu.report.host_tables import guest_mapping_text
from crosswalk.emu.report.protection import NO_FRAME
from crosswalk.emu.report.text import count_text, frame_text, size_text
from crosswalk.walker.aliases import writable_and_executable
from crosswalk.walker.errors import BadInput
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.mapped_tables import MappedTables, mapped_tables, writable_tables
from crosswalk.walker.memory import FRAME
from crosswalk.walker.rights import EXECUTES, WRITES, Rights

__all__ = ["frames_of_host"]

_FILTERS = tuple(each.dest for each in FRAME_FILTERS.options)
_FRAMES = (
    *_FILTERS,
    *("policy", "aliases", "of", "tables", "limit", "summary", "partial"),
    *(each.dest for each in FORMATS.options),
)
"""Options of `frames` that mean something here, too."""
_READS = Rights.SUPERVISOR_READ | Rights.USER_READ
_TABLES = 64
"""The most tables whose mappings are named: those of so many are found in one pass."""
_NAMED = 1024
"""So many ranges have their mappings named, as in `crosswalk.emu.cli.frames`."""


def frames_of_host(options: argparse.Namespace) -> int:
    """List the collective rights of what a host's tables map, and return the exit status."""
    refuse_others(options, _FRAMES)
    chosen_format(options)
    _refuse(options)
    space = chosen_space(options)
    write_host_summary(options, space)
    frames = collective_rights(space.contents.memory, space.tables)
    if options.of is not None:
        return _contributors(space, frames, options)
    if options.tables:
        return _list_tables(space, frames, options)
    listed = chosen_frames(options, frames)
    write_list(options, Frames, [(space.tables, listed)])
    if any(getattr(options, name) for name in _FILTERS):
        remark(count_text(len(listed), "range"))
    broken = _is_against_policy(space, frames, options)
    if options.policy is None:
        return 0
    return 1 if broken else space.nothing_found(options)


def _refuse(options: argparse.Namespace) -> None:
    """Raise `BadInput` for two options that ask for different answers."""
    asked = {
        "of": (options.of is not None, ("tables", "policy", *_FILTERS)),
        "tables": (options.tables, ("policy", "format", "output", "legend")),
    }
    for one, (given, others) in asked.items():
        for other in others:
            if given and getattr(options, other):
                raise BadInput(f"--{one} and --{other.replace('_', '-')}: choose one of them")


def _contributors(space: HostSpace, frames: Frames, options: argparse.Namespace) -> int:
    """List the guest-physical pages that one frame of the host is mapped by."""
    frame = options.of & -FRAME
    rights = Rights(int(frames.rights_at(np.array([frame], np.uint64))[0]))
    condition = reaching([frame_of(options.of)])
    if not rights:
        part = "" if space.whole else " by what could be looked at"
        raise BadInput(f"nothing is granted of physical address {options.of:#x}{part}")
    remark(frame_text(frame, FRAME, rights))
    list_guest_pages(space, condition, options, (0, 1 << 64))
    return 0


def _is_against_policy(space: HostSpace, frames: Frames, options: argparse.Namespace) -> bool:
    """Say what is both writable and executable, and return whether that is against --policy."""
    rights = frames.rights
    found = frames.take((rights & int(WRITES) != 0) & (rights & int(EXECUTES) != 0))
    strict = int(np.count_nonzero(within_one_privilege(found.rights)))
    _report_wx(space, found, strict, print if is_answer(options) else remark, options.aliases)
    if options.policy is None:
        return False
    return bool(strict if options.policy == "one-privilege" else len(found))


def _report_wx(
    space: HostSpace, found: Frames, strict: int, show: Callable[[str], None], aliases: int
) -> None:
    """Say which ranges are both writable and executable, and by which pages the first are."""
    if not len(found):
        none = "none is both writable and executable"
        show(f"W^X: {space.nothing(NO_FRAME, none)}")
        return
    total = size_text(int(found.size.sum()))
    show(f"W^X: {len(found):,} ranges, {total}, are both writable and executable:")
    first = found.take(slice(_NAMED))
    memory, tables = space.contents.memory, space.tables
    for each in writable_and_executable(memory, tables, first, aliases=aliases):
        show(frame_text(each.pa, each.size, each.rights))
        for how, there in (("written", each.writers), ("executed", each.executors)):
            for mapping in there:
                show(f"  {how:<8} through {guest_mapping_text(tables, mapping)}")
    for pa, size, rights in found.take(slice(_NAMED, None)):
        show(frame_text(pa, size, rights))
    show(f"W^X: {strict:,} of them within one privilege")
    if not space.whole:
        show("W^X: partial: there may be more behind what could not be looked at")


def _list_tables(space: HostSpace, frames: Frames, options: argparse.Namespace) -> int:
    """List the frames of the host's tables that the guest may reach, and return the exit status.

    1 where the guest may write one: it could map anything then.
    """
    memory, host = space.contents.memory, space.tables
    tables = mapped_tables(memory, host, frames)
    print_heading(TABLES_HEADING, options)
    for pa, levels, gpa, size, rights in table_rows(chosen_tables(tables, options)):
        root = pa == host.root
        if options.json:
            emit(table_record(pa, levels, gpa, size, rights, root=root, address="gpa"))
        else:
            print(marked(table_text(pa, levels, gpa, size, rights, root=root), rights))
    show = remark if options.json else print
    read, write = (int(tables.granting(rights).sum()) for rights in (_READS, WRITES))
    every = count_text(len(tables), "frame")
    show(f"tables: {every} of the host's tables; the guest may read {read:,}, write {write:,}")
    if not write:
        none = "the guest may write none"
        show(f"tables: {space.nothing(none, none)}")
        return space.nothing_found(options)
    _report_writers(space, tables, show, options.aliases)
    return 1


def _report_writers(
    space: HostSpace, tables: MappedTables, show: Callable[[str], None], aliases: int
) -> None:
    """Name the host's tables that the guest may write, and by which pages it may."""
    memory, host = space.contents.memory, space.tables
    found = writable_tables(memory, host, tables, aliases=aliases)
    for each in islice(found, _TABLES):
        where = (each.pa, each.levels, each.va, each.size, each.rights)
        show(table_text(*where, root=each.pa == host.root))
        for mapping in each.writers:
            show(f"  written  through {guest_mapping_text(host, mapping)}")
    more = int(tables.granting(WRITES).sum()) - _TABLES
    if more > 0:
        show(f"  and {count_text(more, 'other')}: --writable-by user lists them")
