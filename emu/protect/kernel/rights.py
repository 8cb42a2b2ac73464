"""The kernel's collective rights, followed change by change and compared with fresh ones."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.protect.kernel.guestwalk import find_user_root
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.permissions import Bools, Permissions, collective_permissions
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, level_of
from crosswalk.walker.frames import Frames, collective_rights, count_mappings
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.pages import pages
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind
from crosswalk.walker.states import distinct_states
from crosswalk.walker.tables import Entries, read_tables
from crosswalk.walker.tracker import RightsTracker
from crosswalk.walker.unfollowed import unfollowed

__all__ = ["RightsFollower", "image_frames", "kept_frames", "section_frames"]

_KEPT = (".data", ".bss")
"""Sections of a kernel's data that it never frees."""
_WRITABLE = int(Entry.P | Entry.RW)
_NARROWING = int(Entry.P | Entry.RW | Entry.PS | ADDRESS_FIELD)
_FRAME, _ONE = np.uint64(FRAME), np.uint64(1)


class RightsFollower:
    """The collective permissions of the address space at `context`, frame by frame; 0 if unmapped.

    `memory` is RAM, from address 0 on in one range; permissions are those that a `kind` of nested
    tables grants.

    With page-table isolation, where `isolated` is set, it has two roots, and the permissions are
    the union of both. `initial` are those at first, `own` those at the last update; `writable` are
    the frames that were writable then, in these tables or in those that CR3 named. Each update is
    made from the changed entries alone, and compared with a fresh computation: `steps` counts
    updates, `differing` those where the two weren't equal. `context` has the kernel's own root.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        kind: TableKind = TableKind.NPT,
    ) -> None:
        self._memory, self._kind = memory, kind
        ((_, size),) = memory.ranges
        self.count = size // FRAME
        kernels = replace(context, cr3=context.root & ~FRAME)
        self.isolated = find_user_root(memory, kernels) is not None
        self.context = kernels if self.isolated else context
        self._contexts = self._spaces(context.root)
        self._trackers = [RightsTracker(memory, each) for each in self._contexts]
        self.initial = self.own = self._union(self._fresh(self._contexts))
        self.writable = may(self.own, Permission.WRITE)
        self.steps = self.differing = 0
        self._remember()

    def tables(self) -> Bools:
        """Return which frames are paging structures."""
        found = np.zeros(self.count, np.bool_)
        frames = self._frames // np.uint64(FRAME)
        found[frames[frames < self.count].astype(np.intp)] = True
        return found

    def update(self, root: int | None = None) -> Permissions:
        """Follow the changes since the last update, and return the permissions now.

        `writable` has those of the tables at `root` as well, another address space of the kernel.
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
        self.writable = may(self.own, Permission.WRITE) | self._present(root)
        return self.own

    def narrowed(self) -> bool:
        """Return whether entries changed since the last update so that writing may be lost by it.

        These had a page or a table writable, and don't have the same one writable any more. A PDPTE
        of PAE paging, which has no rights, has all that it leads to.
        """
        size = level_of(self.context, 1).entry_size
        before, now = _entries(self._words, size), _entries(self._memory.tables(self._frames), size)
        differ = ((before ^ now) & before.dtype.type(_NARROWING & (1 << 8 * size) - 1)) != 0
        return bool((before[differ] & _WRITABLE == _WRITABLE).any()) or self._unlinked()

    def places(self, among: Bools) -> dict[int, tuple[int, ...]]:
        """Return the addresses at which the kernel's own roots map each of these frames, in order.

        A frame that none maps isn't in it.
        """
        found: dict[int, set[int]] = {}
        if not among.any():
            return {}
        for context in self._contexts:
            for block in pages(self._memory, context):
                first, last = block.pa // _FRAME, (block.pa + block.size - _ONE) // _FRAME
                near = np.flatnonzero(_touched(among, first, last))
                for va, start, end in zip(
                    block.va[near].tolist(), first[near].tolist(), last[near].tolist(), strict=True
                ):
                    for frame in np.flatnonzero(among[start : end + 1]).tolist():
                        found.setdefault(start + frame, set()).add(va + frame * FRAME)
        return {frame: tuple(sorted(found[frame])) for frame in sorted(found)}

    def fresh_writable(self, root: int) -> Bools:
        """Return which frames are writable now, computed afresh.

        By the kernel's own mappings, and those of the tables at `root`.
        """
        own = self._union(self._fresh(self._contexts))
        return may(own, Permission.WRITE) | self._present(root)

    def extent(self) -> tuple[int, int, int]:
        """Return the number of mappings of the kernel's own roots, and of malformed entries.

        These are the entries that refer to tables outside RAM, and those with reserved bits.
        """
        found = [unfollowed(self._memory, each) for each in self._contexts]
        mapped = [sum(count_mappings(self._memory, each).values()) for each in self._contexts]
        return sum(mapped), sum(it.outside for it in found), sum(it.reserved for it in found)

    def _present(self, root: int | None) -> Bools:
        spaces = [] if root is None else self._spaces(root)
        others = [space for space in spaces if space not in self._contexts]
        return may(self._union(self._fresh(others)), Permission.WRITE)

    def _spaces(self, root: int) -> list[PagingContext]:
        """Return the address space, or both, that the root belongs to."""
        roots = [root & ~FRAME, root | FRAME] if self.isolated else [root]
        return [replace(self.context, cr3=each) for each in roots]

    def _fresh(self, contexts: list[PagingContext]) -> list[Frames]:
        return [collective_rights(self._memory, each) for each in contexts]

    def _union(self, spaces: list[Frames]) -> Permissions:
        found = np.zeros(self.count, np.uint8)
        for frames in spaces:
            found |= collective_permissions(
                frames, self.count, unmapped=Permission(0), kind=self._kind
            )
        return found

    def _remember(self) -> None:
        keys = [
            block.key
            for context in self._contexts
            for block in distinct_states(self._memory, context)
        ]
        # A PDPT of PAE paging is a part of its frame.
        frames = np.unique(np.concatenate(keys) & ~np.uint64(FRAME - 1))
        self._frames: U64 = frames
        self._words: U64 = self._memory.tables(frames).copy()
        self._roots = self._root_entries()

    def _root_entries(self) -> Entries:
        """Return the entries of the kernel's own roots now, [n, entries], a copy."""
        top = level_of(self.context, self.context.levels)
        roots = np.array([each.root for each in self._contexts], np.uint64)
        return read_tables(self._memory, top, roots).copy()

    def _unlinked(self) -> bool:
        """Return whether a root entry without rights doesn't lead where it did any more."""
        if level_of(self.context, self.context.levels).restricts:
            return False
        was_present = self._roots & np.uint64(Entry.P) != 0
        differ = (self._roots ^ self._root_entries()) & np.uint64(_NARROWING) != 0
        return bool((was_present & differ).any())

    def _changed(self) -> list[int]:
        """Return the physical addresses of the words that have changed in the known tables."""
        table, index = np.nonzero(self._memory.tables(self._frames) != self._words)
        found: list[int] = (self._frames[table] + np.uint64(8) * index.astype(np.uint64)).tolist()
        return found


def image_frames(kernel: GuestImage, count: int) -> Bools:
    """Return which of `count` frames are the kernel's image, gaps between segments included."""
    found = np.zeros(count, np.bool_)
    start = min(start for start, _, _ in kernel.segments)
    found[start // FRAME : -(-kernel.end // FRAME)] = True
    return found


def kept_frames(kernel: GuestImage, count: int) -> Bools:
    """Return which of `count` frames hold only data that a kernel never frees.

    None of them, where the image's file doesn't name its sections.
    """
    return section_frames(kernel, _KEPT, count)


def section_frames(kernel: GuestImage, names: Collection[str], count: int) -> Bools:
    """Return which of `count` frames lie wholly in one of an image's sections of these names."""
    found = np.zeros(count, np.bool_)
    for name, start, size in kernel.sections:
        if name in names:
            found[-(-start // FRAME) : (start + size) // FRAME] = True
    return found


def _entries(words: U64, size: int) -> Entries:
    """Return the words of tables as entries of `size` bytes."""
    return words if size == 8 else words.view(np.uint32)


def _touched(among: Bools, first: U64, last: U64) -> Bools:
    """Return for each range of frames, first to last, whether one of these is in it."""
    before = np.concatenate([[0], np.cumsum(among)])
    low, high = (np.minimum(each, np.uint64(len(among))) for each in (first, last + _ONE))
    found: Bools = before[high.astype(np.intp)] > before[low.astype(np.intp)]
    return found


def _equal(one: Frames, other: Frames) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("start", "size", "rights")
    )
