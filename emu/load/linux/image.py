"""Kernel images: a bzImage as distributions ship it, or a vmlinux.

Source: Linux Documentation/arch/x86/boot.rst, "The real-mode kernel header" and "Details of
header fields".
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from crosswalk.emu.load.linux.payload import unpack
from crosswalk.walker.errors import BadInput

__all__ = ["HEADER_AT", "KernelImage", "parse_kernel"]

HEADER_AT = 0x1F1
"""Where the setup header begins, in a bzImage and in the zero page."""

_MAGIC_AT, _VERSION_AT, _PAYLOAD_AT, _INIT_SIZE_AT = 0x202, 0x206, 0x248, 0x260
_NAME_AT = 0x20E
_FIRST_WITH_PAYLOAD = 0x0208
_SECTOR = 512
_MAX_SEGMENTS = 64
_ALLOCATED = 2

_Segments = tuple[tuple[int, bytes, int], ...]
_Sections = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel ready to be placed in memory.

    `segments` are (physical address, content, size in memory); `entry` is the physical address
    of its 64-bit entry. `setup_header` are a bzImage's bytes from `HEADER_AT` on, or none;
    `release` is what the image calls itself, or empty. `sections` are (name, physical address,
    size) of the sections that the segments hold, if the file tells of any.
    """

    segments: tuple[tuple[int, bytes, int], ...]
    entry: int
    setup_header: bytes = b""
    release: str = ""
    sections: tuple[tuple[str, int, int], ...] = ()

    @property
    def end(self) -> int:
        """The physical address behind the last byte that the kernel itself takes."""
        return max(start + size for start, _, size in self.segments)


def parse_kernel(data: bytes) -> KernelImage:
    """Return the kernel in a bzImage or an ELF vmlinux.

    Raises `BadInput` for anything else, an image of another machine, or a damaged one.
    """
    if data[:4] == b"\x7fELF":
        segments, entry, sections = _elf(data)
        return KernelImage(segments, entry, sections=sections)
    if data[_MAGIC_AT : _MAGIC_AT + 4] != b"HdrS":
        raise BadInput("not a kernel: neither a bzImage nor an ELF vmlinux")
    (version,) = struct.unpack_from("<H", data, _VERSION_AT)
    if version < _FIRST_WITH_PAYLOAD:
        raise BadInput(
            f"a kernel of boot protocol {version >> 8}.{version & 0xFF:02}; 2.08 is needed"
        )
    if len(data) < _INIT_SIZE_AT + 4:
        raise BadInput("truncated bzImage: it ends in its header")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = ((data[HEADER_AT] or 4) + 1) * _SECTOR + offset
    if not length or start + length > len(data):
        raise BadInput(
            f"truncated bzImage: {len(data):,} bytes; its payload ends at {start + length:,}"
        )
    segments, entry, sections = _elf(unpack(data[start : start + length]))
    end = 0x202 + data[0x201]
    return KernelImage(segments, entry, data[HEADER_AT:end], _release(data), sections)


def _release(data: bytes) -> str:
    (at,) = struct.unpack_from("<H", data, _NAME_AT)
    text = data[at + 0x200 : at + 0x400] if at else b""
    return text.partition(b"\0")[0].partition(b" ")[0].decode("ascii", "replace")


def _elf(data: bytes) -> tuple[_Segments, int, _Sections]:
    try:
        elf = ELFFile(io.BytesIO(data))
        count = elf.num_segments()
        if elf["e_machine"] != "EM_X86_64" or elf["e_type"] != "ET_EXEC":
            raise BadInput(
                f"not a kernel for x86-64: an ELF file of {elf['e_machine']}, {elf['e_type']}"
            )
        if count > _MAX_SEGMENTS:
            raise BadInput(f"not a kernel: an ELF file with {count} program headers")
        headers = [each.header for each in elf.iter_segments("PT_LOAD")]
        named = [(each.name, each.header) for each in elf.iter_sections()]
    except (ELFError, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise BadInput(f"a damaged kernel, or none: {error}") from error
    segments = []
    for header in headers:
        offset, size = header["p_offset"], header["p_filesz"]
        if offset + size > len(data) or header["p_memsz"] < size:
            raise BadInput("a damaged kernel: a segment ends beyond its file")
        segments.append((header["p_paddr"], data[offset : offset + size], header["p_memsz"]))
    if not segments:
        raise BadInput("not a kernel: an ELF file without segments")
    return tuple(segments), elf["e_entry"], tuple(_placed(named, headers))


def _placed(named: list[tuple[str, Any]], headers: list[Any]) -> Iterator[tuple[str, int, int]]:
    """Yield the sections that lie in a segment: by address, as the loader has them."""
    for name, section in named:
        start, size = section["sh_addr"], section["sh_size"]
        for header in headers:
            inside = start - header["p_vaddr"]
            if section["sh_flags"] & _ALLOCATED and 0 <= inside < header["p_memsz"]:
                yield name, header["p_paddr"] + inside, size
                break
