"""Every target can be met: what a cell's target asks for, the generator makes."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.fuzz.coverage import CELLS, coverage_of
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.walker.bulk import translate_many

LAYOUTS, ACCESSES = (4, 5, 6, 7), 72
"""The layouts, of six paths each, in one of which a target has to be met.

In the four before them targets don't decide the control state.
"""


def missed(family, count):
    """Those of `count` cells of a family that no layout shows which was made for its target."""
    at = [each.name for each in CELLS.families].index(family.name)
    chance = np.random.default_rng([at, count])
    cells = np.flatnonzero(family.reachable())
    chosen = chance.choice(cells, min(count, len(cells)), replace=False)
    return [family.describe(int(cell)) for cell in chosen if not met(family, at, int(cell))]


def met(family, at, cell):
    target = family.target(family.values(cell))
    for index in LAYOUTS:
        layout = generate(
            cell, index, [CoverageTarget(), target, target, target], accesses=ACCESSES
        )
        memory, context, accesses = layout.memory(), layout.context, layout.accesses
        outcomes = translate_many(memory, context, accesses)
        if coverage_of(memory, context, accesses, outcomes)[CELLS.first[at] + cell]:
            return True
    return False


def named(families):
    return [pytest.param(each, id=each.name) for each in families]


STEERED = [each for each in CELLS.families if each.target is not None and each.touch is not None]


@pytest.mark.parametrize("family", named(STEERED))
def test_cells_are_reached_by_their_targets(family):
    assert [] == missed(family, 16)


@pytest.mark.slow
@pytest.mark.parametrize("family", named(STEERED))
def test_many_cells_are_reached_by_their_targets(family):
    assert [] == missed(family, 400)


def test_targets_that_ask_for_something_else_are_found_out():
    places = next(each for each in CELLS.families if each.name == "addresses")
    blind = replace(places, target=lambda values: replace(places.target(values), index=()))
    assert len(missed(blind, 100)) > 5
