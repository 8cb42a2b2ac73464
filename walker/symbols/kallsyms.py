"""Symbols that a Linux kernel's image has in itself: kallsyms, read out of its bytes.

Nothing says where they are. The table of tokens, of which names are made, is found first: its
digits stand for themselves, and an index of 256 offsets behind it has to be that table's own. The
markers before it say how long each 256 names are; the names before these have to be just so long,
and their number stands before them. Addresses are offsets, before the number (up to 6.3) or behind
the index. In a table that isn't one, some of this doesn't hold; nothing is guessed.

Source: Linux, scripts/kallsyms.c, which writes the tables, and kernel/kallsyms.c, which reads them.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from crosswalk.walker.memory import U64

__all__ = ["kallsyms_in", "kallsyms_of_elf"]

_TOKENS, _ZERO = 256, ord("0")
_DIGITS = b"".join(bytes([digit, 0]) for digit in b"0123456789")
_MARKED = 256
"""How many names there are to a marker."""
_SHORTEST, _LONGEST = 2, 512
"""Bytes of a name as the table has it, with its length, between which the average of 256 is."""
_FEWEST, _MOST = 3, 1 << 13
"""Of markers: a kernel has 30,000 to 300,000 symbols."""
_ORDER, _PADDING = 3, 8
"""Bytes that a name takes in the table of their order, and that alignment takes at most."""
_LONG_NAME = 0x80
_LONGEST_TOKEN = 64
_TRIED = 64
"""How many places are tried that begin as the table's digits do: a kernel has a few."""
_NEAR = 1 << 30
"""How far an image's addresses are from each other at most, in bytes."""
_WRAP = 1 << 64
_NEGATIVE = np.uint32(1 << 31)
_BAD = (ELFError, ValueError, UnicodeDecodeError, OverflowError, struct.error, KeyError)


@dataclass(frozen=True, slots=True)
class _Names:
    """Where the names are: their number's place, their beginning, the end of each."""

    number_at: int
    begin: int
    stops: list[int]


def kallsyms_of_elf(data: bytes) -> bytes:
    """Return the symbols in a vmlinux's memory, where it is linked to, as `kallsyms_in` does.

    Nothing, too, for a damaged file, and for one that is no ELF file.
    """
    try:
        elf = ELFFile(io.BytesIO(data))
        bits = elf.elfclass
        headers = [each.header for each in elf.iter_segments("PT_LOAD")]
    except _BAD:
        return b""
    for header in headers:
        begin = header["p_offset"]
        found = kallsyms_in(data[begin : begin + header["p_filesz"]], header["p_vaddr"], bits)
        if found:
            return found
    return b""


def kallsyms_in(memory: bytes, address: int, bits: int = 64) -> bytes:
    """Return the symbols that a kernel's memory has, as lines like those of /proc/kallsyms.

    `memory` begins at this linear address, and has the kernel's read-only data, as it is linked;
    `bits` are those of its addresses, 64 or 32. Nothing is returned where there are no tables of a
    form that is known: those of 4.20 and later.
    """
    for begin, tokens, end in _token_tables(memory):
        names = _names(memory, begin)
        if names is None:
            continue
        found = _addresses(memory, address, names, end, bits // 8)
        if found is not None:
            return b"".join(_lines(memory, names, tokens, found))
    return b""


def _token_tables(memory: bytes) -> Iterator[tuple[int, list[bytes], int]]:
    """Yield tables of tokens: where one begins, the tokens, where its index ends."""
    at = memory.find(_DIGITS)
    for _ in range(_TRIED):
        if at < 0:
            return
        found = _token_table(memory, at)
        if found is not None:
            yield found
        at = memory.find(_DIGITS, at + 1)


def _token_table(memory: bytes, zero: int) -> tuple[int, list[bytes], int] | None:
    """Return the table whose token of the digit 0 is here; None where there is none."""
    later = memory[zero : zero + (_TOKENS - _ZERO) * _LONGEST_TOKEN].split(b"\0")
    later = later[: _TOKENS - _ZERO]
    end = zero + sum(map(len, later)) + len(later)
    for align in (4, 8):
        at = -(-end // align) * align
        if at + 2 * _TOKENS > len(memory):
            return None
        index = struct.unpack_from(f"<{_TOKENS}H", memory, at)
        begin = zero - index[_ZERO]
        if begin < 0 or index[0] != 0:
            continue
        tokens = memory[begin : end - 1].split(b"\0")
        offsets = [0]
        for token in tokens:
            offsets.append(offsets[-1] + len(token) + 1)
        if tuple(offsets[:-1]) == index:
            return begin, tokens, at + 2 * _TOKENS
    return None


def _names(memory: bytes, end: int) -> _Names | None:
    """Return the names whose markers are before `end`; None where there are none."""
    words = np.frombuffer(memory, np.uint32, end // 4)
    steps = np.diff(words.astype(np.int64))
    grows = (steps >= _MARKED * _SHORTEST) & (steps <= _MARKED * _LONGEST)
    # What follows a zero and grows is a table of markers, as long as it grows.
    starts = np.flatnonzero((words[:-1] == 0) & grows)
    stops = np.append(np.flatnonzero(~grows), len(grows))
    lengths = stops[np.searchsorted(stops, starts)] - starts + 1
    # Between it and the tokens there is nothing, or, from 6.2 to 6.4, the order of names.
    near = 4 * (starts + lengths) + _MARKED * _ORDER * lengths + _PADDING >= end
    likely = near & (lengths >= _FEWEST) & (lengths <= _MOST)
    for start, length in zip(starts[likely].tolist(), lengths[likely].tolist(), strict=True):
        # The word behind the last marker may happen to be one that grows.
        for count in (length, length - 1):
            found = _names_before(memory, words, start, words[start : start + count].tolist())
            if found is not None:
                return found
    return None


def _names_before(
    memory: bytes, words: NDArray[np.uint32], start: int, markers: list[int]
) -> _Names | None:
    """Return the names that have these markers, at the word `start`; None for none."""
    last = start - markers[-1] // 4
    first = max(last - _MARKED * _LONGEST // 4, 0)
    most = len(markers) * _MARKED
    numbers = words[first:last]
    for row in np.flatnonzero((numbers > most - _MARKED) & (numbers <= most)).tolist():
        # The number is a word, with another of padding behind it up to 6.19.
        for begin in (4 * (first + row) + 4, 4 * (first + row) + 8):
            stops = _walk(memory, begin, int(numbers[row]), markers, 4 * start)
            if stops is not None and 4 * start - stops[-1] < _PADDING:
                return _Names(4 * (first + row), begin, stops)
    return None


def _walk(
    memory: bytes, begin: int, number: int, markers: list[int], limit: int
) -> list[int] | None:
    """Return where each of the names ends; None where they aren't as the markers have them.

    None, too, where they go beyond `limit`, behind which there is more of the memory.
    """
    at, stops = begin, []
    for row in range(number):
        if row % _MARKED == 0 and at - begin != markers[row // _MARKED]:
            return None
        length = memory[at]
        at += 1
        if length & _LONG_NAME:
            length = length & ~_LONG_NAME | memory[at] << 7
            at += 1
        at += length
        if at > limit:
            return None
        stops.append(at)
    return stops


def _addresses(
    memory: bytes, address: int, names: _Names, index_end: int, width: int
) -> U64 | None:
    """Return the address of each symbol; None where no table of them is in order.

    Up to 6.3 the table is before the number of names, later behind the index of tokens, and
    the address that offsets are from is behind it. From 7.0 on each is from its own place.
    """
    count = len(names.stops)
    before = (names.number_at - width - 4 * count) // width * width
    after = -(-index_end // width) * width
    places = (
        (before, names.number_at - width),
        (after, -(-(after + 4 * count) // width) * width),
    )
    top = 1 << 8 * width
    for at, base_at in places:
        if at >= 0 and base_at + width <= len(memory):
            base = int.from_bytes(memory[base_at : base_at + width], "little")
            offsets = np.frombuffer(memory, np.uint32, count, at)
            for found in (_from_base(offsets, base), _per_cpu(offsets, base)):
                # The base is the lowest address that isn't of a per-CPU variable.
                if base in found and _in_order(found, address, top):
                    return found
    if index_end + 4 * count > len(memory):
        return None
    distances = np.frombuffer(memory, np.int32, count, index_end) + 4 * np.arange(count)
    own = distances.view(np.uint64) + np.uint64((address + index_end) % _WRAP)
    return own if _in_order(own, address, top) else None


def _from_base(offsets: NDArray[np.uint32], base: int) -> U64:
    return offsets.astype(np.uint64) + np.uint64(base)


def _per_cpu(offsets: NDArray[np.uint32], base: int) -> U64:
    """Return addresses where those of per-CPU variables are as they are (…_ABSOLUTE_PERCPU)."""
    absolute = offsets < _NEGATIVE
    relative = np.uint64(base) + (~offsets).astype(np.uint64)
    return np.where(absolute, offsets.astype(np.uint64), relative)


def _in_order(addresses: U64, near: int, top: int) -> bool:
    """Return whether these are addresses of symbols: in their order, to the image's near end."""
    rises = bool((addresses[1:] >= addresses[:-1]).all())
    last = int(addresses[-1])
    return rises and last < top and abs(last - near) < _NEAR


def _lines(memory: bytes, names: _Names, tokens: list[bytes], addresses: U64) -> Iterator[bytes]:
    """Yield a line for each symbol: its address, the letter of its type, its name."""
    begin = names.begin
    for address, end in zip(addresses.tolist(), names.stops, strict=True):
        begin += 2 if memory[begin] & _LONG_NAME else 1
        text = b"".join([tokens[each] for each in memory[begin:end]])
        if text:
            yield b"%016x %c %b\n" % (address, text[0], text[1:])
        begin = end
