"""Accesses that show: all that the guest's mappings allow works, and nothing beyond it."""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from crosswalk.emu.protect.agent import Agent, Operation, Use, on_forged_tables, spans
from crosswalk.emu.protect.events import (
    Fault,
    GuestEvent,
    describe_event,
    same_event,
    withheld_right,
)
from crosswalk.emu.protect.hypervisor import TABLE_POOL
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import Bools, Permissions, executes
from crosswalk.guest import places
from crosswalk.guest.intended import Intended
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind

__all__ = ["Probed", "probe_forged", "probe_mappings"]

# The offset of the marker in a page, MOV RAX, imm64; and in it, of the immediate, which is the
# frame's address, and of the word that is written.
_AT, _ADDRESS, _WRITTEN = 0x7E0, 2, 16
_MOV, _RET, _INT = b"\x48\xb8", b"\xc3", b"\xcd\x20"
_MARKER_SIZE = 24
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
    `known` counts those that ended otherwise as the machine is known to, by its departures' names.
    """

    probes: Counter[tuple[str, str]] = field(default_factory=Counter)
    divergent: int = 0
    divergences: list[str] = field(default_factory=list)
    unbacked: int = 0
    known: Counter[str] = field(default_factory=Counter)

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
    marked = np.zeros(FRAMES, np.bool_)
    for each, pages in mappings:
        marked[each.pa // FRAME :][:pages] = True
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
    marked = np.zeros(FRAMES, np.bool_)
    marked[start // FRAME : start // FRAME + frames] = True
    needs = _needs(agent.guest.tables.kind)
    with _marked(agent, marked, _RET), on_forged_tables(agent):
        for use in (Use.READ, Use.WRITE, Use.EXECUTE):
            for va, pages in spans(start + _AT, frames):
                predicted = _predicted(agent, use, va, pages)
                found, events = agent.sweep(va, pages, use)
                written = agent.guest.words([va + at * FRAME + _WRITTEN for at in range(pages)])
                for at in range(pages):
                    pa = va - _AT + at * FRAME
                    event, word = events.get(at), int(written[at])
                    if granted[pa // FRAME] & needs[use]:
                        wrong = _not_allowed(use, pa, int(found[at]), word, event)
                    else:
                        wrong = _not_refused(use, pa, word, event)
                    probed.add(use, event, wrong or predicted.wrong(at, event, probed))
    return probed


def _needs(kind: TableKind) -> dict[Use, int]:
    """Return the right that each access needs of a frame, by supervisor addresses."""
    return {
        Use.READ: Permission.READ,
        Use.WRITE: Permission.WRITE,
        Use.REWRITE: Permission.WRITE,
        Use.EXECUTE: executes(kind) & int(Permission.EXECUTE),
    }


def _not_allowed(
    use: Use, pa: int, found: int, written: int, event: GuestEvent | None
) -> str | None:
    """Return what is wrong with an access through forged tables that has to succeed."""
    if event is not None:
        return f"{pa:#x}: {describe_event(event)}"
    if found != (1 if use is Use.WRITE else pa):
        return f"{pa:#x}: found {found:#x}"
    if use is Use.WRITE and written != pa + _AT:
        return f"{pa:#x}: nothing was written"
    return None


def _not_refused(use: Use, pa: int, written: int, event: GuestEvent | None) -> str | None:
    """Return what is wrong with an access through forged tables that has to be refused."""
    if event is None:
        return f"{pa:#x}: not refused"
    if withheld_right(event) != (pa + _AT + _offset(use), _ACCESSES[use]):
        return f"{pa:#x}: {describe_event(event)}"
    if use is Use.WRITE and written != 0:
        return f"{pa:#x}: refused, and written all the same"
    return None


def _pages(each: Intended) -> int:
    """Return how many 4-KiB pages of a mapping lie in RAM."""
    return max(0, min(each.size // FRAME * each.count, (places.RAM_SIZE - each.pa) // FRAME))


def _offset(use: Use) -> int:
    return {Use.READ: _ADDRESS, Use.EXECUTE: 0}.get(use, _WRITTEN)


def _sweep(agent: Agent, each: Intended, pages: int, use: Use, probed: Probed) -> None:
    for va, some in spans(each.va + _AT, pages):
        predicted = _predicted(agent, use, va, some)
        first = each.pa + va - each.va
        found, events = agent.sweep(va, some, use)
        content = _unaligned(agent, [first + at * FRAME + _ADDRESS for at in range(some)])
        for at in range(some):
            pa = first - _AT + at * FRAME
            expected = {Use.READ: content[at], Use.REWRITE: 1, Use.EXECUTE: pa}[use]
            event = events.get(at)
            wrong = predicted.wrong(at, event, probed)
            if event is not None or int(found[at]) != expected:
                wrong = _failure(each, va + at * FRAME, event)
            probed.add(use, event, wrong)


def _as_user(agent: Agent, each: Intended, pages: int, use: Use, probed: Probed) -> None:
    offset = _AT + (0 if use is Use.EXECUTE else _ADDRESS)
    vas = [each.va + at * FRAME + offset for at in range(pages)]
    pas = [each.pa + at * FRAME + offset for at in range(pages)]
    predicted = _Predicted(agent, use, vas, 3)
    before = _unaligned(agent, pas)
    results = [
        agent.do(_USER[use], va, 0, ~word & 0xFF) for va, word in zip(vas, before, strict=True)
    ]
    after = _unaligned(agent, pas)
    for at, (va, result) in enumerate(zip(vas, results, strict=True)):
        value = result.value or 0
        if use is Use.EXECUTE:
            right = value == pas[at] - _AT
        elif use is Use.READ:
            right = value & 0xFF == before[at] & 0xFF
        else:
            right = after[at] == before[at] ^ 0xFF
        right = right and not result.failed
        wrong = predicted.wrong(at, result.event, probed)
        probed.add(use, result.event, wrong if right else _failure(each, va, result.event))
    if use is Use.REWRITE:
        for pa, word in zip(pas, before, strict=True):
            agent.guest.write(pa, word.to_bytes(8, "little"))


class _Predicted:
    """What the nested walk predicts of accesses, where that is asked of every one: under EPT."""

    def __init__(self, agent: Agent, use: Use, addresses: Iterable[int], cpl: int) -> None:
        self._guest = guest = agent.guest
        kind = _ACCESSES[use]
        self._events: list[GuestEvent | None] | None = None
        if guest.tables.kind is not TableKind.NPT:
            self._events = [guest.predict(Access(va, kind, cpl)) for va in addresses]

    def wrong(self, at: int, event: GuestEvent | None, probed: Probed) -> str | None:
        """Return what is wrong with the event of an access, by its number."""
        if self._events is None or same_event(self._events[at], event):
            return None
        if known := self._guest.departure(self._events[at], event):
            probed.known[known] += 1
            return None
        observed, predicted = (
            "no event" if each is None else describe_event(each)
            for each in (event, self._events[at])
        )
        return f"{observed}; the nested walk predicts {predicted}"


def _predicted(agent: Agent, use: Use, va: int, pages: int) -> _Predicted:
    """Return what is predicted of a sweep."""
    return _Predicted(agent, use, (va + _offset(use) + at * FRAME for at in range(pages)), 0)


def _failure(each: Intended, va: int, event: GuestEvent | None) -> str:
    """Describe the failure of an access that a mapping allows."""
    return f"{each.name} at {va:#x}: {describe_event(event) if event else 'not what RAM has there'}"


def _unaligned(agent: Agent, addresses: list[int]) -> list[int]:
    """Return the 8 bytes at each of these addresses, as ints."""
    low = agent.guest.words([pa & -8 for pa in addresses]).tolist()
    high = agent.guest.words([(pa & -8) + 8 for pa in addresses]).tolist()
    return [
        (first | second << 64) >> 8 * (pa % 8) & (1 << 64) - 1
        for pa, first, second in zip(addresses, low, high, strict=True)
    ]


def _marked(agent: Agent, frames: Bools, end: bytes) -> AbstractContextManager[None]:
    """Have these frames carry their markers meanwhile."""
    chosen = np.flatnonzero(frames)
    new = np.zeros((len(chosen), _MARKER_SIZE), np.uint8)
    new[:, :2] = np.frombuffer(_MOV, np.uint8)
    new[:, 2:10] = (chosen * FRAME).astype("<u8").view(np.uint8).reshape(-1, 8)
    new[:, 10 : 10 + len(end)] = np.frombuffer(end, np.uint8)
    return agent.guest.patched(_AT, chosen, new)
