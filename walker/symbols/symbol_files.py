"""Files of symbols, by what they are: lines of text, or ELF; also compressed."""

from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file, read_file
from crosswalk.walker.formats.unpack import compression_of, unpack
from crosswalk.walker.symbols.spans import SpanKind, Spans
from crosswalk.walker.symbols.system_map import parse_system_map

__all__ = ["SymbolFile", "content_of", "parse_symbols"]

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


def parse_symbols(data: bytes, name: str) -> SymbolFile:
    """Return the symbols in a file's content: System.map, nm's output, /proc/kallsyms or ELF.

    `name` is what the file is called, printable. Raises `BadInput` in one line.
    """
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise BadInput(what)
    if data.startswith(_ELF):
        # What reads ELF files takes a while to import.
        from crosswalk.walker.symbols.elf import read_elf  # noqa: PLC0415

        return SymbolFile(name, *read_elf(data))
    return SymbolFile(name, parse_system_map(data), Spans.of(SpanKind.SECTION, ()))


def content_of(name: str, notice: Callable[[str], None] | None = None) -> bytes:
    """Return the content of a file, of a compressed one what it unpacks to: at most 1 GiB.

    `notice` takes lines for people while it is unpacked. Raises `BadInput` in one line.
    """
    head = read_file(name, _LARGEST)
    if compression_of(head) is None:
        return head
    file, _ = unpack(map_file(name), limit=_LARGEST, notice=notice)
    return file.data[:]
