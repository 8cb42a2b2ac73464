"""The suite for projects that don't run Crosswalk: cases with the outcomes allowed, as files."""
