"""Coverage of the MMU's rules: the cells reached, those not reached, and targets for them."""

from crosswalk.emu.fuzz.coverage.cells import (
    CELLS,
    CoverageMap,
    composite_coverage_of,
    coverage_lines,
    coverage_of,
    coverage_record,
    departure_coverage_of,
    draw_targets,
)

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
