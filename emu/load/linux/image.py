"""Kernel images: a bzImage as distributions ship it, or a vmlinux.

Source: Linux Documentation/arch/x86/boot.rst, "The real-mode kernel header" and "Details of
header fields".
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from crosswalk.emu.load.elf import MACHINES, read_elf_guest
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.payload import unpack
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.symbols.elf import ELF

__all__ = [
    "HEADER_AT",
    "KernelImage",
    "is_bzimage",
    "load_kernel",
    "parse_kernel",
    "release_of",
    "unpack_bzimage",
]

HEADER_AT = 0x1F1
"""Where the setup header begins, in a bzImage and in the zero page."""

_MAGIC_AT, _VERSION_AT, _PAYLOAD_AT, _INIT_SIZE_AT = 0x202, 0x206, 0x248, 0x260
_NAME_AT, _CODE32_START_AT, _INITRD_MAX_AT = 0x20E, 0x214, 0x22C
_FIRST_WITH_PAYLOAD = 0x0208
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class KernelImage(GuestImage):
    """A kernel of the Linux boot protocol, ready to be placed in memory.

    `entry` is the physical address of its 64- or 32-bit entry, as `bits` says. `setup_header` has
    a bzImage's bytes from `HEADER_AT` on, or none. `bare` is an image without a payload: no Linux,
    but a program that has itself started as if it were.
    """

    setup_header: bytes = b""
    bits: int = 64
    bare: bool = False

    @property
    def initrd_end(self) -> int:
        """The physical address up to which an initial RAM disk may lie."""
        header = self.setup_header
        if len(header) < _INITRD_MAX_AT + 4 - HEADER_AT:
            return 1 << 32
        (last,) = struct.unpack_from("<I", header, _INITRD_MAX_AT - HEADER_AT)
        return int(last) + 1 if last else 1 << 32


def load_kernel(path: Path) -> KernelImage:
    """Return the kernel in a file; `BadInput`, with the file's name, as in `parse_kernel`."""
    content = read_file(path)
    with errors_named(str(path)):
        return parse_kernel(content)


def parse_kernel(data: bytes) -> KernelImage:
    """Return the kernel in a bzImage or an ELF vmlinux, of 64 or 32 bits.

    Raises `BadInput` for anything else, an image of another machine, or a damaged one.
    """
    if data.startswith(ELF):
        return _kernel(data)
    if not _has_payload(data):
        return _bare(data)
    end = 0x202 + data[0x201]
    return _kernel(unpack_bzimage(data), data[HEADER_AT:end], release_of(data))


def _kernel(vmlinux: bytes, setup_header: bytes = b"", release: str = "") -> KernelImage:
    elf = read_elf_guest(vmlinux)
    image = elf.image(release=release)
    return KernelImage(
        segments=image.segments,
        entry=image.entry,
        release=release,
        sections=image.sections,
        file=image.file,
        setup_header=setup_header,
        bits=MACHINES[elf.machine],
    )


def _bare(data: bytes) -> KernelImage:
    """Return the protected-mode code of an image, which runs where the header wants it."""
    _require_header(data)
    (start,) = struct.unpack_from("<I", data, _CODE32_START_AT)
    (in_memory,) = struct.unpack_from("<I", data, _INIT_SIZE_AT)
    content = data[_protected_mode_at(data) :]
    if not content:
        raise BadInput("truncated bzImage: it ends before its protected-mode code")
    end = 0x202 + data[0x201]
    return KernelImage(
        segments=((start, content, max(len(content), in_memory)),),
        entry=start,
        setup_header=data[HEADER_AT:end],
        bits=32,
        bare=True,
    )


def is_bzimage(data: bytes) -> bool:
    """Return whether this has the header of the Linux boot protocol."""
    return data[_MAGIC_AT : _MAGIC_AT + 4] == b"HdrS"


def _has_payload(data: bytes) -> bool:
    """Return whether a bzImage has a kernel packed in it; `BadInput` for what is no bzImage."""
    _require_header(data)
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    return bool(offset or length)


def unpack_bzimage(data: bytes) -> bytes:
    """Return the vmlinux in a bzImage; `BadInput` as in `parse_kernel`."""
    _require_header(data)
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = _protected_mode_at(data) + offset
    if not length or start + length > len(data):
        raise BadInput(
            f"truncated bzImage: {len(data):,} bytes; its payload ends at {start + length:,}"
        )
    return unpack(data[start : start + length])


def _require_header(data: bytes) -> None:
    if not is_bzimage(data):
        raise BadInput("not a kernel: neither a bzImage nor an ELF vmlinux")
    if len(data) < _INIT_SIZE_AT + 4:
        raise BadInput("truncated bzImage: it ends in its header")
    (version,) = struct.unpack_from("<H", data, _VERSION_AT)
    if version < _FIRST_WITH_PAYLOAD:
        raise BadInput(
            f"a kernel of boot protocol {version >> 8}.{version & 0xFF:02}; 2.08 is needed"
        )


def _protected_mode_at(data: bytes) -> int:
    """Return where the protected-mode part of a bzImage begins, behind its sectors of setup."""
    return ((data[HEADER_AT] or 4) + 1) * _SECTOR


def release_of(data: bytes) -> str:
    """Return the release that a bzImage's header says, as "6.1.0-57-amd64"; "" for none."""
    (at,) = struct.unpack_from("<H", data, _NAME_AT)
    text = data[at + 0x200 : at + 0x400] if at else b""
    return printable(text.partition(b"\0")[0].partition(b" ")[0].decode("ascii", "replace"))
