"""Coverage targets: what a generated path is asked to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from crosswalk.walker.access import AccessType

__all__ = ["BITS", "CONTROLS", "CoverageTarget", "End"]

BITS: dict[str, tuple[int, ...]] = {
    "p": (0,),
    "rw": (1,),
    "us": (2,),
    "pwt": (3,),
    "pcd": (4,),
    "a": (5,),
    "d": (6,),
    "ps": (7,),
    "g": (8,),
    "soft": (9, 10, 11, 52, 53, 54, 55, 56, 57, 58),
    "pat": (12,),
    "key": (59, 60, 61, 62),
    "xd": (63,),
}
"""The bits of an entry, or groups of bits of which one does for all, by the manuals' names.

`ps` is bit 7 at every level, so it is the PAT bit of a 4-KiB page; `pat` is that of a large one.
"""

CONTROLS = ("wp", "nxe", "smep", "smap", "pke", "pge", "ac", "la57")
"""Bits of control registers and of RFLAGS; `ac` is that of the access."""


class End(IntEnum):
    """How a walk ends."""

    LEAF = 0
    ABSENT = 1
    RESERVED = 2
    OUTSIDE = 3
    """The next table is outside RAM, and reads as not present."""


@dataclass(frozen=True, slots=True)
class CoverageTarget:
    """Conditions on one path through the tables and one access by it; None leaves one open.

    `control` are values of `CONTROLS`; `level` is that of the entry where the walk ends, `end`
    how. `bits` are (level, name of `BITS`, value): any bit of a group set, or all clear.
    `reserved` is the reserved bit that is set in the entry at `level`, where `end` is RESERVED.
    `index` are (level, number of the entry in its table). `cpu` are features that the emulated CPU
    lacks, by their names in a `PagingContext`: few layouts are made for those.
    """

    control: Mapping[str, bool] = field(default_factory=dict)
    cpu: Mapping[str, object] = field(default_factory=dict)
    level: int | None = None
    end: End | None = None
    bits: tuple[tuple[int, str, bool], ...] = ()
    index: tuple[tuple[int, int], ...] = ()
    reserved: int | None = None
    key: int | None = None
    pkru: int | None = None
    """The two bits that PKRU has for the leaf's key: 1 access-disable, 2 write-disable."""
    access: AccessType | None = None
    cpl: int | None = None
