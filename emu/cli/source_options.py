"""SOURCE and the options that go with it."""

import argparse
from dataclasses import replace
from typing import Any

from crosswalk.emu.cli.output import remark
from crosswalk.emu.load.builtin import booted_guest, names_guest
from crosswalk.emu.report.source import begins_text, missing_text, source_text
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import (
    Contents,
    Registers,
    Source,
    SourceKind,
    open_contents,
    parse_int,
    source_of,
)
from crosswalk.walker.formats.registers import ASSUMED_WIDTH
from crosswalk.walker.leaves import TOP

__all__ = [
    "add_range",
    "add_source",
    "chosen_range",
    "chosen_source",
    "rootless_contents",
    "tell_source",
]

_WIDEST = 52

_NUMBERS = {"cr3": 64, "cr4": 64, "cr0": 64, "efer": 64, "pkru": 32, "encryption_mask": 64}
_MEANINGS = {"encryption_mask": "bits of entries and of CR3 that are no address (C-bit, key IDs)"}


def add_source(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add SOURCE and the options that say how to read it."""
    what = "case, ELF core, raw image, or guest:4level"
    parser.add_argument("source", metavar="SOURCE", nargs="?" if optional else None, help=what)
    group = parser.add_argument_group("registers and features, before what SOURCE says")
    for name in _NUMBERS:
        what = _MEANINGS.get(name, f"{name.upper()}, hex or decimal")
        group.add_argument(_option(name), metavar="VALUE", help=what)
    group.add_argument("--ac", action="store_true", help="state rights with RFLAGS.AC set")
    group.add_argument("--maxphyaddr", metavar="BITS", help="physical address width, 32 to 52")
    group.add_argument("--no-page1gb", action="store_true", help="the CPU has no 1-GiB pages")
    group.add_argument("--vendor", choices=[vendor.value for vendor in Vendor])
    group = parser.add_argument_group("reading SOURCE")
    group.add_argument(
        "--kind", choices=[kind.value for kind in SourceKind], help="don't guess what SOURCE is"
    )
    group.add_argument("--cpu", metavar="N", default="0", help="which CPU of an ELF core (0)")
    group.add_argument("--base", metavar="PA", default="0", help="where a raw image begins (0)")


def chosen_source(
    options: argparse.Namespace, *, nested: bool = False, listing: bool = False
) -> Source:
    """Return the source that the options name; `nested` and `BadInput` as in `open_source`.

    Where MAXPHYADDR isn't known, a `listing` takes 52, which hides no mapping, and everything
    else 40, which is what the emulated CPU has.
    """
    registers = _registers(options)
    name = options.source
    if names_guest(name):
        return _guest(name, registers, options, nested=nested)
    width = _WIDEST if listing else ASSUMED_WIDTH
    return source_of(_contents(options), registers, nested=nested, width=width)


def rootless_contents(options: argparse.Namespace) -> Contents | None:
    """Return what is in the file that the options name, where nothing says what CR3 is."""
    if names_guest(options.source) or options.cr3 is not None:
        return None
    contents = _contents(options)
    return contents if contents.registers.cr3 is None else None


def _contents(options: argparse.Namespace) -> Contents:
    return open_contents(
        options.source,
        cpu=parse_int(options.cpu, "--cpu", bits=16),
        base=parse_int(options.base, "--base", bits=52),
        kind=options.kind,
    )


def tell_source(source: Source) -> None:
    """Say on standard error what the source has, what is assumed and what is told from it."""
    remark(source_text(source))
    if source.assumed:
        remark(f"assumed: {', '.join(source.assumed)}")
    for text in source.remarks:
        remark(text)
    if source.missing:
        remark(missing_text(source))
    if source.begins_as:
        remark(begins_text(source))


def add_range(parser: argparse.ArgumentParser) -> None:
    """Add the options for a range of linear addresses."""
    parser.add_argument("--start", metavar="VA", default="0", help="only from this address on (0)")
    parser.add_argument("--end", metavar="VA", help="only up to this address, not included")


def chosen_range(options: argparse.Namespace) -> tuple[int, int]:
    """Return [start, end) as chosen; `BadInput` if it isn't a range."""
    start = parse_int(options.start, "--start")
    end = TOP if options.end is None else parse_int(options.end, "--end", bits=65)
    if not start < end <= TOP:
        raise BadInput(f"no range: --start {start:#x}, --end {end:#x}")
    return start, end


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _registers(options: argparse.Namespace) -> Registers:
    numbers: dict[str, Any] = {
        name: parse_int(text, _option(name), bits=bits)
        for name, bits in _NUMBERS.items()
        if (text := getattr(options, name)) is not None
    }
    width = options.maxphyaddr
    return Registers(
        **numbers,
        rflags_ac=True if options.ac else None,
        maxphyaddr=None if width is None else parse_int(width, "--maxphyaddr", bits=8),
        page1gb=False if options.no_page1gb else None,
        vendor=None if options.vendor is None else Vendor(options.vendor),
    )


def _guest(name: str, registers: Registers, options: argparse.Namespace, *, nested: bool) -> Source:
    if options.kind is not None or options.cpu != "0" or options.base != "0":
        raise BadInput(f"{name}: --kind, --cpu and --base are for files")
    booted = booted_guest(name)
    context = replace(booted.context, **registers.given())
    if not nested and booted.memory.word(context.root) is None:
        raise BadInput(f"{name}: CR3 {context.cr3:#x} points outside the guest's RAM")
    return Source(
        name=name,
        kind=SourceKind.RAW,
        memory=booted.memory,
        context=context,
        complete=True,
    )
