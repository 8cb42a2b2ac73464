"""`frames`: what all mappings of a physical range allow, and which page tables they reach."""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from crosswalk.emu.cli.followed import Followed, follow, within_one_privilege, write_summary
from crosswalk.emu.cli.host_options import names_host
from crosswalk.emu.cli.listing_options import FRAME_FILTERS
from crosswalk.emu.cli.listing_output import chosen_format, is_answer, write_list
from crosswalk.emu.cli.memory_types import conflict_lines, frame_types_column, typed_spaces
from crosswalk.emu.cli.names import address_text, chosen_names, frame_columns
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.selection import chosen_frames, mappings_of_frame
from crosswalk.emu.cli.sources import report_source
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.cli.tables import list_tables
from crosswalk.emu.cli.walk import list_pages
from crosswalk.emu.cli.watch import watch_frames
from crosswalk.emu.report.text import count_text, frame_text, mapping_text, size_text
from crosswalk.walker.aliases import writable_and_executable
from crosswalk.walker.errors import BadInput
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.memory import FRAME
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.symbols import Names
from crosswalk.walker.type_conflicts import (
    TypeConflict,
    mapped_types,
    type_conflicts,
    typed_frames,
)

__all__ = ["run"]

_FILTERS = tuple(each.dest for each in FRAME_FILTERS.options)
_NAMED = 1024
"""So many ranges have their mappings named: finding them takes a pass over the tables for 32."""


def run(options: argparse.Namespace) -> int:
    """List the collective rights of SOURCE's frames, and return the exit status."""
    if names_host(options):
        # What other listings don't need is not imported for them.
        from crosswalk.emu.cli.host_frames import frames_of_host  # noqa: PLC0415

        return frames_of_host(options)
    if options.watch is not None:
        return watch_frames(options)
    chosen_format(options)
    _refuse(options)
    verdict = options.policy is not None or options.tables or options.one_type
    spaces = chosen_spaces(options, listing=True, count=verdict)
    report_source(spaces.source)
    spaces, types = typed_spaces(options, spaces)
    names = chosen_names(options, spaces)
    followed = follow(options, spaces, names)
    write_summary(options, followed)
    frames = collective_rights(spaces.source.memory, spaces.walked)
    if options.of is not None:
        return _contributors(followed, frames, options, names)
    if options.tables:
        return list_tables(followed, frames, options, names)
    listed, columns, several = chosen_frames(options, frames), frame_columns(names, spaces), []
    if types is not None:
        mapped = mapped_types(spaces.source.memory, spaces.walked, types.pat)
        typed = typed_frames(listed, mapped, types)
        listed, columns = typed.frames, [frame_types_column(typed), *columns]
        several = type_conflicts(
            spaces.source.memory, spaces.walked, types, aliases=options.aliases, mapped=mapped
        )
    write_list(options, Frames, [(spaces.source.context, listed)], columns)
    if any(getattr(options, name) for name in _FILTERS):
        remark(count_text(len(listed), "range"))
    broken = _is_against_policy(followed, frames, options, names)
    if types is not None:
        _report_types(several, followed, names, print if is_answer(options) else remark)
        broken |= options.one_type and bool(several)
    if not verdict:
        return 0
    return 1 if broken else followed.nothing_found(options)


def _refuse(options: argparse.Namespace) -> None:
    """Raise `BadInput` for two options that ask for different answers."""
    types = ("types", "one_type")
    asked = {
        "of": (options.of is not None, ("tables", "policy", *_FILTERS, *types)),
        "tables": (options.tables, ("policy", "format", "output", "legend", *types)),
    }
    for one, (given, others) in asked.items():
        for other in others:
            if given and getattr(options, other):
                raise BadInput(f"--{one} and --{other.replace('_', '-')}: choose one of them")


def _is_against_policy(
    followed: Followed, frames: Frames, options: argparse.Namespace, names: Names
) -> bool:
    """Say what is both writable and executable, and return whether that is against --policy."""
    rights = frames.rights
    found = frames.take((rights & int(WRITES) != 0) & (rights & int(EXECUTES) != 0))
    strict = int(np.count_nonzero(within_one_privilege(found.rights)))
    show = print if is_answer(options) else remark
    _report_wx(found, strict, followed, show, names, aliases=options.aliases)
    assumption = followed.assumption(frames)
    if assumption is not None:
        show(f"W^X: {assumption}")
    if options.policy is None:
        return False
    return bool(strict if options.policy == "one-privilege" else len(found))


def _contributors(
    followed: Followed, frames: Frames, options: argparse.Namespace, names: Names
) -> int:
    """List the mappings of one frame, whatever else has the same collective rights."""
    spaces = followed.spaces
    frame = options.of & -FRAME
    rights = Rights(int(frames.rights_at(np.array([frame], np.uint64))[0]))
    if not rights:
        part = "" if followed.whole else " by what could be looked at"
        raise BadInput(f"nothing is mapped at physical address {options.of:#x}{part}")
    remark(frame_text(frame, FRAME, rights))
    found = mappings_of_frame(frame).sections(spaces.source.memory, spaces.contexts)
    list_pages(found, options, spaces, names=names)
    return 0


def _report_wx(
    found: Frames,
    strict: int,
    followed: Followed,
    show: Callable[[str], None],
    names: Names,
    *,
    aliases: int,
) -> None:
    """Say which ranges are both writable and executable, and by which mappings the first are."""
    if not len(found):
        show(f"W^X: {followed.no_frame()}")
        return
    total = size_text(int(found.size.sum()))
    show(f"W^X: {len(found):,} ranges, {total}, are both writable and executable:")
    spaces = followed.spaces
    first = found.take(slice(_NAMED))
    named = writable_and_executable(spaces.source.memory, spaces.walked, first, aliases=aliases)
    for each in named:
        show(frame_text(each.pa, each.size, each.rights))
        for how, mappings_there in (("written", each.writers), ("executed", each.executors)):
            for mapping in mappings_there:
                called = address_text(names, mapping.va)
                show(f"  {how:<8} through {mapping_text(mapping)}{called}")
    for pa, size, rights in found.take(slice(_NAMED, None)):
        show(frame_text(pa, size, rights))
    if len(found) > _NAMED:
        show(f"W^X: mappings are named of the first {_NAMED:,}; walk --pa lists those of others")
    show(f"W^X: {strict:,} of them within one privilege")
    more = followed.more()
    if more is not None:
        show(f"W^X: {more}")


def _report_types(
    found: Sequence[TypeConflict],
    followed: Followed,
    names: Names,
    show: Callable[[str], None],
) -> None:
    if not found:
        none = "none is mapped with several memory types"
        show(f"types: {followed.nothing('no frame is mapped with several memory types', none)}")
        return
    first, *rest = conflict_lines(found, names)
    show(f"types: {first}")
    for line in rest:
        show(line)
    more = followed.more()
    if more is not None:
        show(f"types: {more}")
