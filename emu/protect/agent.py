"""The guest's agent: it carries out one command by one instruction, and returns one result."""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from crosswalk.emu.protect.events import GuestEvent
from crosswalk.emu.protect.machine import GuestMachine
from crosswalk.guest import places
from crosswalk.guest.layout import Bit, index_of, span_of
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.protection.policy import TableKind

__all__ = [
    "FORGED",
    "FOR_USER",
    "LANDMARK",
    "MARK",
    "MARK_FOR_USER",
    "SWEEP",
    "USER_LEFT",
    "Agent",
    "AgentResult",
    "Operation",
    "Use",
    "forge_tables",
    "on_forged_tables",
    "spans",
]

LANDMARK, MARK = 2, 0x4147_4E54
"""The offset of the function in the agent's page that returns MARK; the value."""
FOR_USER, MARK_FOR_USER = 8, 0x5553_4552
"""The offset of what ends as user code does, with MARK_FOR_USER in RAX; the value."""
USER_LEFT = 15
"""The offset of a handler for the INT by which user code ends: HLT."""

_COMMAND = struct.Struct("<6Q")
_FOUND = 0x100
SWEEP = (places.MAILBOX_SIZE - _FOUND) // 8
"""The most pages of one sweep."""

FORGED = places.POOL + (places.POOL_FRAMES - 3) * FRAME
"""The address of the forged tables: the pool's last three frames, which the guest doesn't use."""

_FORGED_RIGHTS = Bit.P | Bit.RW
_FORGED_PAGE = span_of(2)


class Operation(IntEnum):
    """The agent's operations, in the order of its table."""

    LOAD = 0
    STORE = 1
    EXECUTE = 2
    LOAD_USER = 3
    STORE_USER = 4
    EXECUTE_USER = 5
    SET_CR0 = 6
    SET_CR3 = 7
    SET_CR4 = 8
    SET_MSR = 9
    INVLPG = 10
    HYPERCALL = 11
    """VMMCALL; VMCALL on a CPU of Intel's."""
    VMSAVE = 12
    VMLOAD = 13
    STGI = 14
    CLGI = 15
    SWEEP = 16
    VMRUN = 17
    INVLPGA = 18
    SKINIT = 19
    INTERRUPT = 20
    HYPERCALL_VMX = 21
    VMXON = 22
    VMXOFF = 23
    VMLAUNCH = 24
    VMRESUME = 25
    VMCLEAR = 26
    VMPTRLD = 27
    VMPTRST = 28
    VMREAD = 29
    VMWRITE = 30
    INVEPT = 31
    INVVPID = 32


class Use(IntEnum):
    """The access that a sweep makes to each page."""

    READ = 0
    WRITE = 1
    EXECUTE = 2
    REWRITE = 3


_USER = {Operation.LOAD_USER, Operation.STORE_USER, Operation.EXECUTE_USER}


@dataclass(frozen=True, slots=True)
class AgentResult:
    """The result of a command: the value that the guest got, or the event that ended it."""

    value: int | None = None
    event: GuestEvent | None = None

    @property
    def failed(self) -> bool:
        """Whether an event ended the operation."""
        return self.event is not None


class Agent:
    """The agent of a guest. It acts by the guest's own instructions alone.

    The host writes the command into the mailbox, and reads the result there.
    """

    def __init__(self, guest: GuestMachine) -> None:
        self.guest = guest

    def do(
        self, operation: Operation, first: int = 0, second: int = 0, third: int = 0
    ) -> AgentResult:
        """Have the agent carry out an operation.

        Raises `CrosswalkError` where it neither completes nor ends in an event.
        """
        guest = self.guest
        self._command(operation, first, second, third)
        guest.run(places.KERNEL + places.AGENT)
        if guest.events:
            return AgentResult(event=guest.events[0][0])
        if guest.delivered:
            return AgentResult(1)
        if operation in _USER:
            if not guest.left_user:
                raise CrosswalkError(f"{operation.name} at {first:#x}: user code didn't end")
            return AgentResult(guest.user_result)
        *_, value, done = _COMMAND.unpack(guest.read(places.MAILBOX, _COMMAND.size))
        if not done:
            raise CrosswalkError(f"{operation.name} at {first:#x}: neither done nor refused")
        return AgentResult(value)

    def store(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Store words at addresses; `CrosswalkError` where a store is refused."""
        for va, value in pairs:
            result = self.do(Operation.STORE, va, value)
            if result.failed:
                raise CrosswalkError(f"the guest can't store to {va:#x}: {result.event}")

    def sweep(self, va: int, pages: int, use: Use) -> tuple[U64, dict[int, GuestEvent]]:
        """Access `pages` pages from `va` on, at most `SWEEP`.

        Returns the value that each gave, uint64[pages], 0 for those that failed, and the events of
        these, by page number.
        """
        guest = self.guest
        self._command(Operation.SWEEP, va, use << 16 | pages)
        guest.write(places.MAILBOX + _FOUND, bytes(8 * pages))
        guest.run(places.KERNEL + places.AGENT, faults=pages)
        *_, done = _COMMAND.unpack(guest.read(places.MAILBOX, _COMMAND.size))
        if not done:
            raise CrosswalkError(f"a sweep of {pages} pages from {va:#x} didn't end")
        found = np.frombuffer(guest.read(places.MAILBOX + _FOUND, 8 * pages), np.uint64)
        base = places.KERNEL + places.MAILBOX + _FOUND
        return found, {(rdi - base) // 8: event for event, rdi in guest.events}

    def _command(self, operation: Operation, *words: int) -> None:
        padded = (*words, *(0,) * (5 - len(words)))
        if operation is Operation.HYPERCALL and self.guest.tables.kind is not TableKind.NPT:
            operation = Operation.HYPERCALL_VMX
        values = (operation, *padded)
        self.guest.write(places.MAILBOX, _COMMAND.pack(*(v & (1 << 64) - 1 for v in values)))


def spans(start: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield (address, pages) of the parts of a range that one sweep each can do."""
    for first in range(0, pages, SWEEP):
        yield start + first * FRAME, min(SWEEP, pages - first)


def forge_tables(agent: Agent) -> None:
    """Have the guest write tables that map RAM at 0 and at the kernel's base, rwx.

    It writes them through the direct map, which its tables have writable there.
    """
    direct = places.DIRECT_MAP[4]
    root, pointers, directory = (FORGED + at * FRAME for at in range(3))
    stores = [
        (root, pointers | _FORGED_RIGHTS),
        (root + 8 * index_of(places.KERNEL, 4), pointers | _FORGED_RIGHTS),
        (pointers, directory | _FORGED_RIGHTS),
        (pointers + 8 * index_of(places.KERNEL, 3), directory | _FORGED_RIGHTS),
    ]
    stores += [
        (directory + 8 * at, at * _FORGED_PAGE | _FORGED_RIGHTS | Bit.PS)
        for at in range(places.RAM_SIZE // _FORGED_PAGE)
    ]
    agent.store((direct + pa, word) for pa, word in stores)


@contextmanager
def on_forged_tables(agent: Agent) -> Iterator[None]:
    """Have the guest run on forged tables meanwhile; CR3 isn't pinned."""
    before = agent.guest.context.cr3
    for root, check in ((FORGED, True), (before, False)):
        if agent.do(Operation.SET_CR3, root).failed:
            raise CrosswalkError(f"the guest can't load CR3 with {root:#x}")
        if check:
            yield
