"""Compressed files: unpacked to a temporary file without a name, in which runs of zeros are holes.

Memory is mostly zeros: what is stored is a fraction of what a dump unpacks to. The file goes with
the last process that has it open, also where that is killed.
"""

import bz2
import lzma
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np

from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats.files import MappedFile
from crosswalk.walker.formats.holes import MOST_RUNS, Runs, allocates_when_read, mapped_with_holes
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.formats.unsupported import HEAD
from crosswalk.walker.memory import FRAME, WORDS

__all__ = ["UNPACK_LIMIT", "WINDOW", "Compression", "compression_of", "unpack", "without_ending"]

UNPACK_LIMIT = 32 << 30
"""The most bytes that a file may unpack to by default, those in holes included: 32 GiB."""

WINDOW = 1 << 30
"""The most bytes that a decoder may keep of what it has unpacked; `zstd --long=31` takes twice
as many.
"""

_SAID = 1 << 28
"""Progress is said after so many bytes, and whenever they have doubled."""

_CHUNK = 1 << 17
_LEAST, _MOST = 1 << 7, 1 << 16
_BURST = 1 << 22
_FORGOTTEN = 1 << 22
_SKIPPABLE = tuple(bytes([0x50 + at]) + b"\x2a\x4d\x18" for at in range(16))
_ZEROS = memoryview(bytes(_CHUNK))
_NO_WORDS = np.zeros(0, np.uint64)
_ENDINGS = (".gz", ".xz", ".zst", ".zstd", ".bz2", ".lz4")
_SKIPPED_FIRST = 16
_LARGE_FILES = "/var/tmp"  # noqa: S108  # Its files have no names there.
_ERRORS = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError, MemoryError)
_TOO_LARGE = ("Memory usage limit", "too much memory")


@dataclass(frozen=True, slots=True)
class Compression:
    """A compressed format: its name, the bytes that a stream of it begins with, and its decoder.

    `new` returns a decoder of one stream, and `decode` yields what it makes of the next piece of
    at most `most` bytes, some `_CHUNK` bytes at a time. `skips` says that there may be frames to
    be skipped between the streams (RFC 8878, "Skippable Frames").
    """

    name: str
    magic: bytes
    new: Callable[[], Any]
    decode: Callable[[Any, bytes], Iterator[bytes]]
    most: int = _MOST
    skips: bool = False


def _limited(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """Decode by lzma, bz2 or lz4, which keep what they haven't decoded yet."""
    yield decoder.decompress(piece, _CHUNK)
    while not decoder.eof and not decoder.needs_input:
        yield decoder.decompress(b"", _CHUNK)


def _inflated(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """Decode by zlib, which hands back what it hasn't decoded yet."""
    while True:
        found = decoder.decompress(piece, _CHUNK)
        yield found
        piece = decoder.unconsumed_tail
        if decoder.eof or (not piece and len(found) < _CHUNK):
            return


def _whole(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """Decode by zstandard, which knows no limit.

    A block takes 4 bytes at least and yields 128 KiB at most, hence a piece of 1 KiB 32 MiB.
    """
    import zstandard  # noqa: PLC0415

    try:
        yield decoder.decompress(piece)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


# Libraries are imported when a file needs them: a start-up is felt.
def _zstd() -> Any:
    import zstandard  # noqa: PLC0415

    return zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()


def _lz4() -> Any:
    import lz4.frame  # noqa: PLC0415

    return lz4.frame.LZ4FrameDecompressor()


_COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b", partial(zlib.decompressobj, 16 + zlib.MAX_WBITS), _inflated),
    Compression(
        "xz", b"\xfd7zXZ\0", partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, WINDOW), _limited
    ),
    Compression("zstd", b"\x28\xb5\x2f\xfd", _zstd, _whole, most=1 << 10, skips=True),
    Compression("bzip2", b"BZh", bz2.BZ2Decompressor, _limited),
    Compression("lz4", b"\x04\x22\x4d\x18", _lz4, _limited, skips=True),
)


def compression_of(data: mmap.mmap | bytes) -> Compression | None:
    """Return the compressed format that a file has by its first bytes; None where it has none."""
    at = 0
    for _ in range(_SKIPPED_FIRST):
        if data[at : at + 4] not in _SKIPPABLE:
            break
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return next((each for each in _COMPRESSIONS if data[at : at + 6].startswith(each.magic)), None)


def without_ending(name: str) -> str:
    """Return the name of a file without an ending that says how it is compressed."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122  # A path would change the name's form.
    return stem if ending in _ENDINGS else name


def unpack(
    file: MappedFile,
    *,
    folder: str | os.PathLike[str] | None = None,
    limit: int = UNPACK_LIMIT,
    notice: Callable[[str], None] | None = None,
    accept: Callable[[bytes], object] | None = None,
) -> tuple[MappedFile, str]:
    """Return the content of a compressed file, under its name, and what was unpacked, in words.

    It is stored in `folder`: by default in the one that TMPDIR names, else in /var/tmp, since /tmp
    often is memory. `limit` is the most bytes that it may have. `notice` takes lines for people
    while it grows. `accept` is given its first `HEAD` bytes (fewer where it has fewer), and may
    raise an error before the rest is unpacked.

    It takes the decoder's window, up to `WINDOW` bytes, and a few MiB of memory. Raises `BadInput`
    in one line: for a file that isn't compressed or holds nothing, for what is damaged or truncated
    with its place, and where nothing can be stored; `LimitExceeded` beyond `limit` and `WINDOW`.
    """
    compression = compression_of(file.data)
    if compression is None:
        raise BadInput("not a compressed file")
    place = _temporary_folder() if folder is None else os.fspath(folder)
    with _temporary_file(place) as temporary:
        sparse = _Sparse(temporary.fileno(), place)
        head, said = b"", _SAID
        for chunk in _decoded(file.data, compression):
            if sparse.size + len(chunk) > limit:
                raise LimitExceeded(
                    f"{compression.name} file that unpacks to more than {limit:,} bytes: "
                    "--unpack-limit allows more"
                )
            if accept is not None and len(head) < HEAD:
                head += chunk[: HEAD - len(head)]
                if len(head) == HEAD:
                    accept(head)
            sparse.add(chunk)
            if notice is not None and sparse.size >= said:
                notice(f"{one_line(file.name)}: unpacking, {_amount(sparse)} in {one_line(place)}")
                said = 2 * sparse.size
        if accept is not None and len(head) < HEAD:
            accept(head)
        return sparse.mapped(file.name), f"{compression.name}, {_amount(sparse)}"


def _temporary_folder() -> str:
    named = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), None)
    if named is not None:
        # Not tempfile's choice, which takes another folder where this one can't be written to.
        return named
    if os.access(_LARGE_FILES, os.W_OK | os.X_OK):
        return _LARGE_FILES
    import tempfile  # noqa: PLC0415

    return tempfile.gettempdir()


def _temporary_file(folder: str) -> IO[bytes]:
    import tempfile  # noqa: PLC0415

    try:
        return tempfile.TemporaryFile(dir=folder)
    except (OSError, ValueError) as error:
        raise _not_stored(folder, error) from None


def _amount(sparse: "_Sparse") -> str:
    return f"{sparse.size:,} bytes, {sparse.stored:,} of them stored"


def _not_stored(folder: str, error: OSError | ValueError) -> BadInput:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return BadInput(
        f"can't unpack to {one_line(folder)}: {(reason or str(error)).lower()} "
        "(--unpack-to names another folder)"
    )


class _Sparse:
    """A file that is written from its beginning on; whole frames of zeros become holes.

    `size` is the number of bytes that it has so far, `stored` the number of those written: reading
    it adds none.
    """

    def __init__(self, descriptor: int, folder: str) -> None:
        self._descriptor, self._folder = descriptor, folder
        self._runs = Runs(self._fill, MOST_RUNS)
        self._fills = allocates_when_read(descriptor)
        self.size = self.stored = 0

    def add(self, chunk: bytes) -> None:
        """Append bytes; `BadInput` where they can't be stored."""
        first = min(-self.size % FRAME, len(chunk))
        count = (len(chunk) - first) // FRAME
        last = first + count * FRAME
        words = np.frombuffer(chunk, np.uint64, count * WORDS, first) if count else _NO_WORDS
        used = words.reshape(-1, WORDS).any(axis=1)
        if chunk[:first].strip(b"\0"):
            self._put(chunk, 0, first)
        if used.any():
            turns = np.flatnonzero(np.diff(used, prepend=False, append=False))
            for begin, end in (first + FRAME * turns.reshape(-1, 2)).tolist():
                self._put(chunk, begin, end)
        if chunk[last:].strip(b"\0"):
            self._put(chunk, last, len(chunk))
        self.size += len(chunk)

    def _put(self, chunk: bytes, begin: int, end: int) -> None:
        self._write(memoryview(chunk)[begin:end], self.size + begin)
        self._runs.put(self.size + begin, self.size + end)

    def _fill(self, begin: int, end: int) -> None:
        """Store zeros where a hole is going to be mapped and would take memory when it is read."""
        if self._fills:
            for at in range(begin, end, len(_ZEROS)):
                self._write(_ZEROS[: end - at], at)

    def _write(self, left: memoryview, at: int) -> None:
        self.stored += len(left)
        try:
            while left:
                written = os.pwrite(self._descriptor, left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise _not_stored(self._folder, error) from None

    def mapped(self, name: str) -> MappedFile:
        """Return the file as a mapping, which keeps it; `BadInput` where it is empty."""
        if not self.size:
            raise BadInput("holds nothing")
        try:
            os.ftruncate(self._descriptor, self.size)
            data = mapped_with_holes(self._descriptor, self.size, self._runs)
        except OSError as error:
            raise _not_stored(self._folder, error) from None
        return MappedFile(name, data)


def _decoded(data: mmap.mmap, compression: Compression) -> Iterator[bytes]:
    """Yield what all streams of a file hold, in pieces; `BadInput` and `LimitExceeded` as above."""
    forgotten = 0
    at = _next_stream(data, 0, compression)
    while at < len(data):
        begins, decoder, size = at, compression.new(), _LEAST
        while not decoder.eof:
            piece = data[at : at + size]
            if not piece:
                raise BadInput(
                    f"truncated {compression.name} file: it ends at byte {len(data):,}, within "
                    f"the stream that begins at byte {begins:,}"
                )
            longest = 0
            try:
                for chunk in compression.decode(decoder, piece):
                    longest = max(longest, len(chunk))
                    yield chunk
            except _ERRORS as error:
                raise _undecodable(compression, at, len(piece), error) from None
            at += len(piece) - len(decoder.unused_data or b"")
            # From small pieces on, since of each what lies behind the stream is copied.
            size = _LEAST if longest > _BURST else min(2 * size, compression.most)
            if at - forgotten >= _FORGOTTEN:
                # What has been read needn't stay in memory.
                reach = at // _FORGOTTEN * _FORGOTTEN
                data.madvise(mmap.MADV_DONTNEED, forgotten, reach - forgotten)
                forgotten = reach
        at = _next_stream(data, at, compression)


def _undecodable(compression: Compression, at: int, size: int, error: Exception) -> CrosswalkError:
    text = one_line(str(error)) or type(error).__name__
    if isinstance(error, MemoryError) or any(each in text for each in _TOO_LARGE):
        return LimitExceeded(
            f"{compression.name} file whose decoder takes more than {WINDOW:,} bytes of memory: "
            "unpack it first"
        )
    return BadInput(
        f"damaged {compression.name} file, between bytes {at:,} and {at + size:,}: {text}"
    )


def _next_stream(data: mmap.mmap, at: int, compression: Compression) -> int:
    """Return where the next stream begins, the size of the file where there is none.

    Zeros may lie between streams and behind the last one, as on tapes, and frames to be skipped.
    """
    while at < len(data):
        piece = data[at : at + _LEAST]
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        if zeros:
            at += zeros
        elif compression.skips and piece[:4] in _SKIPPABLE:
            at += 8 + int.from_bytes(piece[4:8], "little")
            if at > len(data):
                raise BadInput(
                    f"truncated {compression.name} file: it ends at byte {len(data):,}, within a "
                    f"frame that ends at byte {at:,}"
                )
        elif piece.startswith(compression.magic):
            return at
        else:
            raise BadInput(
                f"damaged {compression.name} file: at byte {at:,}, behind a stream, there is "
                "neither another one nor zeros"
            )
    return at
