"""Walkers under test: anybody's, asked the same questions."""

from crosswalk.emu.targets.capabilities import Capability, Limits, Peer, PeerFailure

__all__ = ["Capability", "Limits", "Peer", "PeerFailure"]
