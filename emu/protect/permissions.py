"""Permissions of frames: derived from collective rights, and granted by nested tables."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.nested.formats import table_format
from crosswalk.walker.nested.tables import NestedTables
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use, protect
from crosswalk.walker.rights import rwx

__all__ = [
    "ALL",
    "READ_EXECUTE",
    "READ_WRITE",
    "WRITE_EXECUTE",
    "Bools",
    "FrameTables",
    "Permissions",
    "as_listed",
    "collective_permissions",
    "everything",
    "executes",
    "grant_text",
    "stretches",
]

Permissions = NDArray[np.uint8]
"""What each frame is granted, counted from physical address 0: uint8[n].

A `Permission`, or for EPT with mode-based execute control a `Use`.
"""
Bools = NDArray[np.bool_]
"""A flag for each frame, counted from physical address 0: bool[n]."""

READ_WRITE = Permission.READ | Permission.WRITE
READ_EXECUTE = Permission.READ | Permission.EXECUTE
WRITE_EXECUTE = Permission.WRITE | Permission.EXECUTE
ALL = READ_WRITE | Permission.EXECUTE


def executes(kind: TableKind) -> int:
    """Return the bits of what this kind of table grants that are rights to execute."""
    return everything(kind) & ~READ_WRITE


def everything(kind: TableKind) -> int:
    """Return all rights that this kind of table grants."""
    return table_format(kind).everything


def grant_text(kind: TableKind, granted: int) -> str:
    """Return what a frame is granted in three letters, as in `rwx`.

    Where execution by supervisor and user is apart, `s` is the supervisor's alone, `u` the user's.
    """
    if kind is not TableKind.EPT_MBEC:
        return rwx(granted)
    who = Use(granted) & (Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE)
    last = {Use(0): "-", Use.SUPERVISOR_EXECUTE: "s", Use.USER_EXECUTE: "u"}.get(who, "x")
    return rwx(granted & READ_WRITE)[:2] + last


def as_listed(granted: Permissions) -> Permissions:
    """Return what is granted as a page list has it: executing where any privilege level may."""
    user = granted & np.uint8(Use.USER_EXECUTE) != 0
    found: Permissions = granted & np.uint8(ALL) | np.uint8(Permission.EXECUTE) * user
    return found


def collective_permissions(
    frames: Frames,
    count: int,
    *,
    unmapped: Permission = READ_WRITE,
    kind: TableKind = TableKind.NPT,
) -> Permissions:
    """Return what the policy grants each of `count` frames by its collective rights.

    `unmapped` is granted to frames that nothing maps; that of the policy is READ_WRITE.
    """
    protection = protect(frames, [(0, count * FRAME)], kind)
    granted = protection.granted if kind is TableKind.EPT_MBEC else protection.permissions
    permissions = np.where(protection.rights == 0, np.uint8(unmapped), granted)
    return np.repeat(permissions, (protection.size // np.uint64(FRAME)).astype(np.intp))


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


class _Options(TypedDict):
    kind: TableKind
    offset: int
    used: bool


class FrameTables(NestedTables):
    """Nested tables that map `frames` frames of RAM to themselves, each with its own permission.

    `granted` has the permissions as they were set; all, at first. The rest as in `NestedTables`.
    """

    def __init__(
        self,
        words: U64,
        pa: int,
        frames: int,
        *,
        kind: TableKind = TableKind.NPT,
        offset: int = 0,
        used: bool = False,
    ) -> None:
        super().__init__(words, pa, kind=kind, offset=offset, used=used)
        self.words = words
        self._options: _Options = {"kind": kind, "offset": offset, "used": used}
        self._rights = table_format(kind).rights
        self.granted: Permissions = np.zeros(frames, np.uint8)
        self.grant_all()

    def grant_all(self) -> None:
        """Grant everything on all frames."""
        self.grant(np.full_like(self.granted, everything(self.kind)))

    def grant(
        self, permissions: Permissions, within: Iterable[tuple[int, int]] | None = None
    ) -> None:
        """Grant each frame its permission; only in these ranges (start, size), if some are given.

        Errors as `NestedTables.update`.
        """
        ranges = list(stretches(permissions, within))
        self.update((start, size, self._rights(value)) for start, size, value in ranges)
        for start, size, value in ranges:
            self.granted[start // FRAME : (start + size) // FRAME] = value

    def allow(self, frame: int, permission: Permission | Use) -> None:
        """Add `permission` to what a frame, by number, is granted."""
        self._grant_one(frame, int(self.granted[frame]) | permission)

    def withhold(self, frame: int, permission: int) -> None:
        """Take `permission` from what a frame, by number, is granted."""
        # A flag's own complement has the bits of its class alone: of a Permission, no Use.
        self._grant_one(frame, int(self.granted[frame]) & ~int(permission))

    def afresh(self, permissions: Permissions) -> "FrameTables":
        """Return tables at the same place, in memory of their own, that grant these permissions."""
        words = np.zeros_like(self.words)
        fresh = FrameTables(words, self.root, len(self.granted), **self._options)
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
        self.set(frame * FRAME, FRAME, self._rights(permission))
