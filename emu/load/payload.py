"""Compressed kernels: the payload of a bzImage, or a whole file that a distribution has packed.

What is compressed is known by its first bytes; it isn't a memory dump's format
(`crosswalk.walker.formats.unpack`), and is small enough for memory.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import lz4.block
import zstandard

from crosswalk.walker.errors import BadInput

__all__ = ["MAX_UNPACKED", "compression_of", "unpack"]

MAX_UNPACKED = 1 << 30
"""The maximum size of an unpacked payload, in bytes."""

_LZ4_BLOCK = 8 << 20  # The legacy format's blocks unpack to at most that much.


def compression_of(data: bytes) -> str | None:
    """Return the name of the compression that begins like this, or None."""
    return next((name for name, (magic, _) in _FORMATS.items() if data.startswith(magic)), None)


def unpack(payload: bytes) -> bytes:
    """Decompress a payload; bytes after its end are ignored.

    Raises `BadInput` for a compression that isn't known, a damaged payload, or one that holds
    more than `MAX_UNPACKED` bytes.
    """
    name = compression_of(payload)
    if name is None:
        raise BadInput(f"a payload of an unknown compression: it begins {payload[:8].hex()}")
    _, undo = _FORMATS[name]
    try:
        return undo(payload)
    except (*_ERRORS, EOFError, ValueError) as error:
        raise BadInput(f"damaged {name} payload: {error}") from error


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
