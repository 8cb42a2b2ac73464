"""`protect SOURCE --map`: physical memory before and after, as a page for a browser."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.followed import Followed
from crosswalk.emu.cli.output import command_line, remark
from crosswalk.emu.cli.parser import release
from crosswalk.emu.cli.sources import source_words
from crosswalk.emu.report.map.page import Finding, MapPage, Spot, map_html
from crosswalk.emu.report.map.views import Colouring, Shade, View, memory_view
from crosswalk.emu.report.protection import summary_lines
from crosswalk.emu.report.source import source_text
from crosswalk.emu.report.text import size_text
from crosswalk.walker.condensed import Condensed, Form, condensed_frames
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.frames import Frames
from crosswalk.walker.protection.policy import TableKind, Use, protect
from crosswalk.walker.protection.summary import Summary, summarise
from crosswalk.walker.rights import rwx
from crosswalk.walker.symbols import NO_NAMES

__all__ = ["write_protection_map"]

_MOST = 500_000
"""The most rows of a view."""
_FINDINGS = 256
_EVERY = Use.READ | Use.WRITE | Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE
_NOTE = (
    "A hypervisor that knows nothing of its guest grants every page of RAM everything. The policy "
    "grants each what some mapping of it allows, for any privilege level; a page that nothing maps "
    "may be read and written."
)
_EXECUTE = np.uint8(Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE)


def write_protection_map(
    options: argparse.Namespace,
    followed: Followed,
    frames: Frames,
    kind: TableKind,
) -> None:
    """Write what second-level tables grant before and after the policy; `frames` are its input."""
    memory = followed.source.memory
    summary = summarise(memory, followed.spaces.walked, frames, kind)
    found = protect(frames, memory.ranges, kind)
    ram = [(start, size) for start, size in memory.ranges if size]
    start, size = (np.array(column, np.uint64) for column in zip(*ram, strict=True))
    before = Frames(start, size, np.full(len(ram), _EVERY, np.uint8))
    after = Frames(found.start, found.size, found.granted)
    source = PurePath(one_line(followed.source.name)).name or "SOURCE"
    again = source_words(options)
    if followed.spaces.named:
        again += ["--roots", options.roots]
    command = command_line(
        ["crosswalk", "protect", *again, "--tables", kind.value, "--format", "json"]
    )
    named = kind.value.upper()
    views = [
        _view(after, f"After: what {named} grants by the policy", command),
        _view(before, f"Before: what {named} grants of itself", command),
    ]
    views[0].beside = 1
    findings, more = _findings(after), followed.more()
    page = MapPage(
        title=f"What the policy grants of {source}",
        about=source_text(followed.source),
        made_by=release(),
        views=views,
        names=NO_NAMES,
        findings=findings,
        verdicts=_verdicts(followed, summary, findings),
        notes=[*([more] if more else []), _NOTE],
        of_command=command_line(["crosswalk", "frames", *again, "--of", "PA"]),
    )
    data = map_html(page)
    write_file(options.map, data)
    remark(f"{options.map}: {size_text(len(data))}")


def _view(frames: Frames, title: str, command: str) -> View:
    rows, folding = condensed_frames(frames, _MOST)
    view = memory_view(rows, folding, command=command)
    view.title, view.colourings = title, (_colouring(rows),)
    view.axis = replace(view.axis, empty="not RAM")
    view.summary = view.summary.replace("collective rights", "grants")
    return view


def _colouring(rows: Condensed) -> Colouring:
    """Return the colouring by what is granted: `rights` of the rows are a `Use`."""
    key = rows.rights.astype(np.uint16) * 2 + (rows.form == Form.MIXED)
    values, of = np.unique(key, return_inverse=True)
    shades = tuple(_shade(Use(value >> 1), mixed=bool(value & 1)) for value in values.tolist())
    note = "Of two lanes, the upper one is for code of the supervisor, the lower one for user mode."
    lanes = any(len(each.lanes) > 1 for each in shades)
    return Colouring("rights", "granted", shades, of.astype(np.uint8), note if lanes else "")


def _shade(use: Use, *, mixed: bool) -> Shade:
    letters = [
        rwx(int(use & (Use.READ | Use.WRITE)) | (4 if use & each else 0))
        for each in (Use.SUPERVISOR_EXECUTE, Use.USER_EXECUTE)
    ]
    shown = letters[:1] if letters[0] == letters[1] else letters
    name = " for the supervisor's code, ".join(shown) + (" for user mode's" if shown[1:] else "")
    if mixed:
        name += " (several grants together, folded)"
    styles = tuple(each.replace("-", "") or "none" for each in shown)
    serious = any({"w", "x"} <= set(each) for each in shown)
    return Shade(name, "/".join(shown), styles, serious)


def _verdicts(followed: Followed, summary: Summary, findings: Sequence[Finding]) -> list[str]:
    """Return what of RAM is mapped, and whether anything is left to write and execute."""
    first = next(iter(summary_lines(summary, followed.no_frame())))
    if not findings:
        return [f"{first}.", f"W^X: {followed.no_frame()}."]
    return [f"{first}.", "May be written and executed all the same, since mappings allow both:"]


def _findings(after: Frames) -> list[Finding]:
    """Return what may be written and executed all the same, the first of it."""
    both = (after.rights & np.uint8(Use.WRITE) != 0) & (after.rights & _EXECUTE != 0)
    return list(islice(_ranges(after, np.flatnonzero(both)), _FINDINGS))


def _ranges(after: Frames, rows: NDArray[np.intp]) -> Iterator[Finding]:
    for pa, size in zip(after.start[rows].tolist(), after.size[rows].tolist(), strict=True):
        text = f"{pa:#x}-{pa + size - 1:#x}, {size_text(size)}: writing and executing"
        yield Finding(text, (Spot(0, pa),), serious=True)
