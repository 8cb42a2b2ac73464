"""The third witness: what was meant is what happens, and a generator with a bug is found out."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.compare import differing_fields
from crosswalk.emu.findings.findings import INTENDED
from crosswalk.emu.findings.layout import IntendedKind
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate.intended import intended_outcomes
from crosswalk.walker.bulk import translate_many

PLAN = Plan(seed=11, accesses=256)
LAYOUTS = [PLAN.layout(index, CoverageMap().pack()) for index in range(6)]


def differing(layout):
    truth = translate_many(layout.memory(), layout.context, layout.accesses)
    fields = differing_fields(intended_outcomes(layout, truth), truth)
    return np.logical_or.reduce(list(fields.values()))


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(6))
def test_what_was_meant_is_what_happens(layout):
    assert not differing(layout).any()
    assert (layout.intended.kind != IntendedKind.UNKNOWN).sum() > 30


WRONG = {
    "a page at another address": lambda intended: replace(
        intended, pa=intended.pa ^ np.uint64(1 << 12)
    ),
    "what is denied is meant to be allowed": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.PROTECTION, IntendedKind.OK, intended.kind
        ).astype(np.uint8),
    ),
    "what is reserved is meant to be absent": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.RESERVED, IntendedKind.NOT_PRESENT, intended.kind
        ).astype(np.uint8),
    ),
    "keys are taken for rights": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.KEY, IntendedKind.PROTECTION, intended.kind
        ).astype(np.uint8),
    ),
    "what isn't canonical is meant to be absent": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.NOT_CANONICAL, IntendedKind.NOT_PRESENT, intended.kind
        ).astype(np.uint8),
    ),
}


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
