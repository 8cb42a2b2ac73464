"""Real accesses by a guest under nested paging, and what became of each."""

from crosswalk.emu.probe.nested.prober import NestedProber

__all__ = ["NestedProber"]
