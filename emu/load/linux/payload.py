"""What a kernel image is compressed with, and undoing it."""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable

import lz4.block
import zstandard

from crosswalk.walker.errors import BadInput

__all__ = ["MAX_UNPACKED", "unpack"]

MAX_UNPACKED = 1 << 30
"""The most bytes that a payload may unpack to."""

_LZ4_BLOCK = 8 << 20  # The legacy format's blocks unpack to at most that much.


def unpack(payload: bytes) -> bytes:
    """Return what a compressed payload holds; bytes behind its end don't count.

    Raises `BadInput` for a compression that isn't known, a damaged payload, or one that holds
    more than `MAX_UNPACKED` bytes.
    """
    for name, (magic, undo) in _FORMATS.items():
        if payload.startswith(magic):
            try:
                return undo(payload)
            except (*_ERRORS, EOFError, ValueError) as error:
                raise BadInput(f"damaged {name} payload: {error}") from error
    raise BadInput(f"a payload that is compressed in no known way: it begins {payload[:8].hex()}")


def _limited(data: bytes, *, complete: bool) -> bytes:
    if len(data) > MAX_UNPACKED:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
    if not complete:
        raise EOFError("it ends too early")
    return data


def _gzip(payload: bytes) -> bytes:
    stream = zlib.decompressobj(31)
    data = stream.decompress(payload, MAX_UNPACKED + 1)
    return _limited(data, complete=stream.eof)


def _lzma(payload: bytes) -> bytes:
    stream = lzma.LZMADecompressor()
    data = stream.decompress(payload, MAX_UNPACKED + 1)
    return _limited(data, complete=stream.eof)


def _bzip2(payload: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    data = stream.decompress(payload, MAX_UNPACKED + 1)
    return _limited(data, complete=stream.eof)


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
    """Undo the legacy format: a magic number, then blocks with their sizes in front."""
    parts: list[bytes] = []
    size, at = 0, 4
    while at + 4 <= len(payload):
        (length,) = struct.unpack_from("<I", payload, at)
        if length == 0 or at + 4 + length > len(payload):
            # Behind the last block comes the size of the whole, as of any payload but gzip's.
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
    "gzip": (b"\x1f\x8b", _gzip),
    "xz": (b"\xfd7zXZ\x00", _lzma),
    "lzma": (b"\x5d\x00\x00", _lzma),
    "bzip2": (b"BZh", _bzip2),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
    "lz4": (b"\x02\x21\x4c\x18", _lz4),
}
