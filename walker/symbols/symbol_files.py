"""Files of symbols, by what they are: lines of text, or ELF; also compressed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file, read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.formats.unpack import compression_of, unpack
from crosswalk.walker.symbols.spans import SpanKind, Spans
from crosswalk.walker.symbols.system_map import parse_system_map

__all__ = ["SymbolFile", "content_of", "parse_symbols", "read_symbols"]

_LARGEST = 1 << 30
_ELF = b"\x7fELF"
_OTHERS = {
    b"Microsoft C/C++ MSF 7": "a PDB, Windows' symbols, which isn't read",
    b"MZ": "a PE image, whose symbols are in a PDB, which isn't read (a bzImage has none; "
    "vmlinux-to-elf makes a vmlinux of it)",
    b"!<arch>\n": "an archive of object files",
}


@dataclass(frozen=True, slots=True)
class SymbolFile:
    """The symbols and sections of a file, at the addresses it is linked to; `name` is printable."""

    name: str
    symbols: Spans
    sections: Spans


def read_symbols(
    path: str | os.PathLike[str], notice: Callable[[str], None] | None = None
) -> SymbolFile:
    """Return the symbols in the file at `path`: System.map, nm's output, /proc/kallsyms or ELF.

    It may be compressed, in a format of `crosswalk.walker.formats.unpack`. `notice` takes lines for
    people while it is unpacked. Raises `BadInput` in one line that names the file.
    """
    name = os.fspath(path)
    with errors_named(name):
        content = content_of(name, notice)
        return parse_symbols(content, one_line(Path(name).name))


def parse_symbols(data: bytes, name: str) -> SymbolFile:
    """Return the symbols in the content of a file, as `read_symbols` does."""
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise BadInput(what)
    if data.startswith(_ELF):
        # What reads ELF files takes a while to import.
        from crosswalk.walker.symbols.elf import read_elf  # noqa: PLC0415

        return SymbolFile(name, *read_elf(data))
    return SymbolFile(name, parse_system_map(data), Spans.of(SpanKind.SECTION, ()))


def content_of(name: str, notice: Callable[[str], None] | None = None) -> bytes:
    """Return the content of a file, of a compressed one what it unpacks to: at most 1 GiB."""
    head = read_file(name, _LARGEST)
    if compression_of(head) is None:
        return head
    file, _ = unpack(map_file(name), limit=_LARGEST, notice=notice)
    return file.data[:]
