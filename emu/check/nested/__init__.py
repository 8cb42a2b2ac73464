"""The two-dimensional walk, put to a CPU in guest mode."""

from crosswalk.emu.check.nested.compare import NestedDivergence
from crosswalk.emu.check.nested.crosscheck import NestedVerdict, check_nested

__all__ = ["NestedDivergence", "NestedVerdict", "check_nested"]
