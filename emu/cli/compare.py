"""`compare`: what two sources, or two looks at one, map differently."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosswalk.emu.cli.compare_options import COUNTING, OWN
from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.listing_options import FILTERS, FRAME_FILTERS
from crosswalk.emu.cli.options import RANGE
from crosswalk.emu.cli.output import emit, remark, styled
from crosswalk.emu.cli.selection import Selection, chosen_frames, chosen_selection
from crosswalk.emu.cli.sources import chosen_range, report_source
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.report.changes import (
    CHANGE_HEADING,
    SIGNS,
    ChangeForm,
    Totals,
    change_lines,
    change_records,
)
from crosswalk.emu.report.text import count_text
from crosswalk.walker.compare import (
    COUNTED,
    Aspect,
    Change,
    Changes,
    compare_frames,
    compare_pages,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.dangling import dangling_spans
from crosswalk.walker.entry import Entry
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.frames import Frames, collective_rights, count_mappings
from crosswalk.walker.mappings import IGNORED
from crosswalk.walker.pages import Pages

__all__ = ["run"]

_LIMIT = 10_000_000
_MOST = 1 << 28
"""The most mappings of one address space that are compared: a minute's work or two."""

_ALL_FLAGS = (1 << 64) - 1
_IGNORED = {
    "g": Entry.G,
    "pwt": Entry.PWT,
    "pcd": Entry.PCD,
    "pat": Entry.PS | Entry.PAT_LARGE,
    "pk": 0xF << 59,
    "sw": 7 << 9 | 0x7F << 52,
}
"""Flags by the names that --ignore takes; PAT of small pages is where large ones have PS."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One side: how much of it could be followed, and its address spaces by mode and root."""

    followed: Followed
    contexts: dict[tuple[str, int] | None, PagingContext]
    selection: Selection

    @property
    def frames(self) -> Frames:
        """The collective rights of its physical ranges."""
        return collective_rights(self.followed.source.memory, self.followed.spaces.walked)

    def pages(self, context: PagingContext, between: tuple[int, int]) -> Iterator[Pages]:
        """Yield the chosen mappings; `LimitExceeded` for more than can be compared."""
        count = 0
        memory = self.followed.source.memory
        for _, blocks in self.selection.sections(memory, [context], *between):
            for block in blocks:
                count += len(block)
                if count > _MOST:
                    raise LimitExceeded(
                        f"{self.followed.source.name}: more than {_MOST:,} mappings to compare: "
                        "--start and --end choose some"
                    )
                yield block

    def lost(self, context: PagingContext, between: tuple[int, int]) -> Iterable[tuple[Any, Any]]:
        """Return what tables outside memory translate."""
        if not self.followed.unfollowed.outside:
            return ()
        return dangling_spans(self.followed.source.memory, context, *between)


def run(options: argparse.Namespace) -> int:
    """List what A and B map differently, and return the exit status."""
    between = chosen_range(options)
    form = _form(options)
    sides = [_side(options), _side(_of_b(options))]
    listing = _Listing(options, form)
    if options.frames:
        frames = (chosen_frames(options, side.frames) for side in sides)
        listing.add(compare_frames(*frames), {})
    else:
        _compare_spaces(sides, between, listing)
    _write_summary(options, sides, listing.totals)
    return _conclude(options, sides, listing)


def _side(options: argparse.Namespace) -> _Side:
    spaces = chosen_spaces(options, listing=True, count=options.frames)
    report_source(spaces.source)
    followed = follow(options, spaces)
    contexts: dict[tuple[str, int] | None, PagingContext] = {None: spaces.source.context}
    if spaces.named:
        contexts = {(each.mode.value, each.root): each for each in spaces.contexts}
    return _Side(followed, contexts, chosen_selection(options, spaces))


def _of_b(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options as they are for B: its own instead of A's."""
    own = {name: getattr(options, f"b_{name}") for name in OWN}
    return argparse.Namespace(**{**vars(options), **own, "source": options.b})


def _form(options: argparse.Namespace) -> ChangeForm:
    """Return what counts as a change."""
    if options.frames:
        _refuse_with_frames(options)
    counted = Aspect.RIGHTS if options.frames else COUNTED
    if options.page_sizes:
        counted |= Aspect.SIZE
    for name in ("frame", "rights", "flags"):
        if name in options.ignore:
            counted &= ~Aspect[name.upper()]
    ignore = 0 if options.accessed else IGNORED
    for name in options.ignore:
        ignore |= _IGNORED.get(name, 0)
    if "flags" in options.ignore:
        # So that neighbours fold, too.
        ignore = _ALL_FLAGS
    return ChangeForm(counted, int(ignore), options.frames)


def _refuse_with_frames(options: argparse.Namespace) -> None:
    """Raise `BadInput` for options that say something of mappings, where frames are compared."""
    taken = {each.dest for each in FRAME_FILTERS.options}
    of_mappings = [each for each in FILTERS.options if each.dest not in taken]
    for each in (*of_mappings, *COUNTING, *RANGE):
        if getattr(options, each.dest) not in (each.default, False):
            raise BadInput(f"--frames and {each.names[0]}: choose one of them")


def _compare_spaces(sides: list[_Side], between: tuple[int, int], listing: "_Listing") -> None:
    """Compare the address spaces of both sides, each with that of its mode and root."""
    before, after = sides
    keys = list(dict.fromkeys([*before.contexts, *after.contexts]))
    several = len({key[0] for key in keys if key is not None}) > 1
    for key in keys:
        root = {} if key is None else {"root": hex(key[1])}
        if key is not None and several:
            root["mode"] = key[0]
        found = [(side, side.contexts.get(key)) for side in sides]
        present = [(side, context) for side, context in found if context is not None]
        if len(present) == 1:
            side, context = present[0]
            count = sum(count_mappings(side.followed.source.memory, context).values())
            listing.add_root("removed" if side is before else "added", root, count)
            continue
        blocks = [side.pages(context, between) for side, context in present]
        lost = [side.lost(context, between) for side, context in present]
        form = listing.form
        changes = compare_pages(
            *blocks,
            ignore=form.ignore,
            counted=form.counted,
            lost=(lost[0], lost[1]),
            windows=(between, between),
        )
        listing.add(changes, root)


class _Listing:
    """Prints what differs, the first lines of it, and counts all."""

    def __init__(self, options: argparse.Namespace, form: ChangeForm) -> None:
        self.form, self.totals = form, Totals()
        self.more = False
        self._json = options.json
        self._limited = options.limit is not None
        self._left = options.limit if self._limited else _LIMIT
        if sys.stdout.isatty() and not options.json and not form.frames:
            print(styled(CHANGE_HEADING, "bold"))

    def add(self, blocks: Iterable[Changes], root: dict[str, Any]) -> None:
        """Print the differences of one address space, under its root where it is named."""
        shown = not root
        for block in blocks:
            self.totals.add(block)
            rows = block.take(np.flatnonzero(block.kind < Change.RESIZED))
            rows = rows.take(slice(self._take(len(rows))))
            if not len(rows):
                continue
            if self._json:
                for record in change_records(rows, self.form):
                    emit({**root, **record})
                continue
            if not shown:
                print(f"root {', '.join(root.values())}:")
                shown = True
            _print(change_lines(rows, self.form))

    def add_root(self, change: str, root: dict[str, Any], count: int) -> None:
        """Print that one side has a root which the other hasn't."""
        self.totals.roots += 1
        if not self._take(1):
            return
        if self._json:
            emit({"change": change, **root, "mappings": count})
        else:
            _print(
                f"{SIGNS[change]} root {', '.join(root.values())}: {count_text(count, 'mapping')}"
            )

    def _take(self, count: int) -> int:
        """Return how many of so many lines may be printed; `LimitExceeded` where none was given."""
        taken = min(count, self._left)
        self._left -= taken
        self.more |= taken < count
        if self.more and not self._limited:
            raise LimitExceeded(f"stopped after {_LIMIT:,} lines; --limit N prints so many")
        return taken


_STYLES = {"+": "green", "-": "red", "~": "yellow"}


def _print(lines: Iterable[str]) -> None:
    """Print lines, on a terminal in the colour of what has become of what they name."""
    if sys.stdout.isatty():
        lines = (styled(line, _STYLES[line[0]]) for line in lines)
    for line in lines:
        print(line)


def _write_summary(options: argparse.Namespace, sides: list[_Side], totals: Totals) -> None:
    if options.summary is None:
        return
    names = ("before", "after")
    of_sides = {
        name: {**each.followed.record(), **each.followed.roots_record()}
        for name, each in zip(names, sides, strict=True)
    }
    record = {**totals.record(), **of_sides}
    write_file(options.summary, f"{json.dumps(record, indent=1)}\n".encode())


def _conclude(options: argparse.Namespace, sides: list[_Side], listing: _Listing) -> int:
    """Report how much differs, and return the exit status."""
    for line in listing.totals.lines():
        remark(line)
    if listing.more:
        remark(f"these are the first {options.limit:,}")
    if listing.totals.differences:
        for side in sides:
            if not side.followed.whole:
                name = side.followed.source.name
                remark(f"{name}: partial: there may be more where it could not be looked at")
        return 1
    for side in sides:
        side.followed.nothing_found(options)
    whole = all(side.followed.whole for side in sides)
    remark(f"no difference{'' if whole else ' in what could be looked at'}")
    return 0
