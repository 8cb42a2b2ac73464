"""Proofs by accesses: nothing that the guest's mappings allow is refused, and nothing beyond."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.protect.agent import Agent, Operation, Use, spans
from crosswalk.emu.protect.events import Fault, Met, described
from crosswalk.emu.protect.forging import forged
from crosswalk.emu.protect.grants import TABLE_POOL, Permissions
from crosswalk.emu.protect.guest import FRAMES
from crosswalk.guest import places
from crosswalk.guest.views import Intended
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Proof", "probe_beyond", "probe_mappings"]

# Where in a page the signature is, and what is in it: MOV RAX, imm64 with the frame's address.
_AT, _SIGNED, _WRITTEN = 0x7E0, 2, 16
_MOV, _RET, _INT = b"\x48\xb8", b"\xc3", b"\xcd\x20"
_KEPT = 24
_P, _W, _U, _ID = 1, 2, 4, 16
_NEEDS = {
    Use.READ: Permission.READ,
    Use.WRITE: Permission.WRITE,
    Use.REWRITE: Permission.WRITE,
    Use.EXECUTE: Permission.EXECUTE,
}
_CAUSES = {Use.READ: _U, Use.WRITE: _W | _U, Use.REWRITE: _W | _U, Use.EXECUTE: _U | _ID}
_LETTERS = {"r": Use.READ, "w": Use.REWRITE, "x": Use.EXECUTE}
_USER = {
    Use.READ: Operation.LOAD_USER,
    Use.REWRITE: Operation.STORE_USER,
    Use.EXECUTE: Operation.EXECUTE_USER,
}
_SHOWN = 20


@dataclass(slots=True)
class Proof:
    """What accesses found.

    `probes` by what they did and how they ended, and every one that ended otherwise than it
    should have, the first ones in words. `unbacked` pages lie outside RAM and aren't tried.
    """

    probes: Counter[tuple[str, str]] = field(default_factory=Counter)
    divergent: int = 0
    divergences: list[str] = field(default_factory=list)
    unbacked: int = 0

    @property
    def count(self) -> int:
        """How many accesses were tried."""
        return sum(self.probes.values())

    def add(self, use: Use, met: Met | None, wrong: str | None) -> None:
        """Enter one access, what it met, and what is wrong with that."""
        ended = {Exit: "nested fault", Fault: "fault"}.get(type(met), "allowed")
        name = "write" if use is Use.REWRITE else use.name.lower()
        self.probes[name, ended] += 1
        if wrong is not None:
            self.divergent += 1
            if len(self.divergences) < _SHOWN:
                self.divergences.append(f"{name}: {wrong}")


def probe_mappings(agent: Agent, intended: Iterable[Intended]) -> Proof:
    """Make every access that these mappings are meant to allow, in every page of theirs in RAM.

    At the privilege level that they are meant for. What is read has to be the frame's signature,
    or what a table holds that has none; a fetch has to reach the signature. RAM stays as it is.
    """
    proof = Proof()
    mappings = [(each, _pages(each)) for each in intended]
    proof.unbacked = sum(each.size // FRAME * each.count - pages for each, pages in mappings)
    signed = np.ones(FRAMES, np.bool_)
    signed[TABLE_POOL] = False
    with _signed(agent, signed, _RET):
        for each, pages in mappings:
            for letter, use in _LETTERS.items():
                if letter in each.supervisor:
                    _sweep(agent, each, pages, use, proof)
    with _signed(agent, signed, _INT):
        for each, pages in mappings:
            for letter, use in _LETTERS.items():
                if letter in each.user:
                    _as_user(agent, each, pages, use, proof)
    return proof


def probe_beyond(
    agent: Agent, granted: Permissions, *, start: int = 0, frames: int = FRAMES
) -> Proof:
    """Read, write and execute frames from `start` on through forged tables that allow it all.

    Each has to succeed exactly where `granted` has the right, and to end in a nested page fault
    that tells the address and the cause elsewhere.
    """
    proof = Proof()
    everywhere = np.ones(FRAMES, np.bool_)
    with _signed(agent, everywhere, _RET), forged(agent):
        for use in (Use.READ, Use.WRITE, Use.EXECUTE):
            for va, pages in spans(start + _AT, frames):
                found, met = agent.sweep(va, pages, use)
                for at in range(pages):
                    pa = va - _AT + at * FRAME
                    ended = met.get(at)
                    if granted[pa // FRAME] & _NEEDS[use]:
                        wrong = _not_allowed(agent, use, pa, int(found[at]), ended)
                    else:
                        wrong = _not_refused(agent, use, pa, ended)
                    proof.add(use, ended, wrong)
    return proof


def _not_allowed(agent: Agent, use: Use, pa: int, found: int, met: Met | None) -> str | None:
    """Return what is wrong with an access through forged tables that has to succeed."""
    if met is not None:
        return f"{pa:#x}: {described(met)}"
    if found != (1 if use is Use.WRITE else pa):
        return f"{pa:#x}: found {found:#x}"
    if use is Use.WRITE and _word(agent, pa + _AT + _WRITTEN) != pa + _AT:
        return f"{pa:#x}: nothing was written"
    return None


def _not_refused(agent: Agent, use: Use, pa: int, met: Met | None) -> str | None:
    """Return what is wrong with an access through forged tables that has to be refused."""
    if met is None:
        return f"{pa:#x}: not refused"
    if met != Exit(ExitCode.NPF, _P | _CAUSES[use], pa + _AT + _offset(use)):
        return f"{pa:#x}: {described(met)}"
    if use is Use.WRITE and _word(agent, pa + _AT + _WRITTEN) != 0:
        return f"{pa:#x}: refused, and written all the same"
    return None


def _pages(each: Intended) -> int:
    """Return how many 4-KiB pages of a mapping lie in RAM."""
    return max(0, min(each.size // FRAME * each.count, (places.RAM_SIZE - each.pa) // FRAME))


def _offset(use: Use) -> int:
    return {Use.READ: _SIGNED, Use.WRITE: _WRITTEN, Use.EXECUTE: 0}[use]


def _sweep(agent: Agent, each: Intended, pages: int, use: Use, proof: Proof) -> None:
    for va, some in spans(each.va + _AT, pages):
        found, met = agent.sweep(va, some, use)
        for at in range(some):
            pa = each.pa + va - _AT - each.va + at * FRAME
            value = int(found[at])
            due = {
                Use.READ: _word(agent, pa + _AT + _SIGNED),
                Use.REWRITE: 1,
                Use.EXECUTE: pa,
            }[use]
            ended = met.get(at)
            right = ended is None and value == due
            proof.add(use, ended, None if right else _told(each, va + at * FRAME, ended))


def _as_user(agent: Agent, each: Intended, pages: int, use: Use, proof: Proof) -> None:
    ram = agent.guest.ram
    for at in range(pages):
        offset = at * FRAME + _AT + (0 if use is Use.EXECUTE else _SIGNED)
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
            ram.write(pa, before.to_bytes(8, "little"))
        right = right and not result.failed
        proof.add(use, result.met, None if right else _told(each, va, result.met))


def _told(each: Intended, va: int, met: Met | None) -> str:
    """Return what came of an access that a mapping allows, and that went wrong."""
    return f"{each.name} at {va:#x}: {described(met) if met else 'not what RAM has there'}"


def _word(agent: Agent, pa: int) -> int:
    return int.from_bytes(agent.guest.ram.read(pa, 8), "little")


@contextmanager
def _signed(agent: Agent, frames: NDArray[np.bool_], end: bytes) -> Iterator[None]:
    """Have these frames carry their signatures meanwhile."""
    ram = agent.guest.ram
    chosen = np.flatnonzero(frames)
    pages = ram.bytes.reshape(FRAMES, FRAME)
    place = slice(_AT, _AT + _KEPT)
    kept = pages[chosen, place].copy()
    new = np.zeros_like(kept)
    new[:, :2] = np.frombuffer(_MOV, np.uint8)
    new[:, 2:10] = (chosen * FRAME).astype("<u8").view(np.uint8).reshape(-1, 8)
    new[:, 10 : 10 + len(end)] = np.frombuffer(end, np.uint8)
    pages[chosen, place] = new
    agent.guest.engine.ctl_flush_tb()
    try:
        yield
    finally:
        pages[chosen, place] = kept
        agent.guest.engine.ctl_flush_tb()
