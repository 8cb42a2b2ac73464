"""Files of symbols, by what they are: lines of text, or ELF; also compressed."""

from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file, read_file, read_head
from crosswalk.walker.formats.unpack import compression_of, unpack
from crosswalk.walker.symbols.identity import UNKNOWN, Identity
from crosswalk.walker.symbols.spans import SpanKind, Spans
from crosswalk.walker.symbols.system_map import parse_system_map

__all__ = ["SymbolFile", "content_of", "is_bzimage", "parse_symbols"]

_LARGEST = 1 << 30
_ELF = b"\x7fELF"
_ELF_KIND, _CORE = 16, 4
_BZIMAGE, _BZIMAGE_AT = b"HdrS", 0x202
_HEAD = 1 << 12
"""How many bytes, from the first, tell what has no symbols."""
_OTHERS = {
    b"Microsoft C/C++ MSF 7": "a PDB, Windows' symbols, which isn't read",
    b"MZ": "a PE image, whose symbols are in a PDB, which isn't read (a bzImage has none; "
    "vmlinux-to-elf makes a vmlinux of it)",
    b"!<arch>\n": "an archive of object files",
}


@dataclass(frozen=True, slots=True)
class SymbolFile:
    """The symbols and sections of a file, at the addresses it is linked to; `name` is printable.

    `identity` is the build that the file says it is of.
    """

    name: str
    symbols: Spans
    sections: Spans
    identity: Identity = UNKNOWN


def parse_symbols(data: bytes, name: str) -> SymbolFile:
    """Return the symbols in a file's content: System.map, nm's output, /proc/kallsyms or ELF.

    Of a stripped vmlinux they are those that the kernel has in itself (kallsyms). `name` is what
    the file is called, printable. Raises `BadInput` in one line.
    """
    _require_symbols(data[:_HEAD])
    if data.startswith(_ELF):
        # What reads ELF files takes a while to import.
        from crosswalk.walker.symbols.elf import read_elf  # noqa: PLC0415

        try:
            symbols, sections, identity = read_elf(data)
        except BadInput:
            symbols = _own_symbols(data)
            if not len(symbols):
                raise
            return SymbolFile(name, symbols, Spans.of(SpanKind.SECTION, ()))
        if not len(symbols):
            symbols = _own_symbols(data)
        return SymbolFile(name, symbols, sections, identity)
    return SymbolFile(name, parse_system_map(data), Spans.of(SpanKind.SECTION, ()))


def _own_symbols(data: bytes) -> Spans:
    """Return the symbols that a stripped kernel has in its own memory; none of another ELF file."""
    from crosswalk.walker.symbols.kallsyms import kallsyms_of_elf  # noqa: PLC0415  # As above.

    lines = kallsyms_of_elf(data)
    return parse_system_map(lines) if lines else Spans.of(SpanKind.SYMBOL, ())


def content_of(name: str, notice: Callable[[str], None] | None = None) -> bytes:
    """Return the content of a file, of a compressed one what it unpacks to: at most 1 GiB.

    `notice` takes lines for people while it is unpacked. Raises `BadInput` in one line; for what
    has no symbols, as a dump of memory, it does that by the first bytes.
    """
    head = read_head(name, _HEAD)
    if compression_of(head) is None:
        _require_symbols(head)
        return read_file(name, _LARGEST)
    file, _ = unpack(map_file(name), limit=_LARGEST, notice=notice)
    _require_symbols(file.data[:_HEAD])
    return file.data[:]


def _require_symbols(head: bytes) -> None:
    """Raise `BadInput` for a file that by its first bytes has no symbols."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic) and not is_bzimage(head):
            raise BadInput(what)
    kind = int.from_bytes(head[_ELF_KIND : _ELF_KIND + 2], "little")
    if head.startswith(_ELF) and kind == _CORE:
        raise BadInput("an ELF core has no symbols: --symbols takes the kernel's own file")
    if b"\0" in head and not head.startswith(_ELF) and not is_bzimage(head):
        raise BadInput("neither an ELF file nor lines of an address, a type and a name")


def is_bzimage(content: bytes) -> bool:
    """Return whether this is a Linux kernel as distributions ship it, by its first 1 KiB."""
    return content[_BZIMAGE_AT : _BZIMAGE_AT + len(_BZIMAGE)] == _BZIMAGE
