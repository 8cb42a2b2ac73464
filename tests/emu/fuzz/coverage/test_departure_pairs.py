"""Departures that meet in one access or composite: which pairs can, and that goals show them."""

import numpy as np
import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.fuzz import executor as attempt
from crosswalk.emu.fuzz.coverage import CELLS
from crosswalk.emu.fuzz.coverage.departure_pairs import MEETINGS, meetings
from crosswalk.emu.fuzz.generate import generate

POSSIBLE = np.flatnonzero(MEETINGS.reachable()).tolist()


def ids(cell):
    return {axis.labels[at] for axis, at in zip(MEETINGS.axes, MEETINGS.values(cell), strict=True)}


def test_every_departure_of_long_mode_meets_another():
    table = {each.id for each in departures(Scope.ACCESS, Scope.COMPOSITE)}
    met = set.union(*(ids(cell) for cell in POSSIBLE))
    assert table - {"pae-pdpte-read-when-used"} == met
    assert 17 == len(POSSIBLE)


def test_a_name_touches_each_pair_of_its_departures_and_of_one_alone_none():
    names = ["maxphyaddr-40+amd-pml4e-bit-8+locked-rmw-reads-first", "pdpte-ps-always-leaf"]
    assert [
        {"maxphyaddr-40", "amd-pml4e-bit-8"},
        {"maxphyaddr-40", "locked-rmw-reads-first"},
        {"amd-pml4e-bit-8", "locked-rmw-reads-first"},
    ] == [ids(cell) for cell in meetings(names).tolist()]
    assert [] == meetings(["one-that-is-planted+amd-pml4e-bit-8"]).tolist()


def shown(layouts):
    """The pairs that these layouts show, made for the goals of all of them, and what is found."""
    tester, seen = attempt.Tester(), np.zeros(MEETINGS.size, np.bool_)
    first = CELLS.first_of(MEETINGS.name)
    for index in layouts:
        wishes = [MEETINGS.values(POSSIBLE[(index + at) % len(POSSIBLE)]) for at in range(8)]
        layout = generate(1, 9 + 36 * index, [*map(MEETINGS.goal, wishes)] * 6, accesses=4096)
        tried = tester.attempt(lambda layout=layout: layout, cross=True)
        assert () == tried.findings
        seen |= tried.coverage[first : first + MEETINGS.size]
    assert not (seen & ~MEETINGS.reachable()).any()
    return [ids(int(cell)) for cell in np.flatnonzero(seen)]


def test_pairs_are_reached_by_their_goals():
    assert len(shown(range(6))) >= 8


@pytest.mark.slow
def test_all_pairs_are_reached_by_their_goals():
    assert 17 == len(shown(range(80)))
