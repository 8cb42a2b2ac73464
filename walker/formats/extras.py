"""Libraries that aren't always installed, and how a page is unpacked by them.

What lacks one is refused with the command that installs it.
"""

import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from crosswalk.walker.errors import BadInput

__all__ = ["LZO", "PLAIN", "SNAPPY", "ZLIB", "ZSTD", "required", "unpacker"]

PLAIN, ZLIB, LZO, SNAPPY, ZSTD = 0, 1, 2, 4, 0x20
"""How a page is stored, by the flags that kdump files have for it."""

Unpack = Callable[[bytes], bytes]
"""Returns what was packed; `ValueError` for what wasn't, or is more than the size it is for."""


def required(module: str, extra: str, what: str) -> Any:
    """Return the module of this name; `BadInput` with the command that installs it, if none is."""
    try:
        return import_module(module)
    except ImportError:
        raise BadInput(f"{what}: pip install 'crosswalk-x86[{extra}]' reads it") from None


def unpacker(codec: int, size: int, what: str) -> Unpack:
    """Return what unpacks pieces of `size` bytes that are stored by this codec.

    `what` names the file's format in the `BadInput` for a codec whose library isn't installed.
    """
    makers = {PLAIN: _plain, ZLIB: _zlib, LZO: _lzo, SNAPPY: _snappy, ZSTD: _zstd}
    if codec not in makers:
        raise BadInput(f"{what}: a page is stored in an unknown way ({codec:#x})")
    return makers[codec](size, what)


def _plain(size: int, what: str) -> Unpack:
    del size, what
    return bytes


def _zlib(size: int, what: str) -> Unpack:
    del what

    def unpack(data: bytes) -> bytes:
        try:
            return zlib.decompress(data, bufsize=size)
        except zlib.error as error:
            raise ValueError(str(error)) from None

    return unpack


def _zstd(size: int, what: str) -> Unpack:
    del what
    import zstandard  # noqa: PLC0415  # A start-up is felt.

    unpacked = zstandard.ZstdDecompressor().decompress

    def unpack(data: bytes) -> bytes:
        try:
            # As much would be allocated as the frame says, not as is asked for.
            if zstandard.frame_content_size(data) > size:
                raise ValueError("more than a page")
            return unpacked(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None

    return unpack


def _lzo(size: int, what: str) -> Unpack:
    library = required("lzallright", "kdump", what)

    def unpack(data: bytes) -> bytes:
        try:
            found: bytes = library.LZOCompressor.decompress(data, size)
        except library.LZOError as error:
            raise ValueError(str(error.args[0])) from None
        return found

    return unpack


def _snappy(size: int, what: str) -> Unpack:
    library = required("cramjam", "kdump", what)

    def unpack(data: bytes) -> bytes:
        found = bytearray(size)
        try:
            written: int = library.snappy.decompress_raw_into(data, found)
        except library.DecompressionError as error:
            raise ValueError(str(error)) from None
        return bytes(found[:written])

    return unpack
