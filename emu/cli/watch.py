"""`walk --watch` and `frames --watch`: what changes in SOURCE from one look to the next."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np

from crosswalk.emu.cli.followed import follow
from crosswalk.emu.cli.memory_types import typed_spaces
from crosswalk.emu.cli.names import address_record, address_text, chosen_names, shown_names
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.selection import Selection, chosen_frames, chosen_selection
from crosswalk.emu.cli.sources import chosen_range, is_guest, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.report.changes import SIGNS
from crosswalk.emu.report.records import frame_record, mapping_record
from crosswalk.emu.report.text import frame_text, mapping_text
from crosswalk.walker.compare import Change, compare_frames, match_pages
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.pages import Mapping as Page
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import Rights
from crosswalk.walker.symbols import Names

__all__ = ["watch_frames", "watch_walk"]

_FORMS = ("format", "output", "legend")
_MOST = 10_000_000
"""The most mappings of a look: 26 bytes each, of two looks."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What is otherwise than at the last look, as a line and as a record."""

    kind: str
    text: str
    record: dict[str, Any]


Keyed = Mapping[int | None, Any]
"""What a look has found: for each root that --roots names, or for the one root, None."""


def watch_walk(options: argparse.Namespace) -> int:
    """List the mappings that change, and return the exit status."""
    _refuse(options, "coalesce", "save_case", "summary", "types", *_FORMS)
    start, end = chosen_range(options)
    chosen: list[tuple[Selection, Names]] = []

    def look(spaces: Spaces) -> Keyed:
        # What --aliases-of names is looked up once: its frame is watched, not its address. So is
        # what addresses are called: a kernel stays where it is.
        if not chosen:
            names = chosen_names(options, spaces)
            types = typed_spaces(options, spaces)[1]
            selection = chosen_selection(options, spaces, names, types=types)
            chosen.append((selection, shown_names(options, names)))
        found: dict[int | None, Pages] = {}
        most = _MOST
        memory = spaces.source.memory
        for context, blocks in chosen[0][0].sections(memory, spaces.contexts, start, end):
            rows = _pages(blocks, most)
            most -= len(rows)
            found[context.root if spaces.named else None] = rows
        return found

    def changes(before: Pages, after: Pages) -> Iterator[_Change]:
        return _page_changes(before, after, chosen[0][1])

    return _watch(options, look, changes, _NO_PAGES)


def watch_frames(options: argparse.Namespace) -> int:
    """List the physical ranges whose collective rights change, and return the exit status."""
    asked = ("policy", "of", "tables", "summary", "symbols", "types", "one_type")
    _refuse(options, *asked, *_FORMS)

    def look(spaces: Spaces) -> Keyed:
        frames = collective_rights(spaces.source.memory, spaces.walked)
        return {None: chosen_frames(options, frames)}

    return _watch(options, look, _frame_changes, _NO_FRAMES)


def _refuse(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name):
            raise BadInput(f"--watch and --{name.replace('_', '-')}: choose one of them")
    if is_guest(options.source):
        raise BadInput(f"{options.source}: a guest that is booted for a command stays as it is")


def _watch(
    options: argparse.Namespace,
    look: Callable[[Spaces], Keyed],
    changes: Callable[[Any, Any], Iterator[_Change]],
    nothing: Any,
) -> int:
    """Look again and again, and print what has changed; the time between is the guest's own."""
    left = None if options.limit is None else options.limit
    before: Keyed = {}
    root = None
    for number in islice(count(1), options.watch_count):
        if number > 1:
            time.sleep(options.watch)
        spaces = chosen_spaces(options, listing=True)
        if number == 1:
            report_source(spaces.source)
            follow(options, spaces)
            remark(f"what changes is listed from now on: a look every {options.watch:g} s")
        elif root != spaces.source.context.root and not spaces.named:
            remark(f"look {number}: the root is now {spaces.source.context.root:#x}")
        root = spaces.source.context.root
        found = look(spaces)
        if number > 1:
            every = [*before, *(key for key in found if key not in before)]
            for key in every:
                some = changes(before.get(key, nothing), found.get(key, nothing))
                for change in some if left is None else islice(some, left):
                    _print(change, key, number, options)
                    left = None if left is None else left - 1
            sys.stdout.flush()
            if left == 0:
                break
        before = found
    return 0


def _print(change: _Change, root: int | None, number: int, options: argparse.Namespace) -> None:
    if options.json:
        named = {} if root is None else {"root": hex(root)}
        emit({"look": number, "change": change.kind, **named, **change.record})
    else:
        named_text = "" if root is None else f"; root {root:#x}"
        print(f"{SIGNS[change.kind]} {change.text}{named_text}")


def _pages(found: Iterable[Pages], most: int) -> Pages:
    """Return mappings, given in address order, together; `LimitExceeded` beyond `most`."""
    blocks = [_NO_PAGES]
    for block in found:
        blocks.append(block)
        most -= len(block)
        if most < 0:
            raise LimitExceeded(f"more than {_MOST:,} mappings to be watched; --start, --end")
    return Pages.join(blocks)


def _page_changes(before: Pages, after: Pages, names: Names) -> Iterator[_Change]:
    """Yield what has changed, in address order; a page that is another now has changed."""
    found = match_pages(before, after)
    old, new = (list(it.take(rows)) for it, rows in ((before, found.was), (after, found.now)))
    pairs: list[tuple[Page | None, Page | None]] = [
        *((page, None) for page in before.take(found.gone)),
        *((None, page) for page in after.take(found.new)),
        *zip(old, new, strict=True),
    ]
    for was, now in sorted(pairs, key=lambda pair: max(page.va for page in pair if page)):
        change = _change(was, now, mapping_text, mapping_record)
        va = max(page.va for page in (was, now) if page)
        yield replace(
            change,
            text=f"{change.text}{address_text(names, va)}",
            record={**change.record, **address_record(names, va)},
        )


def _frame_changes(before: Frames, after: Frames) -> Iterator[_Change]:
    """Yield the physical ranges whose rights have changed, ascending."""
    for rows in compare_frames(before, after):
        columns = (rows.va, rows.size, rows.kind, rows.old_rights, rows.new_rights)
        for pa, size, kind, old, new in zip(*(each.tolist() for each in columns), strict=True):
            was = None if kind == Change.ADDED else (pa, size, Rights(old))
            now = None if kind == Change.REMOVED else (pa, size, Rights(new))
            yield _change(was, now, lambda it: frame_text(*it), lambda it: frame_record(*it))


_NONE = np.zeros(0, np.uint64)
_FEW = np.zeros(0, np.uint8)
_NO_PAGES = Pages(_NONE, _NONE, _NONE, _FEW, _FEW)
_NO_FRAMES = Frames(_NONE, _NONE, _FEW)


def _change(
    old: Any, new: Any, text: Callable[[Any], str], record: Callable[[Any], dict[str, Any]]
) -> _Change:
    if old is None:
        return _Change("added", text(new), record(new))
    if new is None:
        return _Change("removed", text(old), record(old))
    return _Change("changed", f"{text(new)}, was {text(old)}", {**record(new), "was": record(old)})
