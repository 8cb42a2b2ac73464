"""Real accesses by guest code in an emulated CPU, and what became of each."""

from emu.probe.engine import ProbeError
from emu.probe.modes import Prober
from emu.probe.portion import portion_of
from emu.probe.reading import mapped
from emu.probe.scope import FEATURES, LACKS
from emu.probe.stand import Stand

__all__ = ["FEATURES", "LACKS", "ProbeError", "Prober", "Stand", "mapped", "portion_of"]
