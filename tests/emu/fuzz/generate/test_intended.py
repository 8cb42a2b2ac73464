"""The third witness: what was meant is what happens, and a generator with a bug is found out."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.findings.findings import INTENDED
from crosswalk.emu.findings.layout import IntendedKind
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from tests.emu.fuzz.generate.intentions import WRONG, differing

PLAN = Plan(seed=11, accesses=256)
LAYOUTS = [PLAN.layout(index, CoverageMap().pack()) for index in range(6)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(6))
def test_what_was_meant_is_what_happens(layout):
    assert not differing(layout).any()
    assert (layout.intended.kind != IntendedKind.UNKNOWN).sum() > 30


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_intention_is_found_out(name):
    wrong = [replace(layout, intended=WRONG[name](layout.intended)) for layout in LAYOUTS]
    shown = [differing(layout).any() for layout in wrong]
    assert any(shown)
    executor = Executor()
    found = executor.findings(wrong[shown.index(True)]).signatures
    assert {INTENDED} == {signature.witness for signature in found}


def test_nothing_is_held_against_what_nothing_was_meant_of():
    layout = LAYOUTS[0]
    nothing = np.zeros_like(layout.intended.kind)
    assert not differing(replace(layout, intended=replace(layout.intended, kind=nothing))).any()
