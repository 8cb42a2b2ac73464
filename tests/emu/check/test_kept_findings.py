"""What campaigns once found, and what it was: each case shows the same, and is explained."""

import pytest

from crosswalk.emu.check.allowed_outcomes import is_allowed
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.report.composites import dump_composite, load_composite
from tests.emu.case_files import FINDINGS

# Seeds 5, 99, 777 and 31337, 600 layouts each, before departures were composed: accesses across
# pages on a processor without 1-GiB pages, of which one page or both lie in a PDPTE with PS.
EXPLAINED = dict.fromkeys(sorted(path.name for path in FINDINGS.iterdir()), "pdpte-ps-always-leaf")


@pytest.fixture(scope="module")
def stand():
    return CompositeChecker()


def test_the_cases_are_there():
    assert 16 == len(EXPLAINED)


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_finding_still_shows_and_is_explained(stand, name):
    case = load_composite(FINDINGS / name)
    judged = stand.judge(case.case.memory(), case.case.context(), case.composite)
    assert not is_allowed(judged.allowed, judged.seen).any()
    assert {EXPLAINED[name]: 1} == judged.known
    assert not judged.differ.any()
    assert (FINDINGS / name).read_bytes() == dump_composite(case, judged.allowed, judged.seen)
