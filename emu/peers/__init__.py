"""Walkers under test: anybody's, asked the same questions."""

from emu.peers.claims import Claim, Limits, Peer, PeerFailure

__all__ = ["Claim", "Limits", "Peer", "PeerFailure"]
