"""The kernel's collective rights, computed when asked for, and followed change by change."""

from dataclasses import replace

import numpy as np

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.protect.kernel.guestwalk import find_user_root
from crosswalk.emu.protect.kernel.rules import Wanted, wanted
from crosswalk.walker.context import PagingContext
from crosswalk.walker.frames import Frames, collective_rights, count_mappings
from crosswalk.walker.memory import FRAME, U64, Segments
from crosswalk.walker.rights import GRANTS
from crosswalk.walker.states import distinct_states
from crosswalk.walker.tracker import RightsTracker
from crosswalk.walker.unfollowed import unfollowed

__all__ = ["RightsFollower", "image_frames", "kept_frames"]

_KEPT = (".data", ".bss")
"""Sections of a kernel's data that it never frees."""


class RightsFollower:
    """The collective rights of the address space at `context`, frame by frame.

    With page-table isolation it has two roots, and its rights are the union of both's: `isolated`
    says whether. `wanted` are those at first, `own` those at the last update; `followed` says which
    frames were writable then, there or in the tables that were present. Each update is made from
    the changed entries alone, and compared with a fresh computation: `steps` counts them,
    `differing` those where the two weren't equal.
    """

    def __init__(self, ram: Ram, memory: Segments, context: PagingContext) -> None:
        self._ram, self._memory, self._context = ram, memory, context
        self.count = ram.size // FRAME
        self.isolated = find_user_root(ram.words, context.root & ~FRAME) is not None
        self._contexts = self._spaces(context.root)
        self._trackers = [RightsTracker(memory, each) for each in self._contexts]
        self.wanted = self.own = self._union(self._fresh(self._contexts))
        self.followed = self.wanted.writable.copy()
        self.steps = self.differing = 0
        self._remember()

    def tables(self) -> np.ndarray:
        """Return which frames serve as paging structures, bool[n]."""
        found = np.zeros(self.count, np.bool_)
        frames = self._frames // np.uint64(FRAME)
        found[frames[frames < self.count].astype(np.intp)] = True
        return found

    def update(self, root: int | None = None) -> Wanted:
        """Take in what has changed since, and return the rights now.

        Those of the tables at `root`, another address space of the same kernel, count as well in
        `followed`.
        """
        changed = self._changed()
        for tracker in self._trackers:
            tracker.update(changed)
        fresh = self._fresh(self._contexts)
        pairs = zip(self._trackers, fresh, strict=True)
        self.differing += not all(_equal(tracker.frames(), frames) for tracker, frames in pairs)
        self.steps += 1
        self._remember()
        self.own = self._union(fresh)
        self.followed = self.own.writable | self._present(root)
        return self.own

    def writable(self, root: int) -> np.ndarray:
        """Return which frames some mapping allows to write now, bool[n]: computed afresh.

        Of the kernel's own mappings, and those of the tables at `root`.
        """
        found: np.ndarray = self._union(self._fresh(self._contexts)).writable | self._present(root)
        return found

    def extent(self) -> tuple[int, int, int]:
        """Return the number of mappings of the kernel's own roots, and what can't be followed.

        The latter as the entries that refer to tables outside RAM and those with reserved bits.
        """
        found = [unfollowed(self._memory, each) for each in self._contexts]
        mapped = [sum(count_mappings(self._memory, each).values()) for each in self._contexts]
        return sum(mapped), sum(it.outside for it in found), sum(it.reserved for it in found)

    def _present(self, root: int | None) -> np.ndarray:
        spaces = [] if root is None else self._spaces(root)
        others = [space for space in spaces if space not in self._contexts]
        found: np.ndarray = self._union(self._fresh(others)).writable
        return found

    def _spaces(self, root: int) -> list[PagingContext]:
        """Return the address space, or both, that the root belongs to."""
        roots = [root & ~FRAME, root | FRAME] if self.isolated else [root]
        return [replace(self._context, cr3=each) for each in roots]

    def _fresh(self, contexts: list[PagingContext]) -> list[Frames]:
        return [collective_rights(self._memory, each) for each in contexts]

    def _union(self, spaces: list[Frames]) -> Wanted:
        nothing = np.zeros(self.count, np.bool_)
        found = Wanted(nothing, nothing, nothing)
        for each in (wanted(frames, self.count) for frames in spaces):
            found = Wanted(
                mapped=found.mapped | each.mapped,
                writable=found.writable | each.writable,
                executable=found.executable | each.executable,
            )
        return found

    def _remember(self) -> None:
        keys = [
            block.key
            for context in self._contexts
            for block in distinct_states(self._memory, context)
        ]
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
