"""Real accesses in 32-bit and PAE paging, one engine call each."""

from emu.probe.legacy.prober import LegacyProber

__all__ = ["LegacyProber"]
