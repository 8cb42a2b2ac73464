"""`walk` and `frames`: what is mapped, and what all mappings of a frame allow."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from crosswalk.emu.cli.followed import BOTH, Followed, follow, write_summary
from crosswalk.emu.cli.output import emit, remark, styled
from crosswalk.emu.cli.sources import chosen_range, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.cli.watch import FILTERS, watch_frames, watch_walk
from crosswalk.emu.report.records import frame_record, mapping_record, range_record, structures_case
from crosswalk.emu.report.text import (
    FRAME_HEADING,
    MAPPING_HEADING,
    RANGE_HEADING,
    frame_text,
    mapping_text,
    range_text,
    size_text,
)
from crosswalk.walker.aliases import (
    Aliases,
    AliasQuery,
    WritableExecutable,
    writable_and_executable,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.mappings import Mapping, Range, coalesce, mappings
from crosswalk.walker.rights import Rights

__all__ = ["run_frames", "run_walk"]

Item = TypeVar("Item", Mapping, Range)

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
    pages = (
        (context, _filtered(mappings(source.memory, context, start, end), options))
        for context in spaces.contexts
    )
    if options.coalesce:
        ranges = ((context, coalesce(each)) for context, each in pages)
        _list(ranges, _RANGES, options, spaces)
    else:
        _list(pages, _MAPPINGS, options, spaces)
    return 0


@dataclass(frozen=True, slots=True)
class _Listing(Generic[Item]):
    """What is listed: its name, the heading of its columns, an item as a line and as a record."""

    noun: str
    heading: str
    text: Callable[[Item], str]
    record: Callable[[Item], dict[str, Any]]


_MAPPINGS = _Listing("mappings", MAPPING_HEADING, mapping_text, mapping_record)
_RANGES = _Listing("ranges", RANGE_HEADING, range_text, range_record)


def _list(
    sections: Iterable[tuple[PagingContext, Iterator[Item]]],
    listing: _Listing[Item],
    options: argparse.Namespace,
    spaces: Spaces,
) -> None:
    """Print the items of each root; `LimitExceeded` for too many, unless a limit was given."""
    limit = _LIMIT if options.limit is None else options.limit
    count, more = 0, False
    several = len({context.mode for context in spaces.contexts}) > 1
    _print_heading(listing.heading, options)
    for context, items in sections:
        root = _root_record(context, several=several) if spaces.named else {}
        before = count
        for item in islice(items, limit - count):
            if options.json:
                emit({**root, **listing.record(item)})
            else:
                if spaces.named and count == before:
                    print(f"root {context.root:#x}{f', {context.mode}' if several else ''}:")
                print(_marked(listing.text(item), item.rights))
            count += 1
        more = next(items, None) is not None
        if more:
            break
    if more and options.limit is None:
        again = "--roots names fewer" if spaces.named else "--start picks up"
        raise LimitExceeded(f"stopped after {limit:,} lines; --limit N goes on, {again}")
    noun = listing.noun
    counted = f"1 {noun[:-1]}" if count == 1 else f"{count:,} {noun}"
    remark(f"{counted}{', and there are more' if more else ''}")


def _root_record(context: PagingContext, *, several: bool) -> dict[str, Any]:
    """Return what names a root in records, its mode included where there are `several`."""
    root = {"root": hex(context.root)}
    return {**root, "mode": context.mode.value} if several else root


def _print_heading(heading: str, options: argparse.Namespace) -> None:
    """Print the heading of columns, for people alone: on a terminal."""
    if sys.stdout.isatty() and not options.json:
        print(styled(heading, "bold"))


def _marked(text: str, rights: Rights) -> str:
    """Return a line in red, on a terminal, where one privilege may write and execute."""
    if sys.stdout.isatty() and any(rights & each == each for each in BOTH):
        return styled(text, "red")
    return text


def _filtered(pages: Iterator[Mapping], options: argparse.Namespace) -> Iterator[Mapping]:
    wanted = [rights for name, rights in FILTERS.items() if getattr(options, name)]
    for page in pages:
        if options.level is not None and page.level != int(options.level):
            continue
        if all(page.rights & rights for rights in wanted):
            yield page


def run_frames(options: argparse.Namespace) -> int:
    """List the collective rights of SOURCE's frames, and return the exit status."""
    if options.watch is not None:
        return watch_frames(options)
    spaces = chosen_spaces(options, listing=True, count=options.policy is not None)
    report_source(spaces.source)
    followed = follow(options, spaces)
    write_summary(options, followed)
    memory = spaces.source.memory
    frames = collective_rights(memory, spaces.walked)
    if options.of is not None:
        return _contributors(followed, frames, options)
    _print_heading(FRAME_HEADING, options)
    for start, size, rights in frames:
        if options.json:
            emit(frame_record(start, size, rights))
        else:
            print(_marked(frame_text(start, size, rights), rights))
    found = writable_and_executable(memory, spaces.walked, frames, aliases=options.aliases)
    strict = [each for each in found if each.within_one_privilege]
    show = remark if options.json else print
    _report_wx(found, strict, followed, show)
    assumption = followed.assumption(frames)
    if assumption is not None:
        show(f"W^X: {assumption}")
    if options.policy is None:
        return 0
    if strict if options.policy == "one-privilege" else found:
        return 1
    return followed.nothing_found(options)


def _contributors(followed: Followed, frames: Frames, options: argparse.Namespace) -> int:
    spaces = followed.spaces
    memory = spaces.source.memory
    pa = options.of
    for start, size, rights in frames:
        if start <= pa < start + size:
            remark(frame_text(start, size, rights))
            # In one pass over all roots, of which those without such a mapping are passed over.
            finder = Aliases(memory, spaces.contexts, [AliasQuery(start, size)])
            pages = ((context, iter(found)) for context, found in finder.find_by_root(0))
            _list(pages, _MAPPINGS, options, spaces)
            return 0
    part = "" if followed.whole else " by what could be looked at"
    raise BadInput(f"nothing is mapped at physical address {pa:#x}{part}")


def _report_wx(
    found: list[WritableExecutable],
    strict: list[WritableExecutable],
    followed: Followed,
    show: Callable[[str], None],
) -> None:
    if not found:
        show(f"W^X: {followed.no_frame()}")
        return
    total = size_text(sum(each.size for each in found))
    show(f"W^X: {len(found):,} ranges, {total}, are both writable and executable:")
    for each in found:
        show(frame_text(each.pa, each.size, each.rights))
        for how, mappings_there in (("written", each.writers), ("executed", each.executors)):
            for mapping in mappings_there:
                show(f"  {how:<8} through {mapping_text(mapping)}")
    show(f"W^X: {len(strict):,} of them within one privilege")
    more = followed.more()
    if more is not None:
        show(f"W^X: {more}")
