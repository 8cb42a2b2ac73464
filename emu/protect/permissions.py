"""Permissions of frames: derived from collective rights, and granted by nested tables."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.nested.tables import NestedTables
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import protect

__all__ = [
    "ALL",
    "READ_EXECUTE",
    "READ_WRITE",
    "WRITE_EXECUTE",
    "Bools",
    "FrameTables",
    "Permissions",
    "collective_permissions",
    "stretches",
]

Permissions = NDArray[np.uint8]
"""A `Permission` for each frame, counted from physical address 0: uint8[n]."""
Bools = NDArray[np.bool_]
"""A flag for each frame, counted from physical address 0: bool[n]."""

READ_WRITE = Permission.READ | Permission.WRITE
READ_EXECUTE = Permission.READ | Permission.EXECUTE
WRITE_EXECUTE = Permission.WRITE | Permission.EXECUTE
ALL = READ_WRITE | Permission.EXECUTE


def collective_permissions(
    frames: Frames, count: int, *, unmapped: Permission = READ_WRITE
) -> Permissions:
    """Return what the policy grants each of `count` frames by its collective rights.

    `unmapped` is granted to frames that nothing maps; that of the policy is READ_WRITE.
    """
    granted = protect(frames, [(0, count * FRAME)])
    permissions = np.where(granted.rights == 0, np.uint8(unmapped), granted.permissions)
    return np.repeat(permissions, (granted.size // np.uint64(FRAME)).astype(np.intp))


def stretches(
    values: Permissions, within: Iterable[tuple[int, int]] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, size, value) of neighbours of equal value, in bytes.

    `within` are ranges (start, size) of physical addresses; None for all frames.
    """
    for start, size in [(0, len(values) * FRAME)] if within is None else within:
        first, end = start // FRAME, -(-(start + size) // FRAME)
        edges = np.flatnonzero(np.diff(values[first:end])) + first + 1
        for low, high in pairwise([first, *edges.tolist(), end]):
            yield low * FRAME, (high - low) * FRAME, int(values[low])


class FrameTables(NestedTables):
    """Nested tables that map `frames` frames of RAM to themselves, each with its own permission.

    `granted` has the permissions as they were set; all, at first. `words` and `pa` as in
    `NestedTables`.
    """

    def __init__(self, words: U64, pa: int, frames: int) -> None:
        super().__init__(words, pa)
        self._words = words
        self.granted: Permissions = np.zeros(frames, np.uint8)
        self.grant_all()

    def grant_all(self) -> None:
        """Grant everything on all frames."""
        self.grant(np.full_like(self.granted, ALL))

    def grant(
        self, permissions: Permissions, within: Iterable[tuple[int, int]] | None = None
    ) -> None:
        """Grant each frame its permission; only in these ranges (start, size), if some are given.

        Errors as `NestedTables.update`.
        """
        ranges = list(stretches(permissions, within))
        self.update((start, size, Permission(value)) for start, size, value in ranges)
        for start, size, value in ranges:
            self.granted[start // FRAME : (start + size) // FRAME] = value

    def allow(self, frame: int, permission: Permission) -> None:
        """Add `permission` to what a frame, by number, is granted."""
        self._grant_one(frame, int(self.granted[frame]) | permission)

    def withhold(self, frame: int, permission: Permission) -> None:
        """Take `permission` from what a frame, by number, is granted."""
        self._grant_one(frame, int(self.granted[frame]) & ~permission)

    def afresh(self, permissions: Permissions) -> "FrameTables":
        """Return tables at the same place, in memory of their own, that grant these permissions."""
        fresh = FrameTables(np.zeros_like(self._words), self.root, len(self.granted))
        fresh.grant(permissions)
        return fresh

    def read_back(self) -> Permissions:
        """Return what the tables' entries grant each frame."""
        found = np.zeros_like(self.granted)
        for start, size, permission in self.ranges():
            found[start // FRAME : (start + size) // FRAME] = permission
        return found

    def _grant_one(self, frame: int, permission: int) -> None:
        self.granted[frame] = permission
        self.set(frame * FRAME, FRAME, Permission(permission))
