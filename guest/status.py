"""The status block that a guest leaves in memory: registers, tables made, exceptions taken."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from crosswalk.guest.errors import GuestError

__all__ = [
    "ACCOUNT_SLOTS",
    "LOG_OFFSET",
    "State",
    "Status",
    "Table",
    "Taken",
    "describe_state",
    "log_capacity",
    "parse_status",
]

MAGIC = 0x4B4C_5753_534F_5243
VERSION = 2

# magic, version, state, cr0, cr3, cr4, efer, pkru, proof, tables in the log, entries planted,
# exceptions in the account
HEADER = struct.Struct("<12Q")
# vector, error code, rip, cs, rflags, rsp, ss, cr2, top
TAKEN = struct.Struct("<9Q")
# level, va, pa
TABLE = struct.Struct("<3Q")
STATE_OFFSET = 16

ACCOUNT_SLOTS = 24
"""The most exceptions that a status block has room for."""

LOG_OFFSET = HEADER.size + ACCOUNT_SLOTS * TAKEN.size
"""Where the log of tables begins in a status block, in bytes."""


class State(IntEnum):
    """How far the guest got, or what stopped it."""

    NOT_STARTED = 0
    BUILDING_TABLES = 1
    ENABLING_PAGING = 2
    RUNNING = 3
    DONE = 4
    POOL_EMPTY = 0x101
    ENTRY_OCCUPIED = 0x102
    UNEXPECTED_EXCEPTION = 0x103
    ACCOUNT_FULL = 0x104


@dataclass(frozen=True, slots=True)
class Table:
    """A paging structure as the guest logged it: made at `pa`, at `level`, for a walk to `va`."""

    level: int
    va: int
    pa: int


@dataclass(frozen=True, slots=True)
class Taken:
    """An exception or INT as one of the guest's handlers recorded it.

    `error_code` is 0 for those without one, `cr2` for all but page faults. `rip` to `ss` are what
    the processor pushed, `top` is the address where that stack begins.
    """

    vector: int
    error_code: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    cr2: int
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The contents of a status block.

    The registers are as the guest read them. `entries` counts the entries that it wrote, those
    that lead to a table included. The first of `tables` is the root. `taken` are the exceptions in
    the order in which its handlers recorded them.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int
    proof: int
    entries: int
    tables: tuple[Table, ...]
    taken: tuple[Taken, ...]


def describe_state(block: bytes) -> str:
    """Return the state in a status block in words; the rest of the block may be anything."""
    (state,) = struct.unpack_from("<Q", block, STATE_OFFSET)
    known = {member.value: member.name.lower().replace("_", " ") for member in State}
    return known.get(state, f"unknown state {state:#x}")


def log_capacity(size: int) -> int:
    """Return how many tables can be logged in a status block of `size` bytes."""
    return max(0, size - LOG_OFFSET) // TABLE.size


def parse_status(block: bytes) -> Status:
    """Return the contents of the status block of a guest that is done.

    Raises `GuestError` if the magic or the version is wrong, the state isn't `DONE`, or the log
    of tables or that of exceptions can't be right.
    """
    if len(block) < HEADER.size:
        raise GuestError(f"a status block of {len(block)} bytes is too short")
    magic, version, state, cr0, cr3, cr4, efer, pkru, proof, count, entries, exceptions = (
        HEADER.unpack_from(block)
    )
    if state != State.DONE:
        raise GuestError(f"the guest is not done: {describe_state(block)}")
    if magic != MAGIC:
        raise GuestError(f"the status block begins with {magic:#x}, not with {MAGIC:#x}")
    if version != VERSION:
        raise GuestError(f"the status block has version {version}, not {VERSION}")
    if not 0 < count <= log_capacity(len(block)):
        raise GuestError(f"the status block can't hold a log of {count} tables")
    if exceptions > ACCOUNT_SLOTS:
        raise GuestError(f"the status block can't hold a log of {exceptions} exceptions")
    end = HEADER.size + exceptions * TAKEN.size
    taken = tuple(Taken(*words) for words in TAKEN.iter_unpack(block[HEADER.size : end]))
    end = LOG_OFFSET + count * TABLE.size
    tables = tuple(Table(*words) for words in TABLE.iter_unpack(block[LOG_OFFSET:end]))
    if any(table.pa % 4096 for table in tables) or len({table.pa for table in tables}) != count:
        raise GuestError("the log of tables has a frame twice, or an address inside a frame")
    return Status(
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        efer=efer,
        pkru=pkru,
        proof=proof,
        entries=entries,
        tables=tables,
        taken=taken,
    )
