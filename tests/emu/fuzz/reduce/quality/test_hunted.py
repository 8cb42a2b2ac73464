"""How small planted bugs become: the numbers here are what reductions are held to."""

from dataclasses import replace

import pytest

from crosswalk.emu.findings.findings import WALKER
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce.interesting import reduced_to, signatures_of
from tests.emu.fuzz.hunted_bugs import HUNTED, RARE

NOT_BY_CHANCE = {
    "key 15 isn't looked at for stores below a PDE with bit 9",
    "bit 51 of a PDE isn't reserved below a PML4E with PWT and a PDPTE with bit 11",
}
"""Bugs that a few layouts without guidance don't show."""

ENTRIES = 4
"""The most entries that may be left of a finding: the walk of a 4-KiB page has four."""

TRIES = 100


def first_finding(bug, accesses=512):
    executor = Executor(predict=bug.predict)
    for index in range(25):
        for found in executor.findings(generate(5, index, accesses=accesses)).all():
            # What a layout means is no part of a case.
            if found.signature.witness == WALKER:
                return executor, found
    raise AssertionError(f"{bug.name} isn't found in 25 layouts")


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, id=bug.name, marks=[pytest.mark.slow] if bug in RARE[2:] else [])
        for bug in HUNTED
        if bug.name not in NOT_BY_CHANCE
    ],
)
def test_a_planted_bug_becomes_one_probe_and_a_handful_of_entries(bug):
    executor, found = first_finding(bug)
    reduced = reduced_to(executor, found.whole, found.signature)
    case = reduced.case
    assert reduced.done
    assert reduced.tries <= TRIES
    assert 1 == len(case.probes)
    assert len(case.entries) <= ENTRIES
    assert found.signature in signatures_of(executor, case)
    # Whether it begins with all tables or those of the walk, it ends with the same.
    assert case == reduced_to(executor, found.case, found.signature).case
    # What is left is its own reduction.
    assert case == reduced_to(executor, case, found.signature).case


def test_every_bit_that_is_left_is_needed():
    (bug,) = [bug for bug in HUNTED if bug.name.startswith("a read is refused below a PML4E")]
    executor, found = first_finding(bug)
    case = reduced_to(executor, found.whole, found.signature).case
    (root_at, entry_at, *_) = sorted(case.entries)
    root, entry = case.entries[root_at], case.entries[entry_at]
    assert (1 << 63, 0) == (root & ~0xF_FFFF_F000 & ~7, root & 0x10)
    assert 0x10 == entry & 0x10
    for pa, bit in ((root_at, 1 << 63), (entry_at, 0x10)):
        entries = {**case.entries, pa: case.entries[pa] & ~bit}
        assert found.signature not in signatures_of(executor, replace(case, entries=entries))
