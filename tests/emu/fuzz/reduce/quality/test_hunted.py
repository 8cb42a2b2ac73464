"""How small planted bugs become: the numbers here are what reductions are held to."""

from dataclasses import replace

import pytest

from emu.fuzz import attempt
from emu.fuzz.generate import generate
from emu.fuzz.reduce.same import reduced_to, signatures_of
from tests.emu.fuzz.hunted import HUNTED, RARE

ENTRIES = {
    "R/W of a PTE ignored": 4,
    "U/S not inherited": 2,
    "XD not inherited": 4,
    "WP ignored": 2,
    "SMAP ignored": 2,
    "PS at 1 GiB ignored": 2,
    "A not set": 1,
    "canonical not checked": 0,
    "offset in a 2-MiB page lost": 3,
    "low address bits of a large page not reserved": 2,
    "write-disable ignored": 4,
    "XD not reserved with NXE clear": 4,
    "a read is refused below a PML4E with XD and a PDPTE with PCD": 2,
    "SMEP forgotten for 2-MiB pages with G below a PML4E with PWT": 3,
    "PAT of a 1-GiB page moves it where the key isn't 0": 2,
    "a clean page is refused to a store of the supervisor with WP clear below a PDE with PCD": 4,
    "A stays clear in all where that of the PML4E is set and the leaf is dirty": 3,
    "PK is said of a page that two levels deny as well": 4,
    "SMAP looks at AC only where the PDPTE is writable": 2,
    "with five levels a PML5E with G and PCD leads to a page read-only for all": 3,
    "with WP, SMEP and SMAP clear, XD of a PDPTE and U/S of a PDE take P from a fetch's fault": 2,
}
"""The entries that are left of the first finding; the walk of a 4-KiB page alone has four."""

TRIES = 80


def first_finding(bug, accesses=512):
    tester = attempt.Tester(predict=bug.predict)
    for index in range(25):
        found = tester.findings(generate(5, index, accesses=accesses)).all()
        if found:
            return tester, found[0]
    raise AssertionError(f"{bug.name} isn't found in 25 layouts")


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, id=bug.name, marks=[pytest.mark.slow] if bug in RARE[2:] else [])
        for bug in HUNTED
        if bug.name in ENTRIES
    ],
)
def test_a_planted_bug_becomes_one_probe_and_a_handful_of_entries(bug):
    tester, found = first_finding(bug)
    reduced = reduced_to(tester, found.whole, found.signature)
    case = reduced.case
    assert reduced.done
    assert reduced.tries <= TRIES
    assert (1, ENTRIES[bug.name]) == (len(case.probes), len(case.entries))
    assert found.signature in signatures_of(tester, case)
    # Whether it begins with all tables or those of the walk, it ends with the same.
    assert case == reduced_to(tester, found.case, found.signature).case
    # What is left is its own reduction.
    assert case == reduced_to(tester, case, found.signature).case


def test_every_bit_that_is_left_is_needed():
    (bug,) = [bug for bug in HUNTED if bug.name.startswith("a read is refused below a PML4E")]
    tester, found = first_finding(bug)
    case = reduced_to(tester, found.whole, found.signature).case
    root, entry = (case.entries[pa] for pa in sorted(case.entries))
    assert (1 << 63, 0) == (root & ~0xF_FFFF_F000 & ~7, root & 0x10)
    assert 0x10 == entry & 0x10
    for pa, bit in ((min(case.entries), 1 << 63), (max(case.entries), 0x10)):
        entries = {**case.entries, pa: case.entries[pa] & ~bit}
        assert found.signature not in signatures_of(tester, replace(case, entries=entries))
