"""Accesses that show: all that the guest's mappings allow works, and nothing beyond it."""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from crosswalk.emu.protect.agent import Agent, Operation, Use, on_forged_tables, spans
from crosswalk.emu.protect.events import Fault, GuestEvent, describe_event, withheld_right
from crosswalk.emu.protect.hypervisor import TABLE_POOL
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import Bools, Permissions
from crosswalk.guest import places
from crosswalk.guest.intended import Intended
from crosswalk.walker.access import AccessType
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Probed", "probe_forged", "probe_mappings"]

# The offset of the marker in a page, MOV RAX, imm64; and in it, of the immediate, which is the
# frame's address, and of the word that is written.
_AT, _ADDRESS, _WRITTEN = 0x7E0, 2, 16
_MOV, _RET, _INT = b"\x48\xb8", b"\xc3", b"\xcd\x20"
_MARKER_SIZE = 24
_NEEDS = {
    Use.READ: Permission.READ,
    Use.WRITE: Permission.WRITE,
    Use.REWRITE: Permission.WRITE,
    Use.EXECUTE: Permission.EXECUTE,
}
_ACCESSES = {
    Use.READ: AccessType.READ,
    Use.WRITE: AccessType.WRITE,
    Use.REWRITE: AccessType.WRITE,
    Use.EXECUTE: AccessType.EXECUTE,
}
_LETTERS = {"r": Use.READ, "w": Use.REWRITE, "x": Use.EXECUTE}
_USER = {
    Use.READ: Operation.LOAD_USER,
    Use.REWRITE: Operation.STORE_USER,
    Use.EXECUTE: Operation.EXECUTE_USER,
}
_SHOWN = 20


@dataclass(slots=True)
class Probed:
    """The results of accesses.

    `probes` counts them by access and ending, `divergent` those that ended otherwise than expected;
    `divergences` has the first of these in words. `unbacked` pages outside RAM aren't tried.
    """

    probes: Counter[tuple[str, str]] = field(default_factory=Counter)
    divergent: int = 0
    divergences: list[str] = field(default_factory=list)
    unbacked: int = 0

    @property
    def count(self) -> int:
        """How many accesses were tried."""
        return sum(self.probes.values())

    def add(self, use: Use, event: GuestEvent | None, wrong: str | None) -> None:
        """Enter one access, the event that ended it, and what is wrong with that."""
        ended = "allowed" if event is None else "nested fault"
        if isinstance(event, Fault):
            ended = "fault"
        name = "write" if use is Use.REWRITE else use.name.lower()
        self.probes[name, ended] += 1
        if wrong is not None:
            self.divergent += 1
            if len(self.divergences) < _SHOWN:
                self.divergences.append(f"{name}: {wrong}")


def probe_mappings(agent: Agent, intended: Iterable[Intended]) -> Probed:
    """Make every access that these mappings are intended to allow, to each of their pages in RAM.

    It is made at the intended privilege level. A read has to give the frame's marker, or of a frame
    of tables, which has none, its content; a fetch has to run the marker. RAM stays as it is.
    """
    probed = Probed()
    mappings = [(each, _pages(each)) for each in intended]
    probed.unbacked = sum(each.size // FRAME * each.count - pages for each, pages in mappings)
    marked = np.ones(FRAMES, np.bool_)
    marked[TABLE_POOL] = False
    for privilege, end, probe in (("supervisor", _RET, _sweep), ("user", _INT, _as_user)):
        with _marked(agent, marked, end):
            for each, pages in mappings:
                for letter, use in _LETTERS.items():
                    if letter in getattr(each, privilege):
                        probe(agent, each, pages, use, probed)
    return probed


def probe_forged(
    agent: Agent, granted: Permissions, *, start: int = 0, frames: int = FRAMES
) -> Probed:
    """Read, write and execute frames from `start` on through forged tables that allow everything.

    An access has to succeed where `granted` has its permission, and to end elsewhere in a nested
    page fault with the right address and cause.
    """
    probed = Probed()
    everywhere = np.ones(FRAMES, np.bool_)
    with _marked(agent, everywhere, _RET), on_forged_tables(agent):
        for use in (Use.READ, Use.WRITE, Use.EXECUTE):
            for va, pages in spans(start + _AT, frames):
                found, events = agent.sweep(va, pages, use)
                for at in range(pages):
                    pa = va - _AT + at * FRAME
                    event = events.get(at)
                    if granted[pa // FRAME] & _NEEDS[use]:
                        wrong = _not_allowed(agent, use, pa, int(found[at]), event)
                    else:
                        wrong = _not_refused(agent, use, pa, event)
                    probed.add(use, event, wrong)
    return probed


def _not_allowed(
    agent: Agent, use: Use, pa: int, found: int, event: GuestEvent | None
) -> str | None:
    """Return what is wrong with an access through forged tables that has to succeed."""
    if event is not None:
        return f"{pa:#x}: {describe_event(event)}"
    if found != (1 if use is Use.WRITE else pa):
        return f"{pa:#x}: found {found:#x}"
    if use is Use.WRITE and _word(agent, pa + _AT + _WRITTEN) != pa + _AT:
        return f"{pa:#x}: nothing was written"
    return None


def _not_refused(agent: Agent, use: Use, pa: int, event: GuestEvent | None) -> str | None:
    """Return what is wrong with an access through forged tables that has to be refused."""
    if event is None:
        return f"{pa:#x}: not refused"
    if withheld_right(event) != (pa + _AT + _offset(use), _ACCESSES[use]):
        return f"{pa:#x}: {describe_event(event)}"
    if use is Use.WRITE and _word(agent, pa + _AT + _WRITTEN) != 0:
        return f"{pa:#x}: refused, and written all the same"
    return None


def _pages(each: Intended) -> int:
    """Return how many 4-KiB pages of a mapping lie in RAM."""
    return max(0, min(each.size // FRAME * each.count, (places.RAM_SIZE - each.pa) // FRAME))


def _offset(use: Use) -> int:
    return {Use.READ: _ADDRESS, Use.WRITE: _WRITTEN, Use.EXECUTE: 0}[use]


def _sweep(agent: Agent, each: Intended, pages: int, use: Use, probed: Probed) -> None:
    for va, some in spans(each.va + _AT, pages):
        found, events = agent.sweep(va, some, use)
        for at in range(some):
            pa = each.pa + va - _AT - each.va + at * FRAME
            value = int(found[at])
            expected = {
                Use.READ: _word(agent, pa + _AT + _ADDRESS),
                Use.REWRITE: 1,
                Use.EXECUTE: pa,
            }[use]
            event = events.get(at)
            right = event is None and value == expected
            probed.add(use, event, None if right else _failure(each, va + at * FRAME, event))


def _as_user(agent: Agent, each: Intended, pages: int, use: Use, probed: Probed) -> None:
    for at in range(pages):
        offset = at * FRAME + _AT + (0 if use is Use.EXECUTE else _ADDRESS)
        va, pa = each.va + offset, each.pa + offset
        before = _word(agent, pa)
        result = agent.do(_USER[use], va, 0, ~before & 0xFF)
        value = result.value or 0
        if use is Use.EXECUTE:
            right = value == pa - _AT
        elif use is Use.READ:
            right = value & 0xFF == before & 0xFF
        else:
            right = _word(agent, pa) == before ^ 0xFF
            agent.guest.write(pa, before.to_bytes(8, "little"))
        right = right and not result.failed
        probed.add(use, result.event, None if right else _failure(each, va, result.event))


def _failure(each: Intended, va: int, event: GuestEvent | None) -> str:
    """Describe the failure of an access that a mapping allows."""
    return f"{each.name} at {va:#x}: {describe_event(event) if event else 'not what RAM has there'}"


def _word(agent: Agent, pa: int) -> int:
    return int.from_bytes(agent.guest.read(pa, 8), "little")


def _marked(agent: Agent, frames: Bools, end: bytes) -> AbstractContextManager[None]:
    """Have these frames carry their markers meanwhile."""
    chosen = np.flatnonzero(frames)
    new = np.zeros((len(chosen), _MARKER_SIZE), np.uint8)
    new[:, :2] = np.frombuffer(_MOV, np.uint8)
    new[:, 2:10] = (chosen * FRAME).astype("<u8").view(np.uint8).reshape(-1, 8)
    new[:, 10 : 10 + len(end)] = np.frombuffer(end, np.uint8)
    return agent.guest.patched(_AT, chosen, new)
