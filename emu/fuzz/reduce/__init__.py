"""Reducing a case while it shows the same."""

from crosswalk.emu.fuzz.reduce.passes import reduce_case, size_of
from crosswalk.emu.fuzz.reduce.reducer import Reduced

__all__ = ["Reduced", "reduce_case", "size_of"]
