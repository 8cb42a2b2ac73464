"""Real accesses by guest code in an emulated CPU, and what became of each."""

from emu.probe.engine import ProbeError
from emu.probe.modes import Prober
from emu.probe.stand import Stand

__all__ = ["ProbeError", "Prober", "Stand"]
