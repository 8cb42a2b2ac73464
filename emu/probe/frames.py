"""Frames of a source's memory, read as bytes where the walker reads tables.

A source whose `read` and `tables` disagree therefore shows as a divergence.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["has_frames", "words_of"]


def has_frames(memory: PhysicalMemory, frames: U64) -> NDArray[np.bool_]:
    """Return, for each physical address of a frame, whether memory has all of it."""
    starts = np.array([start for start, _ in memory.ranges], np.uint64)
    if not len(starts):
        return np.zeros(len(frames), np.bool_)
    # The last bytes: a range may end with the last one that there is.
    lasts = np.array([start + size - 1 for start, size in memory.ranges], np.uint64)
    at = np.searchsorted(starts, frames, side="right")
    found: NDArray[np.bool_] = frames + np.uint64(FRAME - 1) <= lasts[np.maximum(at, 1) - 1]
    return found & (at > 0)


def words_of(memory: PhysicalMemory, frames: U64) -> U64:
    """Return the words of n frames, uint64[n, 512]; zeros where memory hasn't all of a frame."""
    found = np.zeros((len(frames), WORDS), np.uint64)
    rows = np.flatnonzero(has_frames(memory, frames))
    if not len(rows):
        return found
    # Adjacent frames are read in one call.
    breaks = (np.diff(frames[rows]) != FRAME) | (np.diff(rows) != 1)
    bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    places, addresses = rows.tolist(), frames[rows].tolist()
    for first, end in pairwise(bounds):
        count = end - first
        content = memory.read(addresses[first], FRAME * count)
        at = places[first]
        found[at : at + count] = np.frombuffer(content, "<u8").reshape(-1, WORDS)
    return found
