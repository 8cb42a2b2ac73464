"""`--symbols`, `--in` and `--name`: what addresses are called, and mappings chosen by that."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.sources import is_guest
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.listings import Coded, Column, Mapped
from crosswalk.emu.report.text import count_text
from crosswalk.walker.chosen import Spans as Addresses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, SourceKind
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.frames import Frames
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.pages import Pages
from crosswalk.walker.roots.groups import pair_of
from crosswalk.walker.symbols import NO_NAMES, Names, Span, SpanKind, Spans
from crosswalk.walker.symbols.known import LAYOUT, NO_SYMBOLS, halves, known_names, vmcoreinfo_of
from crosswalk.walker.symbols.physical import physical_names
from crosswalk.walker.symbols.symbol_files import (
    SymbolFile,
    content_of,
    is_bzimage,
    parse_symbols,
)

__all__ = [
    "address_record",
    "address_text",
    "chosen_addresses",
    "chosen_names",
    "frame_columns",
    "guest_names",
    "kernel_context",
    "kernel_names",
    "known_regions",
    "name_columns",
    "reads_variables",
    "region_kind",
    "shown_names",
]

_AUTO, _LINUX = "auto", "linux"
"""What --symbols takes instead of a file."""


def chosen_names(options: argparse.Namespace, spaces: Spaces) -> Names:
    """Return the names that the options ask for.

    Those of --symbols; without it none, but where --in asks for a region, those of regions that
    are known without symbols. Remarks say where names are from. `BadInput` in one line for files
    that have none, and for symbols of another kernel.
    """
    asked = options.symbols
    if asked is None:
        return known_regions(options, spaces) if getattr(options, "within", None) else NO_NAMES
    source = spaces.source
    if asked == _AUTO and is_guest(options.source):
        return guest_names(spaces)
    if asked in (_AUTO, _LINUX) and options.symbols_offset is not None:
        raise BadInput(f"--symbols-offset is for a file of symbols, not for {asked}")
    if asked == _LINUX:
        return known_names(source, info=vmcoreinfo_of(source), linux=True, notice=remark)
    if asked == _AUTO:
        return _found(spaces)
    info = vmcoreinfo_of(source)
    offset = options.symbols_offset
    return known_names(source, _file_of(options), info=info, offset=offset, notice=remark)


def _file_of(options: argparse.Namespace) -> SymbolFile:
    """Return the file of --symbols, which is read once a command."""
    held: dict[str, SymbolFile] = vars(options).setdefault("symbol_files", {})
    if options.symbols not in held:
        held[options.symbols] = symbols_of(options.symbols)
    return held[options.symbols]


def reads_variables(
    options: argparse.Namespace,
) -> Callable[[PhysicalMemory, PagingContext], None] | None:
    """Return what reads the variables of a live kernel that names depend on, before it goes on.

    None where no file of --symbols says where they are.
    """
    if getattr(options, "symbols", None) in (None, _AUTO, _LINUX):
        return None
    file, offset = _file_of(options), options.symbols_offset

    def read(memory: PhysicalMemory, context: PagingContext) -> None:
        source = Source(name="", kind=SourceKind.LIVE, memory=memory, context=context)
        # What can't be read is told when names are asked for; now the guest is paused.
        with suppress(BadInput):
            known_names(source, file, offset=offset)

    return read


def symbols_of(path: str) -> SymbolFile:
    """Return the symbols in a file; in a bzImage those that the kernel has in itself."""
    with errors_named(path):
        content, name = content_of(path, remark), one_line(Path(path).name)
        if not is_bzimage(content):
            return parse_symbols(content, name)
        # It needs what other files don't: the loader of kernels.
        from crosswalk.emu.cli.kallsyms import kallsyms_of_image  # noqa: PLC0415

        lines, identity = kallsyms_of_image(content)
        return replace(parse_symbols(lines, name), identity=identity)


def _found(spaces: Spaces) -> Names:
    """Return the names that a source has itself."""
    source = spaces.source
    info = vmcoreinfo_of(source)
    if not info:
        remark(
            "no names of its own: no VMCOREINFO of a Linux kernel was found; --symbols FILE takes "
            "those of a file, --symbols linux the layout of Linux"
        )
        return replace(NO_NAMES, wider=halves(source.context))
    # It needs what other names don't: a process for drgn.
    from crosswalk.emu.cli.kallsyms import kallsyms_of_memory  # noqa: PLC0415

    file = NO_SYMBOLS
    try:
        lines, by = kallsyms_of_memory(source, info)
        file = parse_symbols(lines, "kallsyms")
        remark(f"{count_text(len(file.symbols), 'symbol')} out of the kernel's memory, by {by}")
    except BadInput as error:
        remark(f"regions alone, no symbols: {error}")
    return known_names(source, file, info=info, offset=0, notice=remark)


def known_regions(options: argparse.Namespace, spaces: Spaces) -> Names:
    """Return the regions that are known without symbols."""
    source = spaces.source
    if is_guest(options.source):
        return guest_names(spaces)
    info = vmcoreinfo_of(source)
    return known_names(source, info=info)


def kernel_names(spaces: Spaces, symbols: Path | None) -> Names:
    """Return the names in a Linux kernel that was booted here: those of a file of `symbols`.

    Without one those that its memory has, or at least its regions.
    """
    # Its memory is searched for VMCOREINFO, as one that is a file. User mode's root of page-table
    # isolation maps next to nothing of the kernel.
    context = kernel_context(spaces.source.memory, spaces.source.context)
    source = replace(spaces.source, complete=False, context=context)
    info = vmcoreinfo_of(source)
    if symbols is not None:
        return known_names(source, symbols_of(str(symbols)), info=info, linux=True)
    if not info:
        return known_names(source, linux=True)
    return _found(replace(spaces, source=source))


def kernel_context(memory: PhysicalMemory, context: PagingContext) -> PagingContext:
    """Return a context with the kernel's root, where its own is user mode's beside that."""
    kernel = pair_of(memory, context, ()) if context.root & FRAME else None
    return context if kernel is None else replace(context, cr3=kernel)


def guest_names(spaces: Spaces) -> Names:
    """Return the names of the built-in guest's memory map: those of its own description."""
    # What other commands don't need: the guest's description.
    from crosswalk.guest.layout import span_of  # noqa: PLC0415
    from crosswalk.guest.memory_map import memory_map  # noqa: PLC0415

    regions = [
        Span(
            each.name.replace(" ", "-").replace(":", ""),
            each.va,
            each.va + each.count * span_of(each.level),
            SpanKind.REGION,
        )
        for each in memory_map(spaces.source.context.levels).regions
    ]
    direct = [each for each in regions if each.name.startswith(_DIRECT_MAP)]
    whole = Span(_DIRECT_MAP, direct[0].start, max(each.end for each in direct), SpanKind.REGION)
    return replace(
        NO_NAMES,
        regions=Spans.of(SpanKind.REGION, regions),
        wider=(*halves(spaces.source.context), whole),
        source="the guest's memory map",
    )


_DIRECT_MAP = "direct-map"


def chosen_addresses(given: Mapping[str, Any], names: Names) -> Addresses | None:
    """Return the addresses that --in and --name choose; None where they aren't given.

    `given` are the values of options by name, of those that are given.

    `BadInput` in one line, with names like it, for a name that there isn't.
    """
    spans: list[Span] = []
    asked = given.get("symbols")
    within, called = given.get("within", ()), given.get("name", ())
    for text in within:
        spans += _named(names, text, tuple(SpanKind), "--in", asked)
    chosen = Addresses.of((each.start, each.end) for each in spans) if within else None
    held: list[Span] = []
    for text in called:
        held += _named(names, text, (SpanKind.SYMBOL,), "--name", asked)
    if not called:
        return chosen
    symbols = Addresses.of((each.start, each.end) for each in held)
    return symbols if chosen is None else _both(symbols, chosen)


def _both(some: Addresses, others: Addresses) -> Addresses:
    """Return the addresses of both, by the pages that they lie in."""
    ranges = []
    for first, last in zip(some.first.tolist(), some.last.tolist(), strict=True):
        touched = (others.first <= last) & (others.last >= first)
        ranges += [
            (max(first, int(begin)), min(last, int(end)) + 1)
            for begin, end in zip(others.first[touched], others.last[touched], strict=True)
        ]
    return Addresses.of(ranges)


def _named(
    names: Names, text: str, kinds: tuple[SpanKind, ...], name: str, asked: str | None
) -> list[Span]:
    """Return what has this name; `name` is the option, `asked` the value of --symbols, if any."""
    found = names.find(text, kinds)
    if found:
        return found
    near = names.near(text, kinds)
    what = "symbol" if kinds == (SpanKind.SYMBOL,) else "region, section or symbol"
    advice = (
        f"there is {', '.join(near)}" if near else "" if len(names.symbols) else _ways(names, asked)
    )
    raise BadInput(f"{name} {one_line(text)}: no such {what}{advice and f'; {advice}'}")


def _ways(names: Names, asked: str | None) -> str:
    """Return how a source that has no symbols gets names, but for the way that was tried."""
    if not len(names.regions):
        ways = {None: "FILE, auto or linux", _AUTO: "FILE or linux"}.get(asked, "FILE")
        return f"it has no names of its own: --symbols {ways} gives some"
    own = "--symbols auto, or --symbols FILE," if asked is None and names.source == LAYOUT else ""
    return f"{own or '--symbols FILE'} gives names of symbols"


def shown_names(options: argparse.Namespace, names: Names) -> Names:
    """Return the names that a listing shows: none where --symbols isn't given."""
    return NO_NAMES if options.symbols is None else names


_MODULE = " ["
_REGION = "the region, or section, that the first byte lies in"
_SYMBOL_OF_RANGE = "the first symbol of the range; with its distance, where it begins before"
_LAST_SYMBOL = "the last symbol of the range"
_SYMBOL = "the symbol that the first byte lies in; of a range the first one and the last"


def name_columns(names: Names) -> list[Column]:
    """Return the columns of names, those that there are names for."""
    columns = []
    if len(names.regions) or len(names.sections):
        longest = [len(each.name) for each in names.regions] if len(names.regions) < 200 else []
        width = min(max([*longest, len("REGION")]), 24)
        columns.append(Column("region", "REGION", width, _region_values(names), _REGION))
    if len(names.symbols):
        ends = (
            Column("symbol", "SYMBOL", 0, _end_values(names, 0), _SYMBOL_OF_RANGE),
            Column("last_symbol", "LAST SYMBOL", 0, _end_values(names, 1), _LAST_SYMBOL),
        )
        columns.append(Column("symbol", "SYMBOL", 0, _symbol_values(names), _SYMBOL, ends))
    return columns


def _region_values(names: Names) -> Callable[[Mapped, PagingContext], Coded]:
    return lambda rows, _: Coded(*names.region_codes(rows.va))


def _symbol_values(names: Names) -> Callable[[Mapped, PagingContext], Coded]:
    def values(rows: Mapped, _: PagingContext) -> Coded:
        if isinstance(rows, Ranges):
            texts = names.range_texts(rows.va, rows.va + (rows.size - np.uint64(1)))
        else:
            coded = Coded(*names.symbol_codes(rows.va))
            if not any(_MODULE in text for text in coded.texts):
                return coded
            # The distance stands before the module's name, and so is a part of the text.
            texts = names.symbol_texts(rows.va)
        return _each(texts)

    return values


def _end_values(names: Names, end: int) -> Callable[[Mapped, PagingContext], Coded]:
    return lambda rows, _: _each(
        names.end_texts(rows.va, rows.va + (rows.size - np.uint64(1)))[end]
    )


def _each(texts: list[str | None]) -> Coded:
    codes = np.arange(len(texts), dtype=np.intp)
    codes[[text is None for text in texts]] = -1
    return Coded(codes, [text or "" for text in texts])


def frame_columns(names: Names, spaces: Spaces) -> list[Column]:
    """Return the column of the regions that map physical ranges, where there are regions.

    All that are named but for the direct map, which maps all RAM: it is named where it is the only
    one.
    """
    if not len(names.regions):
        return []
    known = physical_names(spaces.source.memory, spaces.walked, names)

    def values(rows: Frames, _: PagingContext) -> Coded:
        codes, sets = known.sets(rows.start, rows.size)
        texts = [", ".join(_without_direct_map(each)) for each in sets]
        return Coded(
            np.where([bool(each) for each in sets], np.arange(len(sets)), -1)[codes], texts
        )

    return [Column("regions", "REGIONS", 0, values, "the regions that map the range")]


def _without_direct_map(regions: tuple[str, ...]) -> tuple[str, ...]:
    others = tuple(each for each in regions if not each.startswith(_DIRECT_MAP))
    return others or regions


def region_kind(names: Names) -> Callable[[Pages], NDArray[np.uint8]] | None:
    """Return what keeps ranges from going on from one region into another; None without names.

    It numbers the region of each page, modulo 255: neighbours have different numbers.
    """
    if not len(names.regions):
        return None
    return lambda pages: ((names.regions.rows_at(pages.va) + 1) % 255).astype(np.uint8)


def address_record(names: Names, va: int) -> dict[str, Any]:
    """Return what an address is called, as JSON has it; nothing without names."""
    if not names:
        return {}
    one = np.array([va], np.uint64)
    return {"region": names.region_texts(one)[0], "symbol": names.symbol_texts(one)[0]}


def address_text(names: Names, va: int) -> str:
    """Return what an address is called, to stand behind a line; "" for nothing."""
    text = names.text(va)
    return f"  {text}" if text else ""
