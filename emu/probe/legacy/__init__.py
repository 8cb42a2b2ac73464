"""Real accesses in 32-bit and PAE paging, one engine call each."""

from crosswalk.emu.probe.legacy.prober import LegacyProber

__all__ = ["LegacyProber"]
