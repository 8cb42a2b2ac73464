"""Real accesses by guest code in an emulated CPU, in every paging mode, and their outcomes."""

from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.prober import Prober, ProberCache
from crosswalk.emu.probe.reading import mapped
from crosswalk.emu.probe.scope import FEATURES, LACKS
from crosswalk.emu.probe.subset import subset_of

__all__ = ["FEATURES", "LACKS", "ProbeError", "Prober", "ProberCache", "mapped", "subset_of"]
