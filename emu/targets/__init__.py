"""Adapters for walkers under test: each kind of walker answers the same questions."""

from crosswalk.emu.targets.capabilities import Capability, Target

__all__ = ["Capability", "Target"]
