"""All sequences of the default matrix, which docs/tlb.md tells of."""

import re
from pathlib import Path

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.matrix.select import chosen_units
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.matrix.unit import Worker

PAGE = (Path(__file__).parents[4] / "docs" / "tlb.md").read_text(encoding="utf-8")
ROW = re.compile(r"\| (tlb-\w+):[^|]*\|" + r" ([\d,]*) \|" * 4 + r" ?([\d,]*) ?\|")


@pytest.mark.slow
def test_no_sequence_is_violated_but_in_known_ways_and_the_page_has_the_counts():
    worker, summary = Worker(SEQUENCE_SECTIONS, {}), Summary("")
    for unit in chosen_units({}):
        if unit.section.startswith("tlb-"):
            summary.add(worker.do(unit))
    found = summary.tlb
    assert {} == found.groups
    assert sorted(entry.id for entry in departures(Scope.SEQUENCE)) == sorted(found.known)
    told = {
        name: [int(count.replace(",", "") or 0) for count in counts]
        for name, *counts in ROW.findall(PAGE)
    }
    assert told == {name: counts[:5] for name, counts in found.sections.items()}
    assert f"of {found.accesses:,} accesses, {found.total(3):,} saw" in PAGE
