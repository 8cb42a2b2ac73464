"""From collective rights to what a hypervisor grants, by a second-level table that has its limits.

The policy is that of the Heki series: a page is granted the union of what all of its mappings
allow, whoever may use them; a page of RAM that nothing maps may be read and written, and not
executed (`heki_default_permissions` in Linux Heki RFC v2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import U64
from crosswalk.walker.protection.overlay import Overlay, overlay
from crosswalk.walker.protection.pagelist import PageEntry, Permission
from crosswalk.walker.rights import Rights

__all__ = [
    "UNMAPPED",
    "Inexpressible",
    "Protection",
    "TableKind",
    "Use",
    "inexpressible",
    "permission_of",
    "protect",
]


class TableKind(StrEnum):
    """The kinds of second-level tables, by what they can withhold.

    NPT: writing and executing (AMD APM vol. 2, "Nested Paging"). EPT: reading too, where nothing
    may be written (Intel SDM vol. 3C, "EPT Misconfigurations": writable and not readable is one).
    EPT with mode-based execute control: execution through the supervisor's and the user's linear
    addresses apart (the same, "EPT Translation Mechanism").
    """

    NPT = "npt"
    EPT = "ept"
    EPT_MBEC = "ept-mbec"


class Use(IntFlag):
    """What a second-level table can tell apart: none of them knows who reads or writes."""

    READ = 1
    WRITE = 2
    SUPERVISOR_EXECUTE = 4
    USER_EXECUTE = 8


UNMAPPED = Use.READ | Use.WRITE
"""What a page of RAM that nothing maps is granted."""

_USES = 16
_EXECUTE = Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE


@dataclass(frozen=True, slots=True)
class Protection(Rows):
    """n disjoint stretches of RAM, all of it, in ascending order; neighbours differ in rights.

    `start`, `size` uint64[n] in bytes, whole frames; `rights` uint8[n], the collective `Rights`,
    0 where nothing maps; `wanted` uint8[n], the `Use` that the policy allows; `granted` uint8[n],
    the `Use` that the kind of table grants, never less.
    """

    start: U64
    size: U64
    rights: NDArray[np.uint8]
    wanted: NDArray[np.uint8]
    granted: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[PageEntry]:
        """Yield what is granted as entries of a page list; neighbours differ in permission."""
        permission = self.permissions
        for first, last in _runs(self.start, self.size, permission):
            end = int(self.start[last] + self.size[last])
            yield PageEntry(int(self.start[first]), end, Permission(int(permission[first])))

    @property
    def permissions(self) -> NDArray[np.uint8]:
        """What is granted as a page list has it: the `Permission` of each row, uint8[n].

        A page list has one permission to execute: it is given where any privilege level has it.
        """
        permissions: NDArray[np.uint8] = _PERMISSIONS[self.granted]
        return permissions

    def uses(self) -> Iterator[tuple[int, int, Use]]:
        """Yield (start, size, what is granted); neighbours differ in that."""
        for first, last in _runs(self.start, self.size, self.granted):
            start = int(self.start[first])
            size = int(self.start[last] + self.size[last]) - start
            yield start, size, Use(int(self.granted[first]))


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """`size` bytes from `pa` of which one kind of table grants `beyond` what the policy allows."""

    pa: int
    size: int
    wanted: Use
    beyond: Use


def protect(
    frames: Frames, ram: Sequence[tuple[int, int]], kind: TableKind = TableKind.NPT
) -> Protection:
    """Return what to grant each frame of RAM, by collective rights, in tables of a kind.

    `ram` is as `PhysicalMemory.ranges` has it. Frames outside RAM, devices, are not the policy's.
    """
    parts = _folded(overlay(ram, frames))
    rights = parts.rights[:, 0]
    wanted = _WANTED[rights]
    return Protection(parts.start, parts.size, rights, wanted, _GRANTED[kind][wanted])


def inexpressible(protection: Protection) -> list[Inexpressible]:
    """Return the ranges that are granted more than the policy allows, and what that is."""
    beyond = protection.granted & ~protection.wanted
    key = protection.wanted | beyond << np.uint8(4)
    found = []
    for first, last in _runs(protection.start, protection.size, key):
        if beyond[first]:
            pa = int(protection.start[first])
            size = int(protection.start[last] + protection.size[last]) - pa
            wanted, more = Use(int(protection.wanted[first])), Use(int(beyond[first]))
            found.append(Inexpressible(pa, size, wanted, more))
    return found


def _folded(parts: Overlay) -> Overlay:
    runs = list(_runs(parts.start, parts.size, parts.rights[:, 0]))
    first = np.array([run[0] for run in runs], np.intp)
    last = np.array([run[1] for run in runs], np.intp)
    start = parts.start[first]
    return Overlay(start, parts.start[last] + parts.size[last] - start, parts.rights[first])


def _runs(start: U64, size: U64, key: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of rows that have no gap between them and one key."""
    if not len(start):
        return
    begins = np.ones(len(start), np.bool_)
    begins[1:] = (key[1:] != key[:-1]) | (start[1:] != start[:-1] + size[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(start)) - 1
    yield from zip(first.tolist(), last.tolist(), strict=True)


def _use_of(rights: int) -> Use:
    if not rights:
        return UNMAPPED
    read = rights & (Rights.SUPERVISOR_READ | Rights.USER_READ)
    write = rights & (Rights.SUPERVISOR_WRITE | Rights.USER_WRITE)
    return (
        (Use.READ if read else Use(0))
        | (Use.WRITE if write else Use(0))
        | (Use.SUPERVISOR_EXECUTE if rights & Rights.SUPERVISOR_EXECUTE else Use(0))
        | (Use.USER_EXECUTE if rights & Rights.USER_EXECUTE else Use(0))
    )


def _rounded(kind: TableKind, use: int) -> int:
    """Return the least that a kind of table can grant and that has all of `use`."""
    if use & _EXECUTE and kind is not TableKind.EPT_MBEC:
        use |= _EXECUTE
    if use & Use.WRITE or (use and kind is TableKind.NPT):
        use |= Use.READ
    return use


def permission_of(use: int) -> Permission:
    """Return what is granted as a page list can say it: executing where anybody may."""
    return Permission(use & (Use.READ | Use.WRITE) | (Permission.EXECUTE if use & _EXECUTE else 0))


_WANTED = np.array([_use_of(rights) for rights in range(64)], np.uint8)
_GRANTED = {
    kind: np.array([_rounded(kind, use) for use in range(_USES)], np.uint8) for kind in TableKind
}
_PERMISSIONS = np.array([permission_of(use) for use in range(_USES)], np.uint8)
