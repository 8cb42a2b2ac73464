"""Physical memory that is fetched frame by frame: from a library, a descriptor or a live guest.

What can't be mapped is never whole in memory: frames that were fetched last are kept, up to a
bound.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, WholeFrames, joined

__all__ = ["CACHED", "Fetch", "FetchedMemory"]

CACHED = 8192
"""How many frames are kept by default: 32 MiB."""

Fetch = Callable[[U64], U64]
"""Returns the words, uint64[n, 512], of n frames that are backed: ascending and distinct."""

_BATCH = 2048


class FetchedMemory:
    """Physical memory whose frames `fetch` returns when they are asked for.

    `ranges` are the backed ranges as (start, size) in bytes, in any order; a frame of which only
    a part is backed isn't. `fetch` is called with at most `_BATCH` frames at once, raises
    `BadInput` where it fails, and is asked again only for frames that have been dropped since:
    the `cached` ones used last are kept. Nothing that is written meanwhile is seen before `forget`.
    """

    def __init__(
        self, ranges: Iterable[tuple[int, int]], fetch: Fetch, *, cached: int = CACHED
    ) -> None:
        self._ranges = joined(sorted((start, size) for start, size in ranges if size))
        self._fetch = fetch
        self._cached = max(cached, 1)
        self._kept: OrderedDict[int, U64] = OrderedDict()
        self._whole = WholeFrames(self._ranges)

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The backed ranges as (start, size) in bytes: sorted, disjoint, not adjacent."""
        return self._ranges

    def forget(self) -> None:
        """Drop all frames that are kept, so that they are fetched anew."""
        self._kept.clear()

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from `pa`; `BadInput` unless whole frames there are backed."""
        first, end = pa & -FRAME, -(-(pa + size) // FRAME) * FRAME
        found = bytearray()
        for start in range(first, end, _BATCH * FRAME):
            frames = np.arange(start, min(start + _BATCH * FRAME, end), FRAME, dtype=np.uint64)
            missing = frames[~self.backed(frames)]
            if len(missing):
                raise BadInput(f"no memory at {max(int(missing[0]), pa):#x}")
            found += self.tables(frames).tobytes()
        return bytes(found[pa - first : pa - first + size])

    def word(self, pa: int) -> int | None:
        """Return the 8-byte word at `pa`, a multiple of 8; None if its frame is not backed."""
        frame = pa & -FRAME
        held = self._kept.get(frame)
        if held is None:
            if frame not in self._whole:
                return None
            held = self.tables(np.array([frame], np.uint64))[0]
        else:
            self._kept.move_to_end(frame)
        return int(held[pa % FRAME // 8])

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return, for each physical address of a frame, whether all 4 KiB of it are backed."""
        return self._whole.among(frames)

    def tables(self, frames: U64) -> U64:
        """Return the (n, 512) words of n frames, a copy; zeros where one isn't backed."""
        found = np.zeros((len(frames), WORDS), np.uint64)
        backed = self.backed(frames)
        wanted = distinct(frames[backed])
        for at in range(0, len(wanted), _BATCH):
            some = wanted[at : at + _BATCH]
            words = self._known(some)
            inside = np.flatnonzero(backed & (frames >= some[0]) & (frames <= some[-1]))
            found[inside] = words[np.searchsorted(some, frames[inside])]
        return found

    def _known(self, frames: U64) -> U64:
        """Return the words of at most `_BATCH` distinct frames, ascending, fetched or kept."""
        addresses = frames.tolist()
        held = [self._kept.get(frame) for frame in addresses]
        missing = np.array([each is None for each in held], np.bool_)
        words = np.empty((len(frames), WORDS), np.uint64)
        for row, (frame, each) in enumerate(zip(addresses, held, strict=True)):
            if each is not None:
                words[row] = each
                self._kept.move_to_end(frame)
        if missing.any():
            words[missing] = self._fetch(frames[missing])
            for row in np.flatnonzero(missing).tolist():
                self._kept[addresses[row]] = words[row].copy()
            while len(self._kept) > self._cached:
                self._kept.popitem(last=False)
        return words
