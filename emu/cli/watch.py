"""`walk --watch` and `frames --watch`: what changes in SOURCE from one look to the next."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.followed import follow
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.selection import Selection, chosen_frames, chosen_selection
from crosswalk.emu.cli.sources import chosen_range, is_guest, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.report.records import frame_record, mapping_record
from crosswalk.emu.report.text import frame_text, mapping_text
from crosswalk.walker.entry import Entry
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.pages import Mapping as Page
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import Rights

__all__ = ["watch_frames", "watch_walk"]

Rows = NDArray[np.void]

_MOST = 10_000_000
"""The most mappings of a look: 26 bytes each, of two looks."""

_ROW = np.dtype(
    [
        ("va", "u8"),
        ("pa", "u8"),
        ("shift", "u1"),
        ("level", "u1"),
        ("flags", "u8"),
        ("rights", "u1"),
    ]
)
_USE = ~np.uint64(Entry.A | Entry.D)
"""All flags but those that each access may set."""

_UNMAPPED = -1
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


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
    _refuse(options, "coalesce", "save_case", "summary")
    start, end = chosen_range(options)
    chosen: list[Selection] = []

    def look(spaces: Spaces) -> Keyed:
        # What --aliases-of names is looked up once: its frame is watched, not its address.
        chosen.extend([] if chosen else [chosen_selection(options, spaces)])
        found: dict[int | None, Rows] = {}
        most = _MOST
        memory = spaces.source.memory
        for context, blocks in chosen[0].sections(memory, spaces.contexts, start, end):
            rows = _rows(blocks, most)
            most -= len(rows)
            found[context.root if spaces.named else None] = rows
        return found

    return _watch(options, look, _page_changes, np.zeros(0, _ROW))


def watch_frames(options: argparse.Namespace) -> int:
    """List the physical ranges whose collective rights change, and return the exit status."""
    _refuse(options, "policy", "of", "tables", "summary")

    def look(spaces: Spaces) -> Keyed:
        frames = collective_rights(spaces.source.memory, spaces.walked)
        return {None: chosen_frames(options, frames)}

    return _watch(options, look, _frame_changes, None)


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
        print(f"{_SIGNS[change.kind]} {change.text}{named_text}")


def _rows(found: Iterable[Pages], most: int) -> Rows:
    """Return mappings, given in address order, as rows; `LimitExceeded` beyond `most`."""
    blocks = [np.zeros(0, _ROW)]
    total = 0
    for block in found:
        rows = np.empty(len(block), _ROW)
        rows["va"], rows["pa"], rows["shift"] = block.va, block.pa, block.shift
        rows["level"], rows["flags"], rows["rights"] = block.level, block.flags, block.rights
        blocks.append(rows)
        total += len(rows)
        if total > most:
            raise LimitExceeded(f"more than {_MOST:,} mappings to be watched; --start, --end")
    return np.concatenate(blocks)


def _page_changes(before: Rows, after: Rows) -> Iterator[_Change]:
    """Yield what has changed, in address order; a page that is another now has changed."""
    _, at, now = np.intersect1d(before["va"], after["va"], True, return_indices=True)
    same = np.ones(len(at), np.bool_)
    for name in ("pa", "shift", "rights"):
        same &= before[name][at] == after[name][now]
    same &= before["flags"][at] & _USE == after["flags"][now] & _USE
    gone = np.setdiff1d(np.arange(len(before)), at)
    new = np.setdiff1d(np.arange(len(after)), now)
    pairs = [
        *((int(before["va"][row]), row, None) for row in gone.tolist()),
        *((int(after["va"][row]), None, row) for row in new.tolist()),
        *((int(before["va"][a]), a, b) for a, b in zip(at[~same], now[~same], strict=True)),
    ]
    for _, old_row, new_row in sorted(pairs, key=lambda pair: pair[0]):
        old = None if old_row is None else _page(before[old_row])
        page = None if new_row is None else _page(after[new_row])
        yield _change(old, page, mapping_text, mapping_record)


def _page(row: Any) -> Page:
    return Page(
        va=int(row["va"]),
        pa=int(row["pa"]),
        size=1 << int(row["shift"]),
        level=int(row["level"]),
        flags=int(row["flags"]),
        rights=Rights(int(row["rights"])),
    )


def _frame_changes(before: Frames | None, after: Frames | None) -> Iterator[_Change]:
    """Yield the physical ranges whose rights have changed, ascending."""
    sides = [each for each in (before, after) if each is not None]
    edges = np.unique(np.concatenate([side for f in sides for side in (f.start, f.start + f.size)]))
    old, new = (_rights_at(each, edges) for each in (before, after))
    # A range ends where either side changes; the last edge begins nothing.
    differs = np.flatnonzero(old[:-1] != new[:-1]).tolist()
    at = 0
    while at < len(differs):
        first = last = differs[at]
        while (
            at + 1 < len(differs)
            and differs[at + 1] == last + 1
            and ((old[last + 1], new[last + 1]) == (old[first], new[first]))
        ):
            at += 1
            last = differs[at]
        at += 1
        start, size = int(edges[first]), int(edges[last + 1] - edges[first])
        was, now = (
            None if rights == _UNMAPPED else (start, size, Rights(int(rights)))
            for rights in (old[first], new[first])
        )
        yield _change(was, now, lambda it: frame_text(*it), lambda it: frame_record(*it))


def _rights_at(frames: Frames | None, edges: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Return the rights of what begins at each of these addresses, `_UNMAPPED` for nothing."""
    found = np.full(len(edges), _UNMAPPED, np.int16)
    if frames is None or not len(frames):
        return found
    row = np.searchsorted(frames.start, edges, side="right").astype(np.intp) - 1
    inside = (row >= 0) & (edges < (frames.start + frames.size)[row])
    found[inside] = frames.rights[row[inside]]
    return found


def _change(
    old: Any, new: Any, text: Callable[[Any], str], record: Callable[[Any], dict[str, Any]]
) -> _Change:
    if old is None:
        return _Change("added", text(new), record(new))
    if new is None:
        return _Change("removed", text(old), record(old))
    return _Change("changed", f"{text(new)}, was {text(old)}", {**record(new), "was": record(old)})
