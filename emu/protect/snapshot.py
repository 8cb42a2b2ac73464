"""A protected guest that can be put back to where it was, between one attack and the next."""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.load.guest import Booted, boot
from crosswalk.emu.protect.agent import Agent
from crosswalk.emu.protect.forging import forge
from crosswalk.emu.protect.grants import Rules, permissions_of
from crosswalk.emu.protect.guest import Guest
from crosswalk.emu.protect.hypervisor import Answer, Hypercall, Hypervisor
from crosswalk.emu.protect.requests import ask, page_entries
from crosswalk.guest.builder import build_image
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.memory import U64
from crosswalk.walker.tracker import RightsTracker

__all__ = ["World", "protected_world"]


@dataclass(frozen=True, slots=True)
class _Kept:
    ram: U64
    cpu: bytes
    rules: Rules


class World:
    """The guest, its host and its agent. The guest has asked for protection, and has forged tables.

    `entries` are those of its page list, `collective` is what its mappings needed then; `more`
    frames it asked for with less, and was granted what they need.

    Raises `CrosswalkError` where its request is refused.
    """

    def __init__(self, booted: Booted) -> None:
        self.booted = booted
        self.guest = Guest(booted)
        self.hypervisor = Hypervisor(self.guest)
        self.agent = Agent(self.guest)
        self.entries = page_entries(booted.image, booted.status)
        forge(self.agent)
        result = ask(self.agent, self.entries)
        reply = self.hypervisor.replies[-1] if self.hypervisor.replies else None
        if result.failed or reply is None or reply.answer is not Answer.DONE:
            raise CrosswalkError(f"the guest isn't protected: {result}, {reply}")
        self.more = reply.more
        self.collective = permissions_of(collective_rights(booted.memory, self.guest.context))
        self._kept = self._keep()

    def restore(self) -> None:
        """Put guest and host back to where they were when protection was granted."""
        guest, hypervisor = self.guest, self.hypervisor
        np.copyto(guest.ram.words, self._kept.ram)
        guest.cpu.revert(self._kept.cpu)
        if any(reply.call == Hypercall.UPDATE for reply in hypervisor.replies):
            hypervisor.tracker = RightsTracker(self.booted.memory, guest.context)
        hypervisor.replies.clear()
        hypervisor.collective = self.collective.copy()
        hypervisor.rules = deepcopy(self._kept.rules)
        hypervisor.write()
        guest.engine.ctl_flush_tb()

    def changed(self, pa: int, size: int) -> bool:
        """Return whether this memory isn't any more what it was when protection was granted."""
        part = slice(pa // 8, (pa + size) // 8)
        return bool((self.guest.ram.words[part] != self._kept.ram[part]).any())

    def _keep(self) -> _Kept:
        self.guest.cpu.load()
        return _Kept(
            self.guest.ram.words.copy(),
            self.guest.cpu.snapshot(),
            deepcopy(self.hypervisor.rules),
        )


def protected_world() -> World:
    """Boot the built-in guest with 4 levels, and have it ask for protection."""
    return World(boot(build_image(4)))
