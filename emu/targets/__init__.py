"""Walkers under test: anybody's, asked the same questions."""

from crosswalk.emu.targets.capabilities import Capability, Peer

__all__ = ["Capability", "Peer"]
