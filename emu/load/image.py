"""What the file of a guest holds, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.spans import SpanKind, Spans
from crosswalk.walker.symbols.symbol_files import parse_symbols

__all__ = ["Format", "GuestImage", "Sections", "Segments"]

Segments = tuple[tuple[int, bytes, int], ...]
Sections = tuple[tuple[str, int, int], ...]


class Format(StrEnum):
    """The formats of guests, by the names that a command line gives them."""

    LINUX64 = "linux64"
    LINUX32 = "linux32"
    MULTIBOOT = "multiboot"
    MULTIBOOT2 = "multiboot2"
    PVH = "pvh"
    ELF64 = "elf64"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest ready to be placed in memory.

    `segments` are (physical address, content, size in memory); `entry` is the physical address of
    the first instruction. `sections` are (name, physical address, size) of the sections that the
    segments hold, if the file has any; `release` is the version that the image says it is, or
    empty. `file` is the unpacked ELF file, or nothing where the guest is none.
    """

    segments: Segments
    entry: int
    release: str = ""
    sections: Sections = ()
    file: bytes = field(default=b"", repr=False, compare=False)

    @property
    def end(self) -> int:
        """The physical address after the last byte of the guest itself."""
        return max(start + size for start, _, size in self.segments)

    @property
    def names(self) -> Spans:
        """The symbols of the file, where it is linked to; none where it has none.

        They are those of its symbol table; of a stripped Linux kernel, those that the kernel has in
        itself (kallsyms). They are read anew each time: 0.3 to 0.7 s of a distribution's kernel.
        """
        try:
            return parse_symbols(self.file, "").symbols if self.file else _NONE
        except BadInput:  # Stripped, or damaged there alone: it boots, and has no names.
            return _NONE

    @property
    def symbols(self) -> Mapping[str, int]:
        """Linear addresses by name, of `names`; of one name the first."""
        return self.names.addresses()


_NONE = Spans.of(SpanKind.SYMBOL, ())
