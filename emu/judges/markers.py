"""Words that say where they are when they are read, written or executed, at a machine's addresses.

A *marker* fills one aligned word of eight bytes:

    byte 0       0x40 | check << 1    the check sums up the others: another word is hardly one
    bytes 1…7    seven bits each of the word's address, without its lowest three

No byte has bit 7 set, so that the one byte that a fetch is to execute, INT3 (0xCC), is at one place
alone, and bit 0 is clear: to a walk that strays to it, a marker is no present entry.

A *word for fetches* is one instruction that puts the number of its frame into EAX, with INT3
behind it. All its bytes have bit 7 set.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import U64

__all__ = [
    "ADD_EAX",
    "INT3",
    "MOV_EAX",
    "byte_at",
    "decode",
    "fetch_number",
    "fetch_word",
    "frame_bytes",
    "marker",
    "markers",
    "with_byte",
]

INT3 = 0xCC
MOV_EAX, ADD_EAX = 0xB8, 0x05
"""`mov eax, imm32`, with which words for fetches begin, and `add eax, imm32`."""

_GROUPS = 7
_TOP_BITS = np.uint64(0x8080_8080_8080_8080)


def markers(pa: U64) -> U64:
    """Return the markers at n physical addresses, uint64[n]: multiples of 8 below 2^52."""
    number = pa >> np.uint64(3)
    word, total = np.zeros(len(pa), np.uint64), np.zeros(len(pa), np.uint64)
    for at in range(_GROUPS):
        bits = number >> np.uint64(7 * at) & np.uint64(0x7F)
        word |= bits << np.uint64(8 * at + 8)
        total += bits * np.uint64(2 * at + 1)
    return word | np.uint64(0x40) | total % np.uint64(31) << np.uint64(1)


def decode(words: U64) -> tuple[NDArray[np.bool_], U64]:
    """Return bool[n], which words are markers, and uint64[n], the addresses that they name."""
    number = np.zeros(len(words), np.uint64)
    for at in range(_GROUPS):
        number |= (words >> np.uint64(8 * at + 8) & np.uint64(0x7F)) << np.uint64(7 * at)
    pa = number << np.uint64(3)
    found: NDArray[np.bool_] = (words & _TOP_BITS) == 0
    return found & (markers(pa) == words), pa


@lru_cache(1 << 14)
def marker(pa: int) -> int:
    """Return the marker at a physical address, a multiple of 8 below 2^52."""
    return int(markers(np.array([pa], np.uint64))[0])


def frame_bytes(pa: int, which: int = 0) -> bytes:
    """Return four bytes that name the frame of an address below 2^39, and 0 or 1."""
    number = pa >> 12 & (1 << 27) - 1 | which << 27
    return bytes(0x80 | number >> 7 * at & 0x7F for at in range(4))


@lru_cache(1 << 14)
def fetch_number(pa: int) -> int:
    """Return what EAX holds after the word for fetches at this address was executed."""
    return int.from_bytes(frame_bytes(pa), "little")


def fetch_word(pa: int) -> int:
    """Return the word for fetches at this address, a multiple of 8."""
    return MOV_EAX | fetch_number(pa) << 8 | INT3 << 40 | INT3 << 48 | INT3 << 56


def byte_at(word: int, pa: int) -> int:
    """Return the byte of a word that lies at this physical address."""
    return word >> 8 * (pa & 7) & 0xFF


def with_byte(word: int, pa: int, value: int) -> int:
    """Return a word with another byte at this physical address."""
    shift = 8 * (pa & 7)
    return word & ~(0xFF << shift) | value << shift
