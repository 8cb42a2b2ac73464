"""The third witness: what was meant is what happens, and a generator with a bug is found out."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.compare import differing_fields
from crosswalk.emu.findings.findings import MEANT
from crosswalk.emu.findings.layout import Meaning
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.intended import meant_outcomes
from crosswalk.walker.bulk import translate_many

PLAN = Plan(seed=11, accesses=256)
LAYOUTS = [PLAN.layout(index, CoverageMap().pack()) for index in range(6)]


def differing(layout):
    truth = translate_many(layout.memory(), layout.context, layout.accesses)
    fields = differing_fields(meant_outcomes(layout, truth), truth)
    return np.logical_or.reduce(list(fields.values()))


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(6))
def test_what_was_meant_is_what_happens(layout):
    assert not differing(layout).any()
    assert (layout.meant.meaning != Meaning.UNKNOWN).sum() > 30


WRONG = {
    "a page at another address": lambda meant: replace(meant, pa=meant.pa ^ np.uint64(1 << 12)),
    "what is denied is meant to be allowed": lambda meant: replace(
        meant,
        meaning=np.where(meant.meaning == Meaning.PROTECTION, Meaning.OK, meant.meaning).astype(
            np.uint8
        ),
    ),
    "what is reserved is meant to be absent": lambda meant: replace(
        meant,
        meaning=np.where(
            meant.meaning == Meaning.RESERVED, Meaning.NOT_PRESENT, meant.meaning
        ).astype(np.uint8),
    ),
    "keys are taken for rights": lambda meant: replace(
        meant,
        meaning=np.where(meant.meaning == Meaning.KEY, Meaning.PROTECTION, meant.meaning).astype(
            np.uint8
        ),
    ),
    "what isn't canonical is meant to be absent": lambda meant: replace(
        meant,
        meaning=np.where(
            meant.meaning == Meaning.NOT_CANONICAL, Meaning.NOT_PRESENT, meant.meaning
        ).astype(np.uint8),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_intention_is_found_out(name):
    wrong = [replace(layout, meant=WRONG[name](layout.meant)) for layout in LAYOUTS]
    shown = [differing(layout).any() for layout in wrong]
    assert any(shown)
    executor = Executor()
    found = executor.findings(wrong[shown.index(True)]).signatures
    assert {MEANT} == {signature.witness for signature in found}


def test_nothing_is_held_against_what_nothing_was_meant_of():
    layout = LAYOUTS[0]
    nothing = np.zeros_like(layout.meant.meaning)
    assert not differing(replace(layout, meant=replace(layout.meant, meaning=nothing))).any()
