"""`--guest`, `--kernel` and what goes with them: the guest that they name, and its names."""

import argparse
import os
from pathlib import Path

from crosswalk.emu.cli.names import kernel_names, symbols_of
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.load.formats import As, Given, OpenedGuest, open_guest, open_kernel, parse_as
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.placing import Module
from crosswalk.emu.load.raw import RawGuest
from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations.judgement import rule_of
from crosswalk.walker.expectations.search import Search
from crosswalk.walker.expectations.sentences import Ability, Privilege
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.leaves import TOP
from crosswalk.walker.symbols import Names
from crosswalk.walker.symbols.elf import ELF
from crosswalk.walker.symbols.known import known_names
from crosswalk.walker.symbols.symbol_files import parse_symbols

__all__ = [
    "chosen_guest",
    "guest_file",
    "guest_record",
    "guest_text",
    "names_in_guest",
    "report_cut_symbols",
]

_UPPER_HALF = 1 << 63
_CLASS32 = b"\1"
_LINUX = (Format.LINUX64, Format.LINUX32)
_PAGED = (Format.LINUX64, Format.ELF64)
"""Formats that are entered with paging on; raw code is where it is of 64 bits."""
_FIVE = GUESTS["5level"]


def guest_file(options: argparse.Namespace) -> Path:
    """Return the file of --guest or --kernel; `BadInput` where both are given."""
    if options.guest is not None and options.kernel is not None:
        raise BadInput("--guest and --kernel name one guest each: give one of them")
    return Path(options.kernel if options.guest is None else options.guest)


def chosen_guest(options: argparse.Namespace) -> OpenedGuest:
    """Return the guest of --guest or --kernel, with the modules and arguments that it is given.

    Raises `BadInput` in one line for files that can't be read, or aren't what they should be, and
    where --paging asks for 5 levels of a guest that is entered without paging.
    """
    path = guest_file(options)
    given = Given(
        modules=tuple(_module(text) for text in options.module or ()),
        arguments=options.append or "",
        initrd=None if options.initrd is None else read_file(options.initrd),
        levels=GUESTS[_paging(options)],
    )
    if options.guest is None:
        guest = open_kernel(path, given)
    else:
        asked = None if options.as_format is None else _as(options.as_format)
        guest = open_guest(path, asked, given)
    if given.levels == _FIVE and not _enters_paged(guest):
        raise BadInput(
            f"--paging 5level: a guest of format {guest.format} is entered without paging, and "
            "chooses its own"
        )
    return guest


def _enters_paged(guest: OpenedGuest) -> bool:
    """Return whether a guest is entered with paging on, by tables of its loader."""
    return guest.format in _PAGED or (isinstance(guest, RawGuest) and guest.bits == 64)


def _paging(options: argparse.Namespace) -> str:
    """Return the paging of an entry in long mode: that of --paging, where a command has it."""
    return getattr(options, "paging", next(iter(GUESTS)))


def _as(text: str) -> As:
    with errors_named("--as"):
        return parse_as(text)


def _module(text: str) -> Module:
    """Return the module that FILE[,ARGS] names; a name with a comma is taken where it is a file."""
    # Unlike Path.exists, this takes any text.
    whole = os.path.exists(text)  # noqa: PTH110
    name, _, arguments = (text, "", "") if whole else text.partition(",")
    return Module(Path(name).name, read_file(name), arguments)


def guest_text(options: argparse.Namespace, guest: OpenedGuest) -> str:
    """Return a line about a guest: its format, release and entry, paging and RAM."""
    image = guest.image
    parts = [guest.format.value]
    if image.release:
        parts.append(image.release)
    parts.append(f"entry {image.entry:#x}")
    if _enters_paged(guest):
        parts.append(f"{GUESTS[_paging(options)]}-level paging")
    parts.append(f"{options.ram} MiB")
    return f"{one_line(str(guest_file(options)))}: {', '.join(parts)}"


def guest_record(guest: OpenedGuest) -> dict[str, str]:
    """Return what a guest is, as JSON has it."""
    image = guest.image
    return {
        "format": guest.format.value,
        "entry": f"{image.entry:#x}",
        **({"release": image.release} if image.release else {}),
    }


def names_in_guest(options: argparse.Namespace, guest: OpenedGuest, spaces: Spaces) -> Names:
    """Return the names in a guest: those of --system-map, else those that it has itself.

    A Linux kernel has them in its memory, any other guest in its file.
    """
    if guest.format in _LINUX:
        return kernel_names(spaces, options.system_map)
    if options.system_map is not None:
        return known_names(spaces.source, symbols_of(str(options.system_map)), offset=0)
    if not guest.image.file.startswith(ELF):
        return known_names(spaces.source)
    try:
        file = parse_symbols(guest.image.file, one_line(guest_file(options).name))
    except BadInput:  # Stripped: it has no names, as one of another format.
        return known_names(spaces.source)
    if any(each.mode.long for each in spaces.contexts):
        search = Search(spaces.source.memory, spaces.contexts)
        executable = rule_of(Ability.EXECUTABLE, Privilege.SUPERVISOR)
        beyond = next(search.find([(_UPPER_HALF, TOP)], executable), None)
        if beyond is not None:
            what = f"{int(beyond.pages.va[0]):#x} is mapped as code"
            report_cut_symbols(options, guest.image, what)
    return known_names(spaces.source, file, offset=0)


def report_cut_symbols(options: argparse.Namespace, image: GuestImage, why: str) -> None:
    """Say, once a command, that an ELF file of 32 bits can't name a kernel's code beyond them.

    `why` is what shows that there is such code. Multiboot kernels of 64 bits are made so, by
    objcopy -O elf32-i386, which cuts all addresses. Not where --system-map gives symbols.
    """
    told = vars(options).get("cut_symbols_told", False)
    if options.system_map is not None or told or image.file[4:5] != _CLASS32:
        return
    vars(options)["cut_symbols_told"] = True
    name = one_line(guest_file(options).name)
    remark(
        f"{name}: an ELF file of 32 bits, and {why}: if its addresses were cut to 32 bits (objcopy "
        "-O elf32-i386), --system-map FILE takes those of the file of 64 bits"
    )
