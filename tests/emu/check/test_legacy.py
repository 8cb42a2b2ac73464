"""The cross-check of 32-bit and PAE address spaces: what is asked, and that bugs show."""

import numpy as np
import pytest

from crosswalk.emu.check import Place, check, make_plan
from crosswalk.emu.check.compare import as_emulated
from crosswalk.walker import SparseWords, translate_many
from tests.emu.check.planted_bugs import GUEST
from tests.emu.seeded_tables import seeded_tables
from tests.tables import OPEN, PS, RW, US, USED, P, PageTables, context, words_of

MODES = pytest.mark.parametrize("mode", ["32-bit", "PAE"])


def mixed(mode):
    found = (
        PageTables(mode).map(0, 0x8000).map(0xC000_0000, 0x9000, P | RW).map(0xC000_1000, 0xA000, P)
    )
    found.map(0xFFFF_F000, 0xB000, P | US).map(0x4000_0000, 0x40_0000, OPEN | PS, level=2)
    return found.change(0xC000_1000, 2, drop=0).map(0xC000_5000, 0xC000, RW | US)


@MODES
def test_every_address_of_a_plan_has_32_bits_and_every_kind_of_place_is_asked(mode):
    tables, paging = mixed(mode), context(mode)
    plan = make_plan(tables.memory, paging)
    large = Place.PAGE_4M if mode == "32-bit" else Place.PAGE_2M
    assert 0xFFFF_FFFF == int(plan.va.max())
    assert {Place.HOLE, Place.PAGE_4K, large, Place.MALFORMED} == set(plan.place.tolist())
    size = 1 << (22 if mode == "32-bit" else 21)
    asked = set(plan.va[plan.place == large].tolist())
    assert {0x4000_0000, 0x4000_0000 + size - 1} < asked
    inside = asked - {0x4000_0000, 0x4000_0000 + size - 1, 0x4000_0000 + size - 16}
    assert 1 == len(inside)
    holes = set(plan.va[plan.place == Place.HOLE].tolist())
    assert {0x1000, 0x3FFF_FFFF, 0x4000_0000 + size, 0xBFFF_FFFF, 0xFFFF_EFFF} <= holes
    assert not holes & {0, 0xFFFF_F000, 0xFFFF_FFFF}


def test_without_a_page_the_ends_of_the_32_bits_are_asked():
    memory = SparseWords([(0, 1 << 16)], {0x1000: 2})
    plan = make_plan(memory, context("32-bit"))
    assert {0, 0x7FFF_FFFF, 0xFFFF_FFFF} == set(plan.va[plan.place == Place.HOLE].tolist())


def test_a_map_of_all_4_gib_has_no_hole():
    words = words_of({0x1000 + 4 * at: at << 22 | USED | PS for at in range(1024)})
    plan = make_plan(SparseWords([(0, 1 << 16)], words), context("32-bit"))
    assert {Place.PAGE_4M} == set(plan.place.tolist())


@MODES
@pytest.mark.parametrize(
    "switches", [{}, {"smep": True, "smap": True}, {"wp": False, "nxe": False}]
)
def test_walker_and_cpu_agree(mode, switches):
    verdict = check(mixed(mode).memory, context(mode, **switches))
    assert (0, {}) == (verdict.divergent, verdict.known)
    assert verdict.agreements == verdict.probes > 60


@MODES
def test_walker_and_cpu_agree_on_all_that_a_seeded_tables_maps(mode):
    for seed in range(3):
        memory, context, _ = seeded_tables(seed, 0, mode, plain=True)
        plan = make_plan(memory, context)
        rows = np.random.default_rng(seed).choice(len(plan), min(len(plan), 1500), replace=False)
        verdict = check(memory, context, plan=plan.take(np.sort(rows)))
        assert (0, {}) == (verdict.divergent, verdict.known)


NAMES = (
    "WP ignored",
    "D not set",
    "A not set",
    "P missing",
    "SMEP ignored",
    "U/S of a PDE ignored",
)


@MODES
@pytest.mark.parametrize("name", NAMES)
def test_a_bug_shows(mode, name):
    (bug,) = [bug for bug in GUEST if bug.name == name]
    tables = mixed(mode).map(0x5000_0000, 0xD000).change(0x5000_0000, 2, drop=US)
    verdict = check(tables.memory, context(mode, smep=True), predict=bug.predict)
    assert verdict.divergent > 0
    assert verdict.divergences


def test_a_pdpte_is_no_leaf_that_the_emulator_marks():
    memory, context, accesses = seeded_tables(1, 50, "PAE", plain=True)
    outcomes = translate_many(memory, context, accesses)
    loaded = (as_emulated(memory, context, accesses).entry_pa & ~np.uint64(31)) == context.root
    assert not loaded.any()
    assert (outcomes.entry_pa != 0).any()
