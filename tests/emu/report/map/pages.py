"""Pages to look at, made of small tables."""

import re
from dataclasses import replace

from crosswalk.emu.report.map.page import Finding, MapPage, Spot, map_html
from crosswalk.emu.report.map.views import memory_view, space_view
from crosswalk.walker.condensed import condensed, condensed_frames
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.symbols import NO_NAMES, Span, SpanKind, Spans
from tests.tables import KIB4, MIB2, OPEN, PS, RW, XD, P, PageTables, context

MIB = 1 << 20
UPPER = 0xFFFF_8000_0000_0000
TEXT, DATA, STACK = UPPER + 0x10_0000, UPPER + 0x20_0000, UPPER + 0x7000_0000_0000
TEXT_PA, DATA_PA, SHARED_PA = 0x30_0000, 0x80_0000, 0x50_0000


def tables():
    """A kernel's text and data, a window with all of memory in large pages, and a user's pages."""
    made = PageTables()
    for at in range(8):
        made.map(TEXT + at * KIB4, TEXT_PA + at * KIB4, P)
    for at in range(1024):
        made.map(DATA + at * KIB4, DATA_PA + at * KIB4, P | RW | XD)
    for at in range(4):
        made.map(STACK + at * MIB2, at * MIB2, P | RW | XD | PS, level=2)
    made.map(0x40_0000, SHARED_PA, OPEN)
    made.map(0x40_1000, SHARED_PA, OPEN | XD)
    return made


def names(*texts):
    """Regions and symbols; `texts` are more names of symbols, all at the text's second page."""
    regions = (Span("text", TEXT, TEXT + 8 * KIB4, SpanKind.REGION),)
    regions += (Span("window", STACK, STACK + 4 * MIB2, SpanKind.REGION),)
    symbols = [
        Span("start", TEXT, TEXT + 0x20, SpanKind.SYMBOL),
        Span("do_work", TEXT + 0x2010, TEXT + 0x3000, SpanKind.SYMBOL),
        *(Span(text, TEXT + KIB4, TEXT + KIB4 + 16, SpanKind.SYMBOL) for text in texts),
    ]
    return replace(
        NO_NAMES,
        regions=Spans.of(SpanKind.REGION, regions),
        symbols=Spans.of(SpanKind.SYMBOL, symbols),
    )


def view(memory, asked, *, most=1000, beside=1, title="root"):
    rows, folding = condensed(memory, asked, most)
    made = space_view(
        asked, rows, folding, title=title, command="crosswalk walk F --start START --end END"
    )
    made.beside = beside
    return made


def page(made=None, *, most=1000, title="A map", called=(), findings=None):
    """The page of one address space and its memory."""
    made = tables() if made is None else made
    asked = context(made.mode, root=made.root)
    rows, folding = condensed_frames(collective_rights(made.memory, asked), most)
    found = [
        Finding("W^X: the shared frame", (Spot(0, 0x40_0000), Spot(1, SHARED_PA)), serious=True),
        Finding("the data", (Spot(0, DATA),)),
    ]
    return MapPage(
        title=title,
        about="made for a test",
        made_by="crosswalk",
        views=[
            view(made.memory, asked, most=most),
            memory_view(rows, folding, command="crosswalk frames F"),
        ],
        names=names(*called),
        findings=found if findings is None else findings,
        verdicts=["W^X: one range."],
        of_command="crosswalk frames F --of PA",
    )


def html(*arguments, **settings):
    return map_html(page(*arguments, **settings))


def element(data, name):
    found = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', data.decode(), re.DOTALL)
    return found[1]


__all__ = [
    "DATA",
    "SHARED_PA",
    "STACK",
    "TEXT",
    "element",
    "html",
    "names",
    "page",
    "tables",
    "view",
]
