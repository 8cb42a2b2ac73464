"""The kernel's collective rights, computed when asked for, and followed change by change."""

import numpy as np

from emu.linux.image import KernelImage
from emu.machine.ram import Ram
from emu.protect.kernel.rules import Wanted, wanted
from walker.context import PagingContext
from walker.frames import Frames, collective_rights
from walker.memory import FRAME, U64, Segments
from walker.rights import GRANTS
from walker.states import distinct_states
from walker.tracker import RightsTracker

__all__ = ["RightsFollower", "image_frames", "kept_frames"]

_KEPT = (".data", ".bss")
"""Sections of a kernel's data that it never frees."""


class RightsFollower:
    """The collective rights of the address space at `context`, frame by frame.

    `wanted` are those at first. `followed` says which frames the tables have had as writable
    since; each update is made from the changed entries alone, and compared with a fresh
    computation: `steps` counts them, `differing` those where the two weren't equal.
    """

    def __init__(self, ram: Ram, memory: Segments, context: PagingContext) -> None:
        self._ram, self._memory, self._context = ram, memory, context
        self.count = ram.size // FRAME
        self._tracker = RightsTracker(memory, context)
        self.wanted: Wanted = wanted(self._fresh(), self.count)
        self.followed = self.wanted.writable.copy()
        self.steps = self.differing = 0
        self._remember()

    def tables(self) -> np.ndarray:
        """Return which frames serve as paging structures, bool[n]."""
        found = np.zeros(self.count, np.bool_)
        frames = self._frames // np.uint64(FRAME)
        found[frames[frames < self.count].astype(np.intp)] = True
        return found

    def update(self, present: PagingContext | None = None) -> Wanted:
        """Take in what has changed since, and return the rights now.

        Those of `present`, another address space of the same kernel, count as well.
        """
        changed = self._changed()
        self._tracker.update(changed)
        fresh = self._fresh()
        self.differing += not _equal(self._tracker.frames(), fresh)
        self.steps += 1
        self._remember()
        now = wanted(fresh, self.count)
        self.followed = now.writable
        if present is not None and present.root != self._context.root:
            other = wanted(collective_rights(self._memory, present), self.count)
            self.followed = self.followed | other.writable
        return now

    def _fresh(self) -> Frames:
        return collective_rights(self._memory, self._context)

    def _remember(self) -> None:
        keys = [block.key for block in distinct_states(self._memory, self._context)]
        frames = np.unique(np.concatenate(keys) & ~np.uint64(GRANTS - 1))
        self._frames: U64 = frames
        self._words: U64 = self._memory.tables(frames).copy()

    def _changed(self) -> list[int]:
        """Return the physical addresses of the words that have changed in the tables known."""
        table, index = np.nonzero(self._memory.tables(self._frames) != self._words)
        found: list[int] = (self._frames[table] + np.uint64(8) * index.astype(np.uint64)).tolist()
        return found


def image_frames(kernel: KernelImage, count: int) -> np.ndarray:
    """Return which of `count` frames the kernel's image is in, gaps between segments included."""
    found = np.zeros(count, np.bool_)
    start = min(start for start, _, _ in kernel.segments)
    found[start // FRAME : -(-kernel.end // FRAME)] = True
    return found


def kept_frames(kernel: KernelImage, count: int) -> np.ndarray:
    """Return which of `count` frames hold nothing but data that a kernel keeps.

    None where the image's file doesn't name its sections.
    """
    found = np.zeros(count, np.bool_)
    for name, start, size in kernel.sections:
        if name in _KEPT:
            found[-(-start // FRAME) : (start + size) // FRAME] = True
    return found


def _equal(one: Frames, other: Frames) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("start", "size", "rights")
    )
