"""Walkers under test: anybody's, asked the same questions."""

from crosswalk.emu.targets.capabilities import Capability, Target

__all__ = ["Capability", "Target"]
