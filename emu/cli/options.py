"""Options as data: types that check what is given, and the groups that several commands share.

Nothing here imports more than the standard library, so that help and completion cost no more.
Choices and defaults that other rooms define stand here as literals; tests hold them to those.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = [
    "ALLOW_EMPTY",
    "ASSUME",
    "JOBS",
    "MODE",
    "MUTING",
    "OUTPUTS",
    "PARTIAL",
    "PATHS",
    "RANGE",
    "REPORTING",
    "REPORTS",
    "ROOTS",
    "SEED",
    "SELECT",
    "SOURCE",
    "SUMMARY",
    "UNPACK_LIMIT",
    "VERBOSE",
    "WALKER_LIMITS",
    "WALKER_MUTING",
    "WALKER_REPORTING",
    "Command",
    "Group",
    "Option",
    "flag",
    "json_option",
    "names_of",
    "not_empty",
    "number",
    "option",
    "optional_file",
    "options_of",
    "output_file",
    "output_folder",
    "report_file",
    "seconds",
    "size",
    "source",
    "walker",
]

REPORTS = (".md", ".html", ".sarif")
"""The endings of files that `--report` writes."""

UNPACK_LIMIT = 32 << 30
"""The most bytes that a compressed file may unpack to by default."""

_HEX = re.compile(r"0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*")
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(_[0-9]+)*")
_SHOWN = 80  # Longer than any 64-bit number, which keeps int() cheap and errors short.


def number(*, bits: int = 64, least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Return a parser's type: a number of up to `bits` bits, from `least` to `most`.

    It reads hex with 0x, or decimal; underscores may group digits.
    """

    def parse(text: str) -> int:
        shown, digits = text.strip()[:_SHOWN], text.strip().removeprefix("-").replace("_", "")
        if not _is_number(text.strip().removeprefix("-")):
            raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a number (0x1f00 or 7936)")
        if shown.startswith("-"):
            raise argparse.ArgumentTypeError(f"{shown} is negative")
        base = 16 if "x" in digits.lower() else 10
        value = int(digits, base) if len(digits) <= _SHOWN else 1 << bits
        if value >= 1 << bits:
            most_of_all = f"is more than {(1 << bits) - 1:,}"  # Of a count; registers have bits.
            raise argparse.ArgumentTypeError(
                f"{shown} {most_of_all if bits < 32 else f'does not fit in {bits} bits'}"
            )
        if value < least:
            raise argparse.ArgumentTypeError(f"{shown} is less than {least:,}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{shown} is more than {most:,}")
        return value

    return parse


_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def size(text: str) -> int:
    """Return a number of bytes, as a parser's type: K, M, G or T behind it are powers of 1,024."""
    shift = _UNITS.get(text.strip()[-1:].upper(), 0)
    value = number()(text.strip()[:-1] if shift else text) << shift
    return number()(str(value))


def _is_number(text: str) -> bool:
    return bool(_HEX.fullmatch(text) or _DECIMAL.fullmatch(text))


def seconds(most: float) -> Callable[[str], float]:
    """Return a parser's type: a time above 0 and up to `most` seconds, fractions allowed."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a number") from None
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {most:g}")
        return value

    return parse


def not_empty(text: str) -> str:
    """Return the text, as a parser's type: one that isn't empty, as an unset variable is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty text")
    return text


def optional_file(text: str) -> Path | None:
    """Return the path of a file, as a parser's type; an empty text takes back one given before."""
    return Path(text) if text else None


def output_file(text: str) -> Path:
    """Return the path of a file to write, as a parser's type: one that can be written there."""
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    if text == "-":
        raise argparse.ArgumentTypeError(
            "-: standard output is no file (/dev/stdout is, and ./- a file of that name)"
        )
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a directory")
    _require_folder(path.parent, text)
    return path


def report_file(text: str) -> Path:
    """Return the path of a report to write, as a parser's type: its ending says the format."""
    path = output_file(text)
    if path.suffix not in REPORTS:
        raise argparse.ArgumentTypeError(f"{text}: ends in none of {', '.join(REPORTS)}")
    return path


def output_folder(text: str) -> Path:
    """Return the path of a folder to write to, made where it isn't there, as a parser's type."""
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    _require_folder(there, text)
    return path


def _require_folder(folder: Path, text: str) -> None:
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: no name has a NUL in it")
    if not folder.is_dir():
        why = "Not a directory" if folder.exists() else "No such file or directory"
        raise argparse.ArgumentTypeError(f"{text}: {why}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: Permission denied")


PATHS = (Path, optional_file, output_file, output_folder, report_file)
"""The types of options that name a file or a folder."""

OUTPUTS = (output_file, report_file)
"""The types of options that name a file to write."""


def names_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser's type: some of these names, with commas, each once, in this order."""

    def parse(text: str) -> tuple[str, ...]:
        given = [part.strip() for part in text.split(",")]
        for part in given:
            if part not in names:
                raise argparse.ArgumentTypeError(f"{part[:_SHOWN]!r} is none of {', '.join(names)}")
        return tuple(name for name in names if name in given)

    return parse


@dataclass(frozen=True, slots=True)
class Option:
    """An option or a positional argument of a command, as argparse takes it.

    `needs` are the dests of options, or positional arguments, without any of which this one says
    nothing.
    `commas`: it takes several values, with commas between them. `reads`: its value names a file
    that is read, or a folder of them.
    """

    names: tuple[str, ...]
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    commas: bool = False
    reads: bool = False

    @property
    def default(self) -> Any:
        """Its value where it isn't given."""
        return self.settings.get("default")

    @property
    def positional(self) -> bool:
        """Whether it is an argument known by its place."""
        return not self.names[0].startswith("-")

    @property
    def dest(self) -> str:
        """The name of its value in the namespace."""
        name = next((each for each in self.names if each.startswith("--")), self.names[0])
        return str(self.settings.get("dest") or name.lstrip("-").replace("-", "_"))


@dataclass(frozen=True, slots=True)
class Group:
    """Options under a title of their own in the help."""

    title: str
    options: tuple[Option, ...]


def option(
    *names: str,
    needs: str | tuple[str, ...] = (),
    commas: bool = False,
    reads: bool = False,
    **settings: Any,
) -> Option:
    """Return an option with the settings of `ArgumentParser.add_argument`."""
    return Option(names, settings, _several(needs), commas, reads)


def _several(needs: str | tuple[str, ...]) -> tuple[str, ...]:
    return (needs,) if isinstance(needs, str) else needs


def flag(name: str, help: str, needs: str | tuple[str, ...] = ()) -> Option:  # noqa: A002  # As argparse has it.
    """Return an option without a value."""
    return Option((name,), {"action": "store_true", "help": help}, _several(needs))


def source(*, optional: bool = False) -> tuple[Option | Group, ...]:
    """Return SOURCE and the options that say how to read it."""
    registers = (
        ("--cr3", 64, "CR3, hex or decimal"),
        ("--cr4", 64, "CR4, hex or decimal"),
        ("--cr0", 64, "CR0, hex or decimal"),
        ("--efer", 64, "EFER, hex or decimal"),
        ("--pkru", 32, "PKRU, hex or decimal"),
        ("--pkrs", 32, "IA32_PKRS, hex or decimal"),
        (
            "--encryption-mask",
            64,
            "bits of entries and of CR3 that are not part of an address (C-bit, key IDs)",
        ),
    )
    vendors = ["intel", "amd"]
    kinds = ["case", "elf", "raw", "lime", "kdump", "avml", "layer", "kcore"]
    return (
        option(
            "source",
            reads=True,
            metavar="SOURCE",
            type=not_empty,
            nargs="?" if optional else None,
            help="ELF core, kdump-compressed file, LiME or AVML image, raw image, case file, or "
            "another of docs/sources.md, also compressed; /proc/kcore; gdb:HOST:PORT, a live "
            "guest; guest:4level or guest:5level",
        ),
        Group(
            "registers and features, instead of what SOURCE says",
            (
                *(
                    option(name, metavar="VALUE", type=number(bits=bits), help=what, needs="source")
                    for name, bits, what in registers
                ),
                flag("--ac", "state rights with RFLAGS.AC set", "source"),
                option(
                    "--maxphyaddr",
                    metavar="BITS",
                    type=number(bits=8),
                    help="physical address width, 32 to 52",
                    needs="source",
                ),
                flag("--no-page1gb", "the CPU has no 1-GiB pages", "source"),
                option("--vendor", choices=vendors, help="the CPU's vendor", needs="source"),
            ),
        ),
        Group(
            "reading SOURCE",
            (
                option("--kind", choices=kinds, help="the format of SOURCE", needs="source"),
                option(
                    "--cpu",
                    metavar="N",
                    type=number(bits=16),
                    help="which CPU of an ELF core or a live guest (0)",
                    needs="source",
                ),
                option(
                    "--base",
                    metavar="PA",
                    type=number(bits=52),
                    default=0,
                    help="where a raw image begins (0)",
                    needs="source",
                ),
                option(
                    "--gdb-timeout",
                    metavar="SECONDS",
                    type=seconds(3600),
                    default=10.0,
                    help="how long a live guest's stub may take to answer (10)",
                    needs="source",
                ),
                flag(
                    "--leave-paused",
                    "leave a live guest paused, also where it ran before",
                    "source",
                ),
                option(
                    "--memory-map",
                    metavar="MAP",
                    action="append",
                    reads=True,
                    type=not_empty,
                    help="where a raw image lies: FILE_OFFSET:PA:SIZE (repeatable), @FILE of such "
                    "pieces, pc:SIZE with the RAM below the hole, or one of qemu-pc, qemu-q35, "
                    "qemu-microvm, vmware, firecracker, cloud-hypervisor",
                    needs="source",
                ),
                option(
                    "--unpack-to",
                    metavar="DIR",
                    type=not_empty,
                    help="the folder for what a compressed SOURCE unpacks to (TMPDIR, or /var/tmp)",
                    needs="source",
                ),
                option(
                    "--unpack-limit",
                    metavar="SIZE",
                    type=size,
                    default=UNPACK_LIMIT,
                    help="the most that it may unpack to, as 64G (32G); 0: nothing is unpacked",
                    needs="source",
                ),
            ),
        ),
    )


SOURCE = source()
RANGE = (
    option("--start", metavar="VA", type=number(), default=0, help="begin at this address (0)"),
    option("--end", metavar="VA", type=number(bits=65), help="end before this address"),
)
ALLOW_EMPTY = flag("--allow-empty", "accept an address space without any mapping", "source")
PARTIAL = flag(
    "--partial",
    "accept a SOURCE that lacks some of the tables: exit with 0 where nothing is found in the "
    "others, and say that they are a part",
    "source",
)
ROOTS = option(
    "--roots",
    reads=True,
    metavar="all|FILE|CR3[,...]",
    type=not_empty,
    help="all address spaces of SOURCE that are known (no strays), or those of a list of CR3s, or "
    "of a file of them, as `crosswalk roots --json` prints it or with a CR3 a line",
    needs="source",
)
SUMMARY = option(
    "--summary",
    metavar="FILE",
    type=output_file,
    help="write the number of mappings, and what can't be followed, as a JSON document",
)
JOBS = option(
    "--jobs",
    metavar="N",
    type=number(bits=8, least=1),
    default=os.cpu_count() or 1,
    help="processes (one a CPU)",
)
VERBOSE = flag("--verbose", "explain the known divergences")

_MIB = number(bits=24, least=1)
MODE = option(
    "--mode",
    commas=True,
    type=names_of("32bit", "pae", "4level", "5level"),
    default=(),
    metavar="MODES",
    help="paging modes to ask in, with commas: 32bit, pae, 4level, 5level",
)
ASSUME = option(
    "--assume",
    commas=True,
    type=names_of("wellformed", "canonical", "tree"),
    default=(),
    metavar="WHAT",
    help="with commas: wellformed (no reserved bits), canonical (no other addresses), "
    "tree (no loops, no shared tables)",
)
SELECT = option(
    "--select",
    commas=True,
    metavar="NAME=VALUE[,...]",
    type=not_empty,
    help="ask only this, by the names of `crosswalk matrix --list`",
)
JUDGE = option(
    "--judge",
    reads=True,
    metavar="J",
    type=not_empty,
    help="ask this machine instead of the emulated CPU, as `crosswalk judge --with` takes it: "
    "unicorn, qemu[:PATH], qemu-mttcg[:PATH], kvm[:PATH], bochs[:PATH], exec:COMMAND, "
    "or x86isa[:ACL2]",
)
PORTABLE = (
    flag("--portable", "tables and pages where machines have RAM (the default with a machine)"),
    flag("--no-portable", "tables and pages anywhere, also with a machine"),
)
"""Where tables and pages are."""
REPORTING = (
    option(
        "--report",
        metavar="FILE",
        action="append",
        type=report_file,
        help="write the findings here, as Markdown, HTML or SARIF by the ending of FILE: .md, "
        ".html or .sarif; may be repeated",
    ),
    option(
        "--github",
        action="store_true",
        help="print each finding as an annotation for GitHub Actions, on standard error",
    ),
)
"""Where findings are reported besides standard output."""
MUTING = (
    option(
        "--ignore",
        metavar="PATTERN",
        action="append",
        help="findings with such a rule or cause don't fail, as 'reserved in *'; may be repeated; "
        "'' takes back those before it",
    ),
    option(
        "--baseline",
        reads=True,
        metavar="FILE",
        type=optional_file,
        help="nor do those that this file lists, which --write-baseline has written; '' for none",
    ),
    option(
        "--write-baseline",
        metavar="FILE",
        nargs="?",
        const=True,
        type=output_file,
        help="list the findings of this run there (without FILE: in that of --baseline)",
    ),
)
"""Findings that don't fail: `crosswalk.emu.findings.baseline.read_muting` takes their values."""

WALKER_LIMITS = (10, 64, 4096)
"""Seconds, MiB of output and MiB of memory that a walker under test may take by default."""


def walker(otherwise: str) -> Group:
    """Return --walker, --claims and the limits; `otherwise` is what happens without --walker."""
    time, output, memory = WALKER_LIMITS
    kinds = (
        "python:MODULE:FUNCTION, python:FILE.py:FUNCTION, exec:COMMAND, c:LIBRARY.so, "
        "volatility3, bulk, translate, walk"
    )
    claims = "leaves, flags, effective, ranges, translation, rights, faults, marks"
    return Group(
        "the walker under test",
        (
            option("--walker", reads=True, metavar="W", help=f"one of {kinds} ({otherwise})"),
            option(
                "--claims",
                commas=True,
                metavar="LIST",
                help=f"check it for these of {claims} (what it claims itself)",
                needs="walker",
            ),
            option(
                "--walker-seconds",
                metavar="S",
                type=seconds(3600),
                help=f"the most CPU time that it may use for one address space ({time})",
                needs="walker",
            ),
            option(
                "--walker-output",
                metavar="MIB",
                type=_MIB,
                help=f"the most that it may print for one address space ({output})",
                needs="walker",
            ),
            option(
                "--walker-memory",
                metavar="MIB",
                type=_MIB,
                help=f"the most address space that it may take ({memory})",
                needs="walker",
            ),
        ),
    )


def json_option(what: str) -> Option:
    """Return --json, which prints `what`."""
    return flag("--json", f"print {what} as JSON")


SEED = option("--seed", metavar="N", type=number(), default=0, help="the seed of everything (0)")

WALKER_MUTING, WALKER_REPORTING = (
    tuple(replace(each, needs=("walker",)) for each in options) for options in (MUTING, REPORTING)
)
"""The same where a command doesn't always ask a walker under test."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `run` names the function that carries it out, as module:function of this room."""

    name: str
    run: str
    help: str
    options: tuple[Option | Group, ...]
    description: str | None = None
    epilog: str | None = None


def options_of(command: Command) -> Iterator[Option]:
    """Yield the options of a command, those in groups too."""
    for each in command.options:
        yield from each.options if isinstance(each, Group) else (each,)
