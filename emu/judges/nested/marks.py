"""What lies where accesses may lead: words that name their place, whether read, run or written.

A mark is eight bytes of code, of which every byte begins an instruction that does no harm:

    b8 c c c c    mov eax, the first four of six codes
    c c           two more codes
    cc            int3

A code is an instruction of one byte that changes registers and flags alone; six of them, of three
bits each, hold the number of the frame and the word's place in it. In none of the formats of
paging structures is a mark a present entry, under mode-based execute control either.
"""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64, WORDS

__all__ = ["MOST_FRAMES", "mark", "mark_words", "marked"]

# nop, three of xchg eax with another register, cwde, cdq, clc, stc: bit 2 is clear in all.
_CODES = bytes.fromhex("909192939899f8f9")
_LOAD, _TRAP = 0xB8, 0xCC
_SHIFTS = (8, 16, 24, 32, 40, 48)
_LOW = 3
"""Bits of the word's place that EAX has once a mark has run; it has all of the frame's number."""

MOST_FRAMES = 1 << 9
"""Frames that marks can tell apart."""


def mark(frame: int, word: int) -> int:
    """Return the mark of a word of a frame, by their numbers."""
    number = frame << _LOW | word & 7 | word >> _LOW << 12
    codes = [_CODES[number >> 3 * place & 7] for place in range(6)]
    return int.from_bytes(bytes([_LOAD, *codes, _TRAP]), "little")


def mark_words(frames: int) -> U64:
    """Return the marks of all words of frames 0 to `frames` - 1: uint64[frames, 512].

    Raises `BadInput` for more frames than marks can tell apart.
    """
    if frames > MOST_FRAMES:
        raise BadInput(f"{frames:,} frames: accesses can be told apart in {MOST_FRAMES} at most")
    place = np.arange(WORDS, dtype=np.uint64)
    number = np.arange(frames, dtype=np.uint64)[:, None] << np.uint64(_LOW) | place & np.uint64(7)
    number |= place >> np.uint64(_LOW) << np.uint64(12)
    codes = np.frombuffer(_CODES, np.uint8).astype(np.uint64)
    found = np.full((frames, WORDS), _LOAD | _TRAP << 56, np.uint64)
    for at, shift in enumerate(_SHIFTS):
        found |= codes[number >> np.uint64(3 * at) & np.uint64(7)] << np.uint64(shift)
    return found


def marked(starts: U64, words: U64, kept: NDArray[np.bool_]) -> tuple[U64, NDArray[np.bool_]]:
    """Return the words of frames with marks in them, and where: uint64[n, 512], bool[n, 512].

    `starts` uint64[n] are the addresses of the frames, `words` uint64[n, 512] what is in them.
    Marks take the place of all words but those of `kept` bool[n, 512] that aren't 0.
    """
    kept = kept & (words != 0)
    return np.where(kept, words, mark_words(len(starts))), ~kept
