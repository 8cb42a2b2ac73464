"""Coverage in the MMU's terms: what has been seen, what has not, and what would show it."""

from emu.fuzz.coverage.cells import CELLS, Seen, coverage_of, wanted
from emu.fuzz.coverage.text import coverage_lines, coverage_record

__all__ = ["CELLS", "Seen", "coverage_lines", "coverage_of", "coverage_record", "wanted"]
