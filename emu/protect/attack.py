"""An attack: a row of the table, and the words that rows are made of."""

from dataclasses import dataclass

from crosswalk.emu.protect.actions import Move, Step
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.results import Stop
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE

__all__ = [
    "ABSENT_WRITE",
    "CR0",
    "CR4",
    "DATA",
    "EFER",
    "FETCH",
    "HOLE",
    "JUNK",
    "LANDMARK",
    "MARK",
    "NXE",
    "PG",
    "SMAP",
    "SMEP",
    "TEXT",
    "WP",
    "WRITE",
    "Attack",
    "do",
]

TEXT = places.TEXT + 3 * PAGE
"""A frame of the kernel's text that nothing is in."""
DATA = 0x2_0000
"""A frame that the direct map alone has writable."""
HOLE = places.KERNEL + places.TEXT + 4 * PAGE
"""A page of the kernel's that nothing is mapped to."""

LANDMARK, MARK = 2, 0x4147_4E54
"""Where the agent's page has a function that returns the mark."""
WRITE, ABSENT_WRITE, FETCH = 0x7, 0x6, 0x15
"""Error codes of nested page faults: P, W and U; W and U; P, U and I/D."""
CR0, CR4, EFER = 0x8001_0033, 0x30_00A0, 0xD00
"""What the guest has in its control registers."""
WP, PG, SMEP, SMAP, NXE = 1 << 16, 1 << 31, 1 << 20, 1 << 21, 1 << 11
JUNK = 0x6B6E_756A


@dataclass(frozen=True, slots=True)
class Attack:
    """One row: the steps of which the last one decides, what is to become of it, and why.

    Every step before the last one has to succeed. `unpinned`: under a host that pins no control
    register. `kept`: what each frame is granted isn't changed by it. `told`: words of the host's
    reason to refuse.
    """

    name: str
    steps: tuple[Move, ...]
    stop: Stop
    why: str = ""
    unpinned: bool = False
    kept: bool = True
    told: str = ""


def do(operation: Operation, first: int = 0, second: int = 0) -> tuple[Move, ...]:
    """Return one operation."""
    return (Step(operation, first, second),)
