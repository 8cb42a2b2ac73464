"""Coverage in the MMU's terms: what has been seen, what has not, and what would show it."""

from crosswalk.emu.fuzz.coverage.cells import (
    CELLS,
    Seen,
    composite_coverage_of,
    coverage_of,
    meeting_coverage_of,
    wanted,
)
from crosswalk.emu.fuzz.coverage.text import coverage_lines, coverage_record

__all__ = [
    "CELLS",
    "Seen",
    "composite_coverage_of",
    "coverage_lines",
    "coverage_of",
    "coverage_record",
    "meeting_coverage_of",
    "wanted",
]
