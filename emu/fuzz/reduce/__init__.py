"""Shrinking a case while it shows the same."""

from emu.fuzz.reduce.reducer import Reduced, reduce_case
from emu.fuzz.reduce.simpler import size_of

__all__ = ["Reduced", "reduce_case", "size_of"]
