"""What the file of a guest holds, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.elf import ELF, read_elf

__all__ = ["GuestImage", "Sections", "Segments"]

Segments = tuple[tuple[int, bytes, int], ...]
Sections = tuple[tuple[str, int, int], ...]


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
    def symbols(self) -> Mapping[str, int]:
        """Linear addresses by name, out of the file's own symbol table; nothing without one."""
        if not self.file.startswith(ELF):
            return {}
        try:
            found, _, _ = read_elf(self.file)
        except BadInput:  # Stripped, or damaged there alone: it boots, and has no names.
            return {}
        return found.addresses()
