"""Real accesses by guest code in an emulated CPU, and what became of each."""

from emu.probe.prober import Prober
from emu.probe.rig import ProbeError

__all__ = ["ProbeError", "Prober"]
