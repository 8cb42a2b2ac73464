"""Walkers under test: anybody's, asked the same questions."""

from crosswalk.emu.targets.capabilities import Claim, Limits, Peer, PeerFailure

__all__ = ["Claim", "Limits", "Peer", "PeerFailure"]
