"""The policy: from collective rights to the permissions that a kind of second-level table grants.

The policy is that of the Heki series: a page is granted the union of what all of its mappings
allow, for any privilege level; a page of RAM that nothing maps is granted reading and writing
(`heki_default_permissions` in Linux Heki RFC v2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import U64
from crosswalk.walker.protection.overlay import Overlay, overlay
from crosswalk.walker.protection.pagelist import PageEntry, Permission
from crosswalk.walker.rights import WRITES, Rights

__all__ = [
    "UNMAPPED",
    "Inexpressible",
    "Protection",
    "TableKind",
    "Use",
    "inexpressible",
    "permission_of",
    "protect",
    "rounded",
]


class TableKind(StrEnum):
    """The kinds of second-level tables, by the rights that they can withhold.

    NPT: writing and executing (AMD APM vol. 2, "Nested Paging"). EPT: reading too, where nothing
    may be written (Intel SDM vol. 3C, "EPT Misconfigurations": writable and not readable is one).
    EPT with mode-based execute control: execution through the supervisor's and the user's linear
    addresses apart (the same, "EPT Translation Mechanism").
    """

    NPT = "npt"
    EPT = "ept"
    EPT_MBEC = "ept-mbec"


class Use(IntFlag):
    """The rights that second-level tables tell apart; only execution has privilege levels."""

    READ = 1
    WRITE = 2
    SUPERVISOR_EXECUTE = 4
    USER_EXECUTE = 8


UNMAPPED = Use.READ | Use.WRITE
"""The grant for a page of RAM that nothing maps."""

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
        permissions = self.permissions
        for start, size, row in self.runs_of(permissions):
            yield PageEntry(start, start + size, Permission(int(permissions[row])))

    @property
    def permissions(self) -> NDArray[np.uint8]:
        """What is granted as a page list has it: the `Permission` of each row, uint8[n].

        A page list has one permission to execute: it is given where any privilege level has it.
        """
        permissions: NDArray[np.uint8] = _PERMISSIONS[self.granted]
        return permissions

    def for_tables(self, kind: TableKind) -> Iterator[tuple[int, int, Permission | Use]]:
        """Yield (start, size, what is granted) as `NestedTables.update` takes it.

        A `Use` for tables with mode-based execute control, a `Permission` for others.
        """
        if kind is TableKind.EPT_MBEC:
            yield from self.uses()
        else:
            yield from ((each.pa, each.epa - each.pa, each.permission) for each in self)

    def uses(self) -> Iterator[tuple[int, int, Use]]:
        """Yield (start, size, what is granted); neighbours differ in that."""
        for start, size, row in self.runs_of(self.granted):
            yield start, size, Use(int(self.granted[row]))

    def runs_of(self, key: NDArray[np.generic]) -> Iterator[tuple[int, int, int]]:
        """Yield (start, size, first row) of neighbours that have the same in `key`, by row."""
        yield from _ranges(self.start, self.size, key)


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """`size` bytes from `pa` that a kind of table grants `beyond`, in addition to the policy."""

    pa: int
    size: int
    wanted: Use
    beyond: Use


def protect(
    frames: Frames,
    ram: Sequence[tuple[int, int]],
    kind: TableKind = TableKind.NPT,
    *,
    execute_only: bool = True,
) -> Protection:
    """Return what to grant each frame of RAM, by collective rights, in tables of a kind.

    What a kind of table can't withhold is granted: the least that includes what is wanted, as a
    guest that works has to go on working. `execute_only` says whether EPT may withhold reading
    from what can be executed (IA32_VMX_EPT_VPID_CAP, bit 0).

    `ram` is as in `PhysicalMemory.ranges`. Frames outside RAM, of devices, are left out.
    """
    parts = _folded(overlay(ram, frames))
    rights = parts.rights[:, 0]
    wanted = _WANTED[rights]
    granted = rounded(kind, execute_only=execute_only)[wanted]
    return Protection(parts.start, parts.size, rights, wanted, granted)


def inexpressible(protection: Protection) -> list[Inexpressible]:
    """Return the ranges that are granted more than the policy allows."""
    beyond = protection.granted & ~protection.wanted
    key = protection.wanted | beyond << np.uint8(4)
    return [
        Inexpressible(pa, size, Use(int(protection.wanted[row])), Use(int(beyond[row])))
        for pa, size, row in _ranges(protection.start, protection.size, key)
        if beyond[row]
    ]


def _folded(parts: Overlay) -> Overlay:
    first, last = _runs(parts.start, parts.size, parts.rights[:, 0])
    start = parts.start[first]
    return Overlay(start, parts.start[last] + parts.size[last] - start, parts.rights[first])


def _ranges(start: U64, size: U64, key: NDArray[np.generic]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, size, first row) of each run of rows without gaps and with one key."""
    first, last = _runs(start, size, key)
    sizes = start[last] + size[last] - start[first]
    yield from zip(start[first].tolist(), sizes.tolist(), first.tolist(), strict=True)


def _runs(
    start: U64, size: U64, key: NDArray[np.generic]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and the last row of each run of rows without gaps and with one key."""
    begins = np.ones(len(start), np.bool_)
    begins[1:] = (key[1:] != key[:-1]) | (start[1:] != start[:-1] + size[:-1])
    first = np.flatnonzero(begins)
    return first, np.append(first[1:], len(start))[: len(first)] - 1


def _use_of(rights: int) -> Use:
    if not rights:
        return UNMAPPED
    read = rights & (Rights.SUPERVISOR_READ | Rights.USER_READ)
    return (
        (Use.READ if read else Use(0))
        | (Use.WRITE if rights & WRITES else Use(0))
        | (Use.SUPERVISOR_EXECUTE if rights & Rights.SUPERVISOR_EXECUTE else Use(0))
        | (Use.USER_EXECUTE if rights & Rights.USER_EXECUTE else Use(0))
    )


@cache
def rounded(kind: TableKind, *, execute_only: bool = True) -> NDArray[np.uint8]:
    """Return for each `Use` the least that a kind of table can grant which includes it: uint8[16].

    Source: AMD APM vol. 2, "Nested Table Walk"; Intel SDM vol. 3C, "EPT Misconfigurations".
    """
    return np.array(
        [_rounded(kind, use, execute_only=execute_only) for use in range(_USES)], np.uint8
    )


def _rounded(kind: TableKind, use: int, *, execute_only: bool) -> int:
    if use & _EXECUTE and kind is not TableKind.EPT_MBEC:
        use |= _EXECUTE
    unreadable = _EXECUTE if execute_only and kind is not TableKind.NPT else 0
    if use & ~unreadable:
        use |= Use.READ
    return use


def permission_of(use: int) -> Permission:
    """Return `use` as a page list has it: executing where any privilege level may."""
    return Permission(use & (Use.READ | Use.WRITE) | (Permission.EXECUTE if use & _EXECUTE else 0))


_WANTED = np.array([_use_of(rights) for rights in range(64)], np.uint8)
_PERMISSIONS = np.array([permission_of(use) for use in range(_USES)], np.uint8)
