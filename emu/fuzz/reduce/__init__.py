"""Shrinking a case while it shows the same."""

from crosswalk.emu.fuzz.reduce.passes import size_of
from crosswalk.emu.fuzz.reduce.reducer import Reduced, reduce_case

__all__ = ["Reduced", "reduce_case", "size_of"]
