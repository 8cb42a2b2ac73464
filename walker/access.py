"""Accesses: the input of a translation."""

from dataclasses import dataclass
from enum import IntEnum

from crosswalk.walker.errors import BadInput

__all__ = ["Access", "AccessType"]


class AccessType(IntEnum):
    """The three kinds of access that paging distinguishes; the values index columns."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


@dataclass(frozen=True, slots=True)
class Access:
    """An access of one byte at `va` by code running at `cpl` (0 or 3).

    `ac` is RFLAGS.AC; None means the context's. `BadInput` for a va over 64 bits, or a CPL other
    than 0 and 3: paging knows supervisor and user mode alone.
    """

    va: int
    type: AccessType
    cpl: int = 0
    ac: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.va < 1 << 64:
            raise BadInput(f"va = {self.va:#x} does not fit in 64 bits")
        if self.cpl not in (0, 3):
            raise BadInput(f"cpl = {self.cpl} is neither 0 nor 3")
