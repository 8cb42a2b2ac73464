import zlib
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap, coverage_of, draw_targets
from crosswalk.emu.fuzz.coverage.cells import unseen_in
from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.errors import BadInput
from crosswalk.walker.outcome import ErrorCode

FAMILIES = {family.name: at for at, family in enumerate(CELLS.families)}


def covered(layout, change=lambda outcomes: outcomes):
    memory = layout.memory()
    outcomes = translate_many(memory, layout.context, layout.accesses)
    return coverage_of(memory, layout.context, layout.accesses, change(outcomes))


def layouts(count, accesses=2048):
    for index in range(count):
        targets = draw_targets(CoverageMap().pack(), np.random.default_rng([11, index]), 80)
        yield generate(11, index, targets, accesses=accesses)


def impossible(covers):
    return {CELLS.split(cell)[0].name for cell in np.flatnonzero(covers & ~CELLS.possible).tolist()}


@pytest.fixture(scope="module")
def made():
    return list(layouts(12))


def test_nothing_is_touched_that_is_said_to_be_impossible(made):
    for layout in made:
        assert set() == impossible(covered(layout))


def all_ok(outcomes):
    return replace(
        outcomes, kind=np.where(outcomes.kind == Kind.PAGE_FAULT, Kind.OK, outcomes.kind)
    )


def all_denied(outcomes):
    fault = outcomes.kind != Kind.GENERAL_PROTECTION
    code = outcomes.error_code | np.uint16(ErrorCode.P)
    return replace(
        outcomes,
        kind=np.where(fault, Kind.PAGE_FAULT, outcomes.kind),
        error_code=(code & ~np.uint16(ErrorCode.RSVD | ErrorCode.PK)).astype(np.uint16),
    )


def all_keys(outcomes):
    return replace(
        all_denied(outcomes),
        error_code=np.full(len(outcomes), ErrorCode.P | ErrorCode.PK, np.uint16),
    )


def shifted(outcomes):
    rows = np.roll(np.arange(len(outcomes)), 1)
    return Outcomes(*(getattr(outcomes, name)[rows] for name in Outcomes.__slots__))


@pytest.mark.parametrize("wrong", [all_ok, all_denied, all_keys, shifted])
def test_wrong_outcomes_touch_what_is_impossible(made, wrong):
    found = set().union(*(impossible(covered(layout, wrong)) for layout in made))
    # Reserved bits and addresses say nothing of answers.
    assert {"end of the walk", "bits of entries", "control bits"} <= found
    assert found & {"rights withheld", "protection keys", "pairs of bits"}


STEERED = [each.name for each in CELLS.families if each.target and each.touch]


@pytest.mark.parametrize("name", STEERED)
def test_targets_lead_to_their_cells_and_chance_does_not(name):
    at = FAMILIES[name]
    family, first = CELLS.families[at], CELLS.first[at]
    cells = np.random.default_rng(at).choice(np.flatnonzero(family.reachable()), 24, replace=False)
    reached = {6: 0, 0: 0}
    for seed, cell in enumerate(cells.tolist()):
        target = family.target(family.values(cell))
        for count in reached:
            # A layout whose control bits are left to targets.
            layout = generate(seed, 4, [target] * count, accesses=192)
            reached[count] += bool(covered(layout)[first + cell])
    assert reached[6] >= 19, reached
    assert reached[6] > reached[0], reached


def test_a_cpu_of_other_features_covers_nothing(made):
    layout = made[0]
    for changes in ({"maxphyaddr": 39}, {"page1gb": False}):
        context = replace(layout.context, **changes)
        assert not covered(replace(layout, context=context)).any()


def test_packed_maps_are_equal_for_equal_maps_and_come_back(made):
    seen = CoverageMap()
    for layout in made[:3]:
        seen.add(covered(layout))
    packed = seen.pack()
    assert np.array_equal(seen.bits, CoverageMap.unpack(packed).bits)
    assert packed == CoverageMap(seen.bits.copy()).pack()
    assert packed != CoverageMap().pack()
    assert not CoverageMap.unpack(CoverageMap().pack()).bits.any()


@pytest.mark.parametrize("data", [b"", b"nothing", zlib.compress(b"too short")])
def test_what_is_no_map_is_bad_input(data):
    with pytest.raises(BadInput, match="coverage"):
        CoverageMap.unpack(data)


def test_targets_are_for_what_is_possible_and_unseen_only():
    at = FAMILIES["addresses"]
    family, first = CELLS.families[at], CELLS.first[at]
    left = first + 5
    bits = np.ones(CELLS.count, np.bool_)
    bits[left] = False
    packed = CoverageMap(bits).pack()
    # Few for one cell, whatever there is room for.
    targets = draw_targets(packed, np.random.default_rng(0), 10)
    assert [family.target(family.values(5))] * 4 == targets
    bits[left] = True
    assert [] == draw_targets(CoverageMap(bits).pack(), np.random.default_rng(0), 10)
    assert set(np.flatnonzero(~CELLS.possible)).isdisjoint(
        np.concatenate(unseen_in(CoverageMap().pack())).tolist()
    )


def test_equal_maps_and_chances_give_equal_targets():
    packed = CoverageMap().pack()
    one, other = (draw_targets(packed, np.random.default_rng(4), 50) for _ in range(2))
    assert one == other
    assert one != draw_targets(packed, np.random.default_rng(5), 50)


def test_cells_are_numbered_family_by_family():
    for at, family in enumerate(CELLS.families):
        for cell in (0, family.size // 3, family.size - 1):
            assert (family, cell) == CELLS.split(CELLS.first[at] + cell)
            assert family.values(cell) == tuple(
                int(each) for each in np.unravel_index(cell, family.shape)
            )
            assert CELLS.describe(CELLS.first[at] + cell).startswith(f"{family.name}: ")
    assert CELLS.count == sum(family.size for family in CELLS.families) == len(CELLS.possible)
    assert CELLS.reachable == int(CELLS.possible.sum())


def test_counts_are_of_possible_cells():
    bits = np.ones(CELLS.count, np.bool_)
    for (name, got, possible), family in zip(
        CoverageMap(bits).counts(), CELLS.families, strict=True
    ):
        assert (family.name, int(family.reachable().sum())) == (name, possible)
        assert got == possible
    assert 0 == sum(got for _, got, _ in CoverageMap().counts())
