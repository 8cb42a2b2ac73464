"""Driving the guest's agent: one command, one instruction of the guest's, one result."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from crosswalk.emu.protect.events import Met
from crosswalk.emu.protect.guest import Guest
from crosswalk.guest import places
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, U64

__all__ = ["SWEEP", "Agent", "Operation", "Result", "Use", "spans"]

_COMMAND = struct.Struct("<6Q")
_FOUND = 0x100
SWEEP = (places.MAILBOX_SIZE - _FOUND) // 8
"""The most pages of one sweep."""


class Operation(IntEnum):
    """What the agent can be told to do, in the order of its table of operations."""

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
    VMSAVE = 12
    VMLOAD = 13
    STGI = 14
    CLGI = 15
    SWEEP = 16
    VMRUN = 17
    INVLPGA = 18
    SKINIT = 19
    INTERRUPT = 20


class Use(IntEnum):
    """What a sweep does with each page."""

    READ = 0
    WRITE = 1
    EXECUTE = 2
    REWRITE = 3


_USER = {Operation.LOAD_USER, Operation.STORE_USER, Operation.EXECUTE_USER}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a command: the value that the guest got, or what it met instead."""

    value: int | None = None
    met: Met | None = None

    @property
    def failed(self) -> bool:
        """Whether the operation didn't come to its end."""
        return self.met is not None


class Agent:
    """The agent of a guest. All that it does is done by the guest's own instructions.

    The host writes the command into the mailbox, and reads what the agent left there.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def do(self, operation: Operation, first: int = 0, second: int = 0, third: int = 0) -> Result:
        """Have the agent carry out an operation.

        Raises `CrosswalkError` where the guest neither ends it nor meets anything.
        """
        guest = self.guest
        self._command(operation, first, second, third)
        guest.run(places.KERNEL + places.AGENT)
        if guest.met:
            return Result(met=guest.met[0][0])
        if operation is Operation.INTERRUPT:
            return Result(int(guest.delivered))
        if operation in _USER:
            if not guest.left_user:
                raise CrosswalkError(f"{operation.name} at {first:#x}: user code didn't end")
            guest.cpu.load()
            return Result(guest.cpu.general(0))
        *_, value, done = _COMMAND.unpack(guest.ram.read(places.MAILBOX, _COMMAND.size))
        if not done:
            raise CrosswalkError(f"{operation.name} at {first:#x}: neither done nor refused")
        return Result(value)

    def store(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Store words at addresses; `CrosswalkError` where a store is refused."""
        for va, value in pairs:
            result = self.do(Operation.STORE, va, value)
            if result.failed:
                raise CrosswalkError(f"the guest can't store to {va:#x}: {result.met}")

    def sweep(self, va: int, pages: int, use: Use) -> tuple[U64, dict[int, Met]]:
        """Use `pages` pages from `va` on, at most `SWEEP`.

        Returns what each gave, uint64[pages], 0 for those that failed, and what those met, by
        number.
        """
        guest = self.guest
        self._command(Operation.SWEEP, va, use << 16 | pages)
        guest.ram.write(places.MAILBOX + _FOUND, bytes(8 * pages))
        guest.run(places.KERNEL + places.AGENT, faults=pages)
        *_, done = _COMMAND.unpack(guest.ram.read(places.MAILBOX, _COMMAND.size))
        if not done:
            raise CrosswalkError(f"a sweep of {pages} pages from {va:#x} didn't end")
        found = np.frombuffer(guest.ram.read(places.MAILBOX + _FOUND, 8 * pages), np.uint64)
        base = places.KERNEL + places.MAILBOX + _FOUND
        return found, {(rdi - base) // 8: met for met, rdi in guest.met}

    def _command(self, operation: Operation, *words: int) -> None:
        padded = (*words, *(0,) * (5 - len(words)))
        values = (operation, *padded)
        self.guest.ram.write(places.MAILBOX, _COMMAND.pack(*(v & (1 << 64) - 1 for v in values)))


def spans(start: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield (address, pages) of the parts of a range that one sweep each can do."""
    for first in range(0, pages, SWEEP):
        yield start + first * FRAME, min(SWEEP, pages - first)
