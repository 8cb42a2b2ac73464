"""Layouts: what turns up in them, and that equal seeds make equal ones."""

from dataclasses import fields

import numpy as np
import pytest

from crosswalk.emu.fuzz.coverage import CoverageMap, draw_targets
from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker.context import Vendor
from tests.emu.fuzz.generate.pathologies import PATHOLOGIES, Made

COUNT = 64
"""Within so many layouts of a seed everything has to turn up."""


@pytest.fixture(scope="module")
def made():
    """The first layouts of a seed, the later ones guided by nothing seen, as in a campaign."""
    layouts = []
    for index in range(COUNT):
        targets = draw_targets(CoverageMap().pack(), np.random.default_rng([7, index]), 80)
        layouts.append(Made(generate(7, index, targets, accesses=2048)))
    return layouts


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_every_pathology_turns_up(made, name):
    found = sum(PATHOLOGIES[name](each) for each in made)
    assert found >= 2, f"{found} of {COUNT} layouts"


CONTROLS = {
    "wp": lambda context: context.wp,
    "nxe": lambda context: context.nxe,
    "smep": lambda context: context.smep,
    "smap": lambda context: context.smap,
    "pke": lambda context: context.pke,
    "la57": lambda context: context.levels == 5,
    "pge": lambda context: bool(context.cr4 & 0x80),
    "flags in CR3": lambda context: bool(context.cr3 & 0x18),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_bit_has_both_values(made, name):
    assert {False, True} == {CONTROLS[name](each.context) for each in made}


def test_accesses_are_of_every_type_and_privilege_with_ac_and_without(made):
    kinds = {
        (int(kind), int(cpl), bool(ac))
        for each in made
        for kind, cpl, ac in zip(
            each.layout.accesses.type,
            each.layout.accesses.cpl,
            each.layout.accesses.ac,
            strict=True,
        )
    }
    assert kinds == {(kind, cpl, ac) for kind in range(3) for cpl in (0, 3) for ac in (False, True)}


def test_four_layouts_in_a_row_show_both_values_of_every_bit_at_four_levels_and_at_five():
    for first in range(0, 16, 4):
        contexts = [generate(3, index, accesses=64).context for index in range(first, first + 4)]
        for levels in (4, 5):
            chosen = [context for context in contexts if context.levels == levels]
            for name in ("wp", "nxe", "smep", "smap", "pke", "pge"):
                assert {False, True} == {CONTROLS[name](context) for context in chosen}, name


def test_cpus_with_other_features_turn_up_where_no_target_asks_for_this_one():
    contexts = [generate(5, index, accesses=64).context for index in range(120)]
    assert {Vendor.AMD, Vendor.INTEL} == {context.vendor for context in contexts}
    assert {40} < {context.maxphyaddr for context in contexts}
    assert {False, True} == {context.page1gb for context in contexts}
    assert {False, True} == {context.pkru == 0 for context in contexts}


def parts(layout):
    return [
        layout.context,
        layout.ram,
        layout.frames.tobytes(),
        layout.words.tobytes(),
        *(getattr(layout.accesses, each.name).tobytes() for each in fields(layout.accesses)),
        *(getattr(layout.intended, each.name).tobytes() for each in fields(layout.intended)),
    ]


def test_equal_arguments_give_equal_layouts_and_others_give_others():
    targets = draw_targets(CoverageMap().pack(), np.random.default_rng(1), 40)
    one = parts(generate(1, 2, targets, accesses=512))
    assert one == parts(generate(1, 2, targets, accesses=512))
    for other in (
        generate(1, 3, targets, accesses=512),
        generate(2, 2, targets, accesses=512),
        generate(1, 2, accesses=512),
    ):
        assert one[3] != parts(other)[3]


def test_no_access_is_made_twice_and_nearly_as_many_as_asked_for(made):
    for each in made:
        accesses = each.layout.accesses
        rows = {
            (int(va), int(kind), int(cpl), bool(ac))
            for va, kind, cpl, ac in zip(
                accesses.va, accesses.type, accesses.cpl, accesses.ac, strict=True
            )
        }
        assert len(rows) == len(accesses)
        assert 0.8 * 2048 < len(accesses) <= 2048
