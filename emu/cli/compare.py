"""`compare`: what two sources, or two looks at one, map differently."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosswalk.emu.cli.compare_names import (
    RegionTotals,
    common_regions,
    name_cells,
    region_numbers,
    whole_pages,
)
from crosswalk.emu.cli.compare_options import COUNTING, OWN
from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.listing_options import FILTERS, FRAME_FILTERS, NAMES
from crosswalk.emu.cli.memory_types import typed_spaces
from crosswalk.emu.cli.names import chosen_names, shown_names
from crosswalk.emu.cli.options import RANGE, Option
from crosswalk.emu.cli.output import emit, remark, styled
from crosswalk.emu.cli.selection import Selection, chosen_frames, chosen_selection
from crosswalk.emu.cli.sources import chosen_range, report_source
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.cli.type_options import CHOSEN_TYPES
from crosswalk.emu.report.changes import (
    SIGNS,
    ChangeColumn,
    ChangeForm,
    Totals,
    change_heading,
    change_lines,
    change_records,
)
from crosswalk.emu.report.text import count_text
from crosswalk.walker.compare import (
    COUNTED,
    Aspect,
    Change,
    Changes,
    Stretches,
    Window,
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
from crosswalk.walker.symbols import NO_NAMES, Names

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
    """One side: how much of it could be followed, and its address spaces by mode and root.

    `names` are those that are shown.
    """

    followed: Followed
    contexts: dict[tuple[str, int] | None, PagingContext]
    selection: Selection
    names: Names

    @property
    def frames(self) -> Frames:
        """The collective rights of its physical ranges."""
        return collective_rights(self.followed.source.memory, self.followed.spaces.walked)

    def pages(self, context: PagingContext, between: tuple[int, int]) -> Iterator[Pages]:
        """Yield the chosen mappings; `LimitExceeded` for more than can be compared."""
        count = 0
        memory = self.followed.source.memory
        # Runs of one page as a row; they end where a region does.
        edges = self.names.edges
        for _, blocks in self.selection.sections(memory, [context], *between, edges=edges):
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
    regions = RegionTotals() if options.by_name else None
    if options.frames:
        frames = (chosen_frames(options, side.frames) for side in sides)
        listing.add(compare_frames(*frames), {})
    else:
        # By name, all addresses are A's.
        listing.names = (sides[0].names, sides[0 if options.by_name else 1].names)
        _compare_spaces(sides, between, listing, regions)
    _write_summary(options, sides, listing.totals, regions)
    return _conclude(options, sides, listing, regions)


def _side(options: argparse.Namespace) -> _Side:
    spaces = chosen_spaces(options, listing=True, count=options.frames)
    report_source(spaces.source)
    followed = follow(options, spaces)
    contexts: dict[tuple[str, int] | None, PagingContext] = {None: spaces.source.context}
    if spaces.named:
        contexts = {(each.mode.value, each.root): each for each in spaces.contexts}
    names = NO_NAMES if options.frames else chosen_names(options, spaces)
    _, types = typed_spaces(options, spaces)
    selection = chosen_selection(options, spaces, names, types=types)
    return _Side(followed, contexts, selection, shown_names(options, names))


def _of_b(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options as they are for B: its own instead of A's."""
    own = {name: getattr(options, f"b_{name}") for name in OWN}
    own["symbols"] = own["symbols"] or options.symbols
    return argparse.Namespace(**{**vars(options), **own, "source": options.b})


def _form(options: argparse.Namespace) -> ChangeForm:
    """Return what counts as a change."""
    if options.frames:
        taken = {each.dest for each in FRAME_FILTERS.options}
        of_mappings = [each for each in FILTERS.options if each.dest not in taken]
        others = (*NAMES.options, *CHOSEN_TYPES.options, *COUNTING, *RANGE)
        _refuse(options, "--frames", (*of_mappings, *others))
    if options.by_name:
        _refuse(options, "--by-name", RANGE)
    counted = Aspect.RIGHTS if options.frames else COUNTED
    if options.by_name:
        # Of two boots, frames say nothing: KASLR places the kernel anew, and memory is given out.
        counted &= ~Aspect.FRAME
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


def _refuse(options: argparse.Namespace, name: str, others: Iterable[Option]) -> None:
    """Raise `BadInput` where an option was given beside one that it says nothing to."""
    for each in others:
        if getattr(options, each.dest) not in (each.default, False):
            raise BadInput(f"{name} and {each.names[0]}: choose one of them")


def _compare_spaces(
    sides: list[_Side],
    between: tuple[int, int],
    listing: "_Listing",
    regions: RegionTotals | None,
) -> None:
    """Compare the address spaces of both sides, each with that of its mode and root.

    With `regions` each region with that of its name, and what is mapped there is counted.
    """
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
        elif regions is None:
            blocks = [side.pages(context, between) for side, context in present]
            lost = [side.lost(context, between) for side, context in present]
            window = whole_pages(*between)
            changes = _changes(blocks, lost, (window, window), listing)
            listing.add(changes, root, present[0][1])
        else:
            listing.add(_by_name(present, listing, regions), root, present[0][1])


def _by_name(
    present: list[tuple[_Side, PagingContext]], listing: "_Listing", regions: RegionTotals
) -> Iterator[Changes]:
    """Yield what differs in each region that both sides have, by A's addresses."""
    first, second = (side.names for side, _ in present)
    for name, *windows in common_regions((first, second)):
        blocks, lost = [], []
        for at, ((side, context), window) in enumerate(zip(present, windows, strict=True)):
            blocks.append(regions.counted(name, at, side.pages(context, window), window))
            lost.append(side.lost(context, window))
        yield from _changes(blocks, lost, (windows[0], windows[1]), listing)


def _changes(
    blocks: list[Iterator[Pages]],
    lost: list[Iterable[Stretches]],
    windows: tuple[Window, Window],
    listing: "_Listing",
) -> Iterator[Changes]:
    return compare_pages(
        *blocks,
        ignore=listing.form.ignore,
        counted=listing.form.counted,
        lost=(lost[0], lost[1]),
        windows=windows,
        region=region_numbers(listing.names),
    )


class _Listing:
    """Prints what differs, the first lines of it, and counts all."""

    def __init__(self, options: argparse.Namespace, form: ChangeForm) -> None:
        self.form, self.totals = form, Totals()
        self.names = (NO_NAMES, NO_NAMES)
        self.more = False
        self._json = options.json
        self._limited = options.limit is not None
        self._left = options.limit if self._limited else _LIMIT
        self._headed = not sys.stdout.isatty() or form.frames

    def add(
        self,
        blocks: Iterable[Changes],
        root: dict[str, Any],
        context: PagingContext | None = None,
    ) -> None:
        """Print the differences of one address space, under its root where it is named.

        Of physical ranges there is no `context`, and they have no names.
        """
        title = f"root {', '.join(root.values())}:" if root else ""
        for block in blocks:
            self.totals.add(block)
            rows = block.take(np.flatnonzero(block.kind < Change.RESIZED))
            rows = rows.take(slice(self._take(len(rows))))
            if len(rows):
                columns = []
                if context is not None:
                    columns = name_cells(rows, context, self.names, records=self._json)
                self._list(rows, columns, root, title)
                title = ""
            self._require_more()

    def _list(
        self, rows: Changes, columns: list[ChangeColumn], root: dict[str, Any], title: str
    ) -> None:
        """Print rows: a line for each, or a record with what is in `root`."""
        if self._json:
            for record in change_records(rows, self.form, columns):
                emit({**root, **record})
            return
        if not self._headed:
            print(styled(change_heading(columns), "bold"))
            self._headed = True
        if title:
            print(title)
        _print(change_lines(rows, self.form, columns))

    def add_root(self, change: str, root: dict[str, Any], count: int) -> None:
        """Print that one side has a root which the other hasn't."""
        self.totals.roots += 1
        taken = self._take(1)
        self._require_more()
        if not taken:
            return
        if self._json:
            emit({"change": change, **root, "mappings": count})
        else:
            mapped = count_text(count, "mapping")
            _print([f"{SIGNS[change]} root {', '.join(root.values())}: {mapped}"])

    def _take(self, count: int) -> int:
        """Return how many of so many lines may be printed."""
        taken = min(count, self._left)
        self._left -= taken
        self.more |= taken < count
        return taken

    def _require_more(self) -> None:
        """Raise `LimitExceeded` where there are too many lines, and no limit was given."""
        if self.more and not self._limited:
            raise LimitExceeded(f"stopped after {_LIMIT:,} lines; --limit N prints so many")


_STYLES = {"+": "green", "-": "red", "~": "yellow"}


def _print(lines: Iterable[str]) -> None:
    """Print lines, on a terminal in the colour of what has become of what they name."""
    if sys.stdout.isatty():
        lines = (styled(line, _STYLES[line[0]]) for line in lines)
    for line in lines:
        print(line)


def _write_summary(
    options: argparse.Namespace, sides: list[_Side], totals: Totals, regions: RegionTotals | None
) -> None:
    if options.summary is None:
        return
    names = ("before", "after")
    of_sides = {
        name: {**each.followed.record(), **each.followed.roots_record()}
        for name, each in zip(names, sides, strict=True)
    }
    named = {} if regions is None else {"regions": regions.record()}
    record = {**totals.record(), **named, **of_sides}
    write_file(options.summary, f"{json.dumps(record, indent=1)}\n".encode())


def _conclude(
    options: argparse.Namespace,
    sides: list[_Side],
    listing: _Listing,
    regions: RegionTotals | None,
) -> int:
    """Report how much differs, and return the exit status."""
    for line in [] if regions is None else regions.lines():
        remark(line)
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
    where = (
        "" if regions is None else f" in {count_text(len(regions.counts), 'region')} of one name"
    )
    remark(f"no difference{where}{'' if whole else ' in what could be looked at'}")
    return 0
