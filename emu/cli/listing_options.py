"""Options of listings of mappings, as data: what is chosen, names, and how lists are written."""

import argparse

from crosswalk.emu.cli.options import (
    Group,
    Option,
    names_of,
    not_empty,
    number,
    option,
    output_file,
    size,
)

__all__ = [
    "FILTERS",
    "FORMATS",
    "FRAME_FILTERS",
    "IN",
    "NAMES",
    "PAGE_SIZES",
    "SYMBOLS",
]

_PRIVILEGES = ("user", "supervisor")
PAGE_SIZES = {"4K": 12, "2M": 21, "4M": 22, "1G": 30}
"""The sizes of pages, as shifts."""

_PA_BITS = 52
_SHOWN = 80


def physical_range(text: str) -> tuple[int, int]:
    """Return a range [start, end) of physical addresses, as a parser's type.

    START-END, START- up to the last address, or START+SIZE with K, M, G or T behind SIZE.
    """
    for sign in "-+":
        first, found, second = text.partition(sign)
        if found:
            start = number(bits=_PA_BITS)(first)
            top = 1 << _PA_BITS
            if sign == "+":
                end = start + size(second)
            else:
                end = number(bits=_PA_BITS + 1)(second) if second.strip() else top
            if end <= start:
                raise argparse.ArgumentTypeError(f"{text[:_SHOWN]}: an empty range")
            return start, min(end, top)
    raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not START-END or START+SIZE")


def alias_target(text: str) -> tuple[str, int]:
    """Return "va" or "pa" and the address, as a parser's type: an address is a linear one.

    Unless it has pa: before it.
    """
    kind, colon, address = text.strip().rpartition(":")
    if colon and kind not in ("va", "pa"):
        raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is none of VA, va:VA, pa:PA")
    if kind == "pa":
        return kind, number(bits=_PA_BITS)(address)
    return "va", number()(address)


def flags(text: str) -> str:
    """Return the text, as a parser's type, if `--flags` has such a meaning."""
    # It imports numpy, which help does without.
    from crosswalk.emu.cli.flags import parse_flags  # noqa: PLC0415
    from crosswalk.walker.errors import BadInput  # noqa: PLC0415

    try:
        parse_flags(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _flag(name: str, what: str) -> Option:
    return option(f"--{name}", action="store_true", help=f"only pages that {what}")


def _by(right: str, verb: str) -> Option:
    """Return the option that asks for a right of one privilege."""
    return option(
        f"--{right}-by", choices=list(_PRIVILEGES), help=f"only what this privilege may {verb}"
    )


_PA = option(
    "--pa",
    metavar="START-END",
    action="append",
    type=physical_range,
    help="only what lies in these physical addresses, END not included; START+SIZE, as "
    "0x100000+2M, and START- as well; may be repeated, for either",
)
_RIGHTS = (
    _by("readable", "read"),
    _by("writable", "write"),
    _by("executable", "execute"),
    option("--wx", action="store_true", help="only what one privilege may both write and execute"),
)
FILTERS = Group(
    "choosing mappings: all that is asked for has to hold",
    (
        _flag("writable", "the supervisor or user mode may write"),
        _flag("executable", "the supervisor or user mode may execute"),
        _flag("user", "user mode may access"),
        *_RIGHTS,
        option("--level", choices=["1", "2", "3"], help="only leaves of this level"),
        option(
            "--page-size",
            commas=True,
            metavar="SIZES",
            type=names_of(*PAGE_SIZES),
            help="only pages of these sizes, with commas: 4K, 2M, 4M, 1G",
        ),
        option(
            "--flags",
            commas=True,
            metavar="NAME=VALUE[,...]",
            type=flags,
            help="only pages whose leaf entry has these flags, by the names of `crosswalk matrix "
            "--list`, as pwt=1,g=0 or pde.nx=1; pk=3 is a protection key; the entries above the "
            "leaf are not looked at (--writable-by and the like are of all together)",
        ),
        _PA,
        option(
            "--frame",
            metavar="PA",
            action="append",
            type=number(bits=_PA_BITS),
            help="only mappings of the 4-KiB frame that holds this physical address; may be "
            "repeated, for either",
        ),
        option(
            "--aliases-of",
            metavar="VA|pa:PA",
            type=alias_target,
            help="only mappings of the 4-KiB frame that this linear address maps, itself included; "
            "with pa: before it, of the frame of a physical address",
        ),
    ),
)
"""Which mappings a command is about: `crosswalk.emu.cli.selection` takes their values."""

FRAME_FILTERS = Group(
    "choosing physical ranges: all that is asked for has to hold", (_PA, *_RIGHTS)
)
"""Which physical ranges `frames` lists."""


def distance(text: str) -> int:
    """Return how far symbols are moved, as a parser's type: it may be negative."""
    return -number()(text[1:]) if text.startswith("-") else number()(text)


SYMBOLS: tuple[Option, ...] = (
    option(
        "--symbols",
        reads=True,
        metavar="FILE|auto|linux",
        type=not_empty,
        help="name regions, sections and symbols: by a System.map, nm's output, a copy of "
        "/proc/kallsyms, an ELF file (vmlinux) or a bzImage; auto: by what SOURCE has itself; "
        "linux: by the tables of a Linux kernel alone",
        needs="source",
    ),
    option(
        "--symbols-offset",
        metavar="VALUE",
        type=distance,
        help="how far the symbols of FILE are moved, where KASLR's offset isn't found by itself",
        needs="symbols",
    ),
)
"""What gives addresses names."""

IN: tuple[Option, ...] = (
    option(
        "--in",
        dest="within",
        action="append",
        metavar="NAME",
        type=not_empty,
        help="only pages that touch this region, section or symbol, or those that match a shell "
        "pattern; may be repeated",
        needs="source",
    ),
    option(
        "--name",
        action="append",
        metavar="PATTERN",
        type=not_empty,
        help="only pages that hold a symbol that matches, as 'ext4*'; may be repeated",
        needs="symbols",
    ),
)
"""Mappings chosen by name."""

NAMES = Group("names", (*SYMBOLS, *IN))
"""Both, where mappings are listed."""

FORMATS = Group(
    "the form of the list",
    (
        option(
            "--format",
            choices=["text", "json", "csv", "parquet", "arrow"],
            help="lines (text), a record a line (json, as --json), or a table; tables need "
            "pyarrow: pip install 'crosswalk-x86[arrow]'",
        ),
        option(
            "-o",
            "--output",
            metavar="FILE",
            type=output_file,
            help="write the list to this file, whole or not at all, instead of standard output",
        ),
        option(
            "--legend",
            action="store_true",
            help="explain columns, flags, rights and colours, on standard error",
        ),
    ),
)
"""How lists are written: `crosswalk.emu.cli.listing_output` takes their values."""
