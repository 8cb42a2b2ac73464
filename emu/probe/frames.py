"""Frames of a source's memory, read as bytes: the walker reads the same ones as tables.

So a source that gives one of the two wrongly is seen to.
"""

import numpy as np
from numpy.typing import NDArray

from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["has_frames", "words_of"]


def has_frames(memory: PhysicalMemory, frames: U64) -> NDArray[np.bool_]:
    """Return, for each physical address of a frame, whether memory has all of it."""
    starts = np.array([start for start, _ in memory.ranges], np.uint64)
    ends = starts + np.array([size for _, size in memory.ranges], np.uint64)
    if not len(starts):
        return np.zeros(len(frames), np.bool_)
    at = np.searchsorted(starts, frames, side="right")
    last = np.maximum(at, 1) - 1
    # A range may end with the last byte that there is; then its end is 0.
    found: NDArray[np.bool_] = (at > 0) & (
        frames + np.uint64(FRAME - 1) <= ends[last] - np.uint64(1)
    )
    return found


def words_of(memory: PhysicalMemory, frames: U64) -> U64:
    """Return the words of n frames, uint64[n, 512]; zeros where memory hasn't all of a frame."""
    found = np.zeros((len(frames), WORDS), np.uint64)
    rows = np.flatnonzero(has_frames(memory, frames))
    follows = np.diff(frames[rows]) == FRAME
    follows &= np.diff(rows) == 1
    for run in np.split(rows, np.flatnonzero(~follows) + 1):
        if len(run):
            content = memory.read(int(frames[run[0]]), FRAME * len(run))
            found[run] = np.frombuffer(content, "<u8").reshape(-1, WORDS)
    return found
