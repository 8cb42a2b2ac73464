"""Frames outside a kernel's image that are sealed when they turn read-only, until they are freed.

A module's text and read-only data, a filter's compiled code: the kernel writes them, takes writing
away by its tables, and maps them until it frees them. In between they are sealed as its own text
and read-only data are. What the kernel has freed isn't mapped any more where it was sealed.
"""

import numpy as np

from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.permissions import Bools
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["LaterSeals", "to_seal"]


class LaterSeals:
    """The frames of `memory` that were sealed outside the image, and where they are mapped.

    `frames` are sealed now, `code` those of them that were executable; `added` and `released` count
    what was sealed and given free since, `content` is what a sealed frame held when it was sealed.
    """

    def __init__(self, memory: PhysicalMemory, count: int) -> None:
        self._memory = memory
        self.frames: Bools = np.zeros(count, np.bool_)
        self.code: Bools = self.frames.copy()
        self.content: dict[int, bytes] = {}
        self.added = self.released = 0
        self._places: dict[int, tuple[int, ...]] = {}

    def copy(self) -> "LaterSeals":
        """Return what is sealed now, apart from what comes."""
        found = LaterSeals(self._memory, len(self.frames))
        found.frames, found.code = self.frames.copy(), self.code.copy()
        found.content, found._places = dict(self.content), dict(self._places)
        found.added, found.released = self.added, self.released
        return found

    def add(self, rights: RightsFollower, among: Bools) -> None:
        """Seal those of these frames that aren't writable, and that are more than plain memory.

        `rights` are up to date. See `to_seal`.
        """
        for frame, places in to_seal(rights, among & ~self.frames).items():
            self.frames[frame] = True
            self._places[frame] = places
            self.content[frame] = self._memory.read(frame * FRAME, FRAME)
            self.added += 1
        self.note_code(rights)

    def note_code(self, rights: RightsFollower) -> None:
        """Note which sealed frames the kernel's tables have as code: executable, not writable."""
        own = rights.own
        executable = may(own, Permission.EXECUTE) & ~may(own, Permission.WRITE)
        self.code |= self.frames & executable

    def freed(self, frame: int, context: PagingContext) -> bool:
        """Return whether a sealed frame isn't mapped any more at an address where it was sealed.

        The mappings are those of `context`.
        """
        for va in self._places[frame]:
            leaf = find_leaf(self._memory, context, va)
            if leaf is None or (leaf.pa + va % leaf.size) // FRAME != frame:
                return True
        return False

    def release(self, frame: int) -> None:
        """Forget a sealed frame, which the kernel has freed."""
        self.frames[frame] = self.code[frame] = False
        del self._places[frame], self.content[frame]
        self.released += 1

    def changed(self) -> frozenset[int]:
        """Return the numbers of the sealed frames whose content isn't that of when they were."""
        return frozenset(
            frame
            for frame, content in self.content.items()
            if self._memory.read(frame * FRAME, FRAME) != content
        )


def to_seal(rights: RightsFollower, among: Bools) -> dict[int, tuple[int, ...]]:
    """Return which of these frames are to be sealed, with the addresses that they are mapped at.

    They are mapped by the kernel's own tables, writable nowhere, and either executable or mapped at
    several addresses. A page that is mapped at one alone is plain memory whose writing the kernel
    took away: nothing would tell when it is freed.
    """
    own = rights.own
    found = rights.places(among & (own != 0) & ~may(own, Permission.WRITE))
    executable = may(own, Permission.EXECUTE)
    return {
        frame: places for frame, places in found.items() if executable[frame] or len(places) > 1
    }
