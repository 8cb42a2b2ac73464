"""What each frame is granted: its collective rights, and the rules that they don't override."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.protect.guest import FRAMES
from crosswalk.guest import places
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.tables import NestedTables
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import protect

__all__ = ["ALL", "TABLE_POOL", "Permissions", "Rules", "permissions_of", "stretches", "written"]

Permissions = NDArray[np.uint8]
"""A `Permission` for each frame of RAM, uint8[`FRAMES`]."""

ALL = Permission.READ | Permission.WRITE | Permission.EXECUTE
TABLE_POOL = slice(places.POOL // FRAME, places.POOL // FRAME + places.POOL_FRAMES)
"""The frames that the guest has its tables in, now or later: the emulator crashes where it walks
one that isn't executable."""

_BOTH = Permission.WRITE | Permission.EXECUTE


class Rules:
    """What a host makes of collective rights, once a guest has asked for protection.

    `sealed`: the most that each frame may ever be granted; `both`: the frames that may be writable
    and executable; `opened`: the one frame of sealed text that may be writable for a while, and
    then isn't executable.
    """

    def __init__(self) -> None:
        self.sealed: Permissions = np.full(FRAMES, ALL, np.uint8)
        self.both: NDArray[np.bool_] = np.zeros(FRAMES, np.bool_)
        self.opened: int | None = None

    def granted(self, collective: Permissions) -> Permissions:
        """Return what is granted where the guest's mappings together need `collective`."""
        granted = self.granted_by_policy(collective)
        granted[TABLE_POOL] |= np.uint8(Permission.EXECUTE)
        return granted

    def granted_by_policy(self, collective: Permissions) -> Permissions:
        """Return what would be granted if the emulator could take it."""
        granted = collective & self.sealed
        both = (granted & _BOTH == _BOTH) & ~self.both
        granted[both] &= ~np.uint8(Permission.EXECUTE)
        if self.opened is not None and collective[self.opened] & Permission.WRITE:
            granted[self.opened] = Permission.READ | Permission.WRITE
        return granted

    def withheld(self, collective: Permissions) -> NDArray[np.bool_]:
        """Return which frames need more than they are granted, text that is opened aside."""
        withheld: NDArray[np.bool_] = collective & ~self.granted(collective) != 0
        if self.opened is not None:
            withheld[self.opened] = False
        return withheld


def permissions_of(frames: Frames) -> Permissions:
    """Return what the policy makes of collective rights: unmapped frames are data."""
    found = np.zeros(FRAMES, np.uint8)
    for entry in protect(frames, [(0, places.RAM_SIZE)]):
        found[entry.pa // FRAME : entry.epa // FRAME] = entry.permission
    return found


def stretches(
    values: Permissions, within: Iterable[tuple[int, int]] = ((0, places.RAM_SIZE),)
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, size, value) of neighbours alike, in these ranges (start, size) of RAM."""
    for start, size in within:
        first, end = start // FRAME, -(-(start + size) // FRAME)
        edges = np.flatnonzero(np.diff(values[first:end])) + first + 1
        for low, high in pairwise([first, *edges.tolist(), end]):
            yield low * FRAME, (high - low) * FRAME, int(values[low])


def written(tables: NestedTables) -> Permissions:
    """Return what nested tables grant each frame, read back from them."""
    found = np.zeros(FRAMES, np.uint8)
    for start, size, permission in tables.ranges():
        found[start // FRAME : (start + size) // FRAME] = permission
    return found
