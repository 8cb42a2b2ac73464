"""Kernel images: a bzImage as distributions ship it, or a vmlinux.

Source: Linux Documentation/arch/x86/boot.rst, "The real-mode kernel header" and "Details of
header fields".
"""

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lz4.block
import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, printable

__all__ = [
    "HEADER_AT",
    "MAX_UNPACKED",
    "KernelImage",
    "load_kernel",
    "parse_kernel",
    "release_of",
    "unpack",
    "unpack_bzimage",
]

HEADER_AT = 0x1F1
"""Where the setup header begins, in a bzImage and in the zero page."""

MAX_UNPACKED = 1 << 30
"""The maximum size of an unpacked payload, in bytes."""

_LZ4_BLOCK = 8 << 20  # The legacy format's blocks unpack to at most that much.

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
    of its 64-bit entry. `setup_header` has a bzImage's bytes from `HEADER_AT` on, or none;
    `release` is the version in the image, or empty. `sections` are (name, physical address, size)
    of the sections that the segments hold, if the file has any.
    """

    segments: tuple[tuple[int, bytes, int], ...]
    entry: int
    setup_header: bytes = b""
    release: str = ""
    sections: tuple[tuple[str, int, int], ...] = ()

    @property
    def end(self) -> int:
        """The physical address after the last byte of the kernel itself."""
        return max(start + size for start, _, size in self.segments)


def load_kernel(path: Path) -> KernelImage:
    """Return the kernel in a file; `BadInput`, with the file's name, as in `parse_kernel`."""
    content = read_file(path)
    with errors_named(str(path)):
        return parse_kernel(content)


def parse_kernel(data: bytes) -> KernelImage:
    """Return the kernel in a bzImage or an ELF vmlinux.

    Raises `BadInput` for anything else, an image of another machine, or a damaged one.
    """
    if data[:4] == b"\x7fELF":
        segments, entry, sections = _elf(data)
        return KernelImage(segments, entry, sections=sections)
    segments, entry, sections = _elf(unpack_bzimage(data))
    end = 0x202 + data[0x201]
    return KernelImage(segments, entry, data[HEADER_AT:end], release_of(data), sections)


def unpack_bzimage(data: bytes) -> bytes:
    """Return the vmlinux in a bzImage; `BadInput` as in `parse_kernel`."""
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
    return unpack(data[start : start + length])


def release_of(data: bytes) -> str:
    """Return the release that a bzImage's header says, as "6.1.0-57-amd64"; "" for none."""
    (at,) = struct.unpack_from("<H", data, _NAME_AT)
    text = data[at + 0x200 : at + 0x400] if at else b""
    return printable(text.partition(b"\0")[0].partition(b" ")[0].decode("ascii", "replace"))


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
    """Yield the sections that lie in a segment, at the addresses where it is loaded."""
    for name, section in named:
        start, size = section["sh_addr"], section["sh_size"]
        for header in headers:
            inside = start - header["p_vaddr"]
            if section["sh_flags"] & _ALLOCATED and 0 <= inside < header["p_memsz"]:
                yield name, header["p_paddr"] + inside, size
                break


def unpack(payload: bytes) -> bytes:
    """Decompress a payload; bytes after its end are ignored.

    Raises `BadInput` for a compression that isn't known, a damaged payload, or one that holds
    more than `MAX_UNPACKED` bytes.
    """
    for name, (magic, undo) in _FORMATS.items():
        if payload.startswith(magic):
            try:
                return undo(payload)
            except (*_ERRORS, EOFError, ValueError) as error:
                raise BadInput(f"damaged {name} payload: {error}") from error
    raise BadInput(f"a payload of an unknown compression: it begins {payload[:8].hex()}")


def _limited(data: bytes, *, complete: bool) -> bytes:
    if len(data) > MAX_UNPACKED:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
    if not complete:
        raise EOFError("it ends too early")
    return data


def _undo(stream: Callable[[], Any], payload: bytes) -> bytes:
    """Undo a compression by a fresh decompressor of the standard library."""
    decompressor = stream()
    data = decompressor.decompress(payload, MAX_UNPACKED + 1)
    return _limited(data, complete=decompressor.eof)


def _zstd(payload: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    parts, size = [], 0
    for at in range(0, len(payload), 1 << 16):
        parts.append(stream.decompress(payload[at : at + (1 << 16)]))
        size += len(parts[-1])
        if stream.eof or size > MAX_UNPACKED:
            break
    return _limited(b"".join(parts), complete=stream.eof)


def _lz4(payload: bytes) -> bytes:
    """Undo the legacy format: a magic number, then blocks, each after its size."""
    parts: list[bytes] = []
    size, at = 0, 4
    while at + 4 <= len(payload):
        (length,) = struct.unpack_from("<I", payload, at)
        if length == 0 or at + 4 + length > len(payload):
            # After the last block comes the size of the whole, as in any payload but gzip's.
            if length == size:
                return b"".join(parts)
            break
        block = payload[at + 4 : at + 4 + length]
        parts.append(lz4.block.decompress(block, uncompressed_size=_LZ4_BLOCK))
        size += len(parts[-1])
        at += 4 + length
        _limited(b"" if size <= MAX_UNPACKED else bytes(size), complete=True)
    return _limited(b"".join(parts), complete=at == len(payload))


_ERRORS = (zlib.error, lzma.LZMAError, OSError, zstandard.ZstdError, lz4.block.LZ4BlockError)
_FORMATS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"\x1f\x8b", partial(_undo, partial(zlib.decompressobj, 31))),
    "xz": (b"\xfd7zXZ\x00", partial(_undo, lzma.LZMADecompressor)),
    "lzma": (b"\x5d\x00\x00", partial(_undo, lzma.LZMADecompressor)),
    "bzip2": (b"BZh", partial(_undo, bz2.BZ2Decompressor)),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
    "lz4": (b"\x02\x21\x4c\x18", _lz4),
}
