"""Exceptions that the built-in guest takes on purpose, and what its handlers should record.

Source: Intel SDM vol. 3A, "Page-Fault Exceptions" (error codes); "Exception and Interrupt Handling
in 64-bit Mode" (stacks, frames).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from crosswalk.guest import places
from crosswalk.guest.errors import GuestError
from crosswalk.guest.layout import PAGE, span_of
from crosswalk.guest.status import ACCOUNT_SLOTS, Taken
from crosswalk.walker.architecture import Vector

__all__ = ["Attempt", "OnPurpose", "attempts", "check_taken", "pack_attempts"]

LEAVE = 0x20  # The vector of the INT by which user code returns.
COUNT = struct.Struct("<Q")
# va, access, CPL
RECORD = struct.Struct("<3Q")
CODE, USER_CODE, DATA, USER_DATA = 0x10, 0x2B, 0x18, 0x23

P, W, U, RSVD, ID, PK = 1, 2, 4, 8, 16, 32


class OnPurpose(IntEnum):
    """The kind of an access, by its number in the guest's assembly."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """An access that is intended to fault, and the exception that it should raise."""

    name: str
    access: OnPurpose
    va: int
    cpl: int
    vector: int
    error_code: int


def attempts(levels: int) -> tuple[Attempt, ...]:
    """Return the accesses that the guest with this many paging levels makes, in this order."""
    kernel, user, top = places.KERNEL, places.USER, places.user_top(levels)
    read, write, execute = OnPurpose
    return tuple(
        Attempt(name, access, va, cpl, vector, error_code)
        for cpl, vector, name, access, va, error_code in (
            (0, Vector.PF, "guard below stack", read, kernel + places.STACK - 8, 0),
            (0, Vector.PF, "null page", write, 0x10, W),
            (0, Vector.PF, "rodata", write, kernel + places.RODATA + 0x18, P | W),
            (0, Vector.PF, "data", execute, kernel + places.DATA + 0x20, P | ID),
            (0, Vector.PF, "user data", read, places.USER_DATA + 0x28, P),
            (0, Vector.PF, "user text", execute, user + PAGE + 0x30, P | ID),
            (0, Vector.PF, "bit 51 in a 4-KiB leaf", read, _junk(16) + 0x38, P | RSVD),
            (0, Vector.GP, "not canonical", read, top + 0x40, 0),
            (3, Vector.PF, "guard after user text", read, user + 2 * PAGE + 0x48, U),
            (3, Vector.PF, "rodata", read, kernel + places.RODATA + 0x50, P | U),
            (3, Vector.PF, "user rodata", write, places.USER_RODATA + 0x58, P | W | U),
            (3, Vector.PF, "user data", execute, places.USER_DATA + 0x60, P | U | ID),
            (3, Vector.PF, "user key 1", read, places.KEYED + 0x68, P | U | PK),
            (3, Vector.GP, "not canonical", write, top + 0x70, 0),
        )
    )


def _junk(place: int) -> int:
    return places.JUNK[1] + place * span_of(1)


def pack_attempts(tried: Sequence[Attempt]) -> bytes:
    """Return the accesses as the guest's assembly reads them: their number, then 24-byte records.

    Raises `GuestError` if the status block has no room for all of their exceptions.
    """
    if len(tuple(_due(tried))) > ACCOUNT_SLOTS:
        raise GuestError(f"{len(tried)} attempts are more than the status block can hold")
    records = (RECORD.pack(each.va, each.access, each.cpl) for each in tried)
    return COUNT.pack(len(tried)) + b"".join(records)


def check_taken(tried: Sequence[Attempt], taken: Sequence[Taken]) -> None:
    """Compare what the guest's handlers recorded with what was attempted.

    Raises `GuestError`, which names the first exception that isn't as intended.
    """
    due = tuple(_due(tried))
    for number, (each, got) in enumerate(zip(due, taken, strict=False)):
        for what, expected, found in _differences(each, got):
            if expected != found:
                raise GuestError(
                    f"exception {number} ({each.access.name.lower()} of {each.name} at CPL "
                    f"{each.cpl}): the guest's handler saw {what} {found:#x}, not {expected:#x}"
                )
    if len(due) != len(taken):
        raise GuestError(f"the guest's handlers saw {len(taken)} exceptions, not {len(due)}")


def _due(tried: Iterable[Attempt]) -> Iterator[Attempt]:
    """Yield the exception of each attempt, and after those from user code that of the INT."""
    for each in tried:
        yield each
        if each.cpl:
            yield Attempt(f"INT {LEAVE:#x} after {each.name}", OnPurpose.EXECUTE, 0, 3, LEAVE, 0)


def _differences(due: Attempt, got: Taken) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each recorded value, the expected value, and the recorded one."""
    yield "vector", due.vector, got.vector
    yield "error code", due.error_code, got.error_code
    yield "CR2", due.va if due.vector == Vector.PF else 0, got.cr2
    yield "CS", USER_CODE if due.cpl else CODE, got.cs
    yield "SS", USER_DATA if due.cpl else DATA, got.ss
    if due.vector == Vector.GP:
        top = places.KERNEL + places.IST1_TOP
    else:
        top = places.KERNEL + places.RSP0_TOP if due.cpl else got.rsp & ~0xF
    yield "a stack that begins at", top, got.top
    if due.access is OnPurpose.EXECUTE and due.vector == Vector.PF:
        yield "RIP", due.va, got.rip
    else:
        code = places.USER if due.cpl else places.KERNEL + places.TRAPS
        yield "RIP in the page at", code, got.rip & -PAGE
