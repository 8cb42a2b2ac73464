"""Departures that meet in one access or composite: which pairs can, and that targets show them."""

import numpy as np
import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.fuzz.coverage import CELLS
from crosswalk.emu.fuzz.coverage.departure_pairs import DEPARTURE_PAIRS, departure_pair_cells
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate

POSSIBLE = np.flatnonzero(DEPARTURE_PAIRS.reachable()).tolist()


def ids(cell):
    return {
        axis.labels[at]
        for axis, at in zip(DEPARTURE_PAIRS.axes, DEPARTURE_PAIRS.values(cell), strict=True)
    }


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
    ] == [ids(cell) for cell in departure_pair_cells(names).tolist()]
    assert [] == departure_pair_cells(["one-that-is-planted+amd-pml4e-bit-8"]).tolist()


def shown(layouts):
    """The pairs that these layouts show, made for the targets of all of them, and what is found."""
    executor, seen = Executor(), np.zeros(DEPARTURE_PAIRS.size, np.bool_)
    first = CELLS.first_of(DEPARTURE_PAIRS.name)
    for index in layouts:
        wishes = [DEPARTURE_PAIRS.values(POSSIBLE[(index + at) % len(POSSIBLE)]) for at in range(8)]
        layout = generate(
            1, 9 + 36 * index, [*map(DEPARTURE_PAIRS.target, wishes)] * 6, accesses=4096
        )
        tried = executor.run(lambda layout=layout: layout, cross=True)
        assert () == tried.findings
        seen |= tried.coverage[first : first + DEPARTURE_PAIRS.size]
    assert not (seen & ~DEPARTURE_PAIRS.reachable()).any()
    return [ids(int(cell)) for cell in np.flatnonzero(seen)]


def test_pairs_are_reached_by_their_targets():
    assert len(shown(range(6))) >= 8


@pytest.mark.slow
def test_all_pairs_are_reached_by_their_targets():
    assert 17 == len(shown(range(80)))
