"""Coverage in the MMU's terms: what has been seen, what has not, and what would show it."""

from crosswalk.emu.fuzz.coverage.cells import (
    CELLS,
    CoverageMap,
    composite_coverage_of,
    coverage_of,
    departure_coverage_of,
    draw_targets,
)
from crosswalk.emu.fuzz.coverage.text import coverage_lines, coverage_record

__all__ = [
    "CELLS",
    "CoverageMap",
    "composite_coverage_of",
    "coverage_lines",
    "coverage_of",
    "coverage_record",
    "departure_coverage_of",
    "draw_targets",
]
