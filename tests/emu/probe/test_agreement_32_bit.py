"""Prober and walker, two readings of the manual that share no code, on hostile tables."""

import numpy as np
import pytest

from crosswalk.emu.check import compare_all
from crosswalk.emu.probe import ProberCache
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from tests.emu.seeded_tables import seeded_tables

COUNT = 60
MODES = pytest.mark.parametrize("mode", ["32-bit", "PAE"])


def asked(seeds, mode, **how):
    """The outcomes with these tables, and the divergences."""
    probers, outcomes, found = ProberCache(), [], []
    for seed in seeds:
        memory, context, accesses = seeded_tables(seed, COUNT, mode, **how)
        predicted = translate_many(memory, context, accesses)
        observed = probers.observe(memory, context, accesses)
        outcomes.append(observed)
        found += compare_all(memory, context, accesses, predicted, observed)
    return outcomes, found


@MODES
def test_walker_and_cpu_agree_on_seeded_tables(mode):
    outcomes, found = asked(range(25), mode, plain=True)
    assert [] == found
    kinds = np.bincount(np.concatenate([each.kind for each in outcomes]), minlength=3)
    codes = np.unique(np.concatenate([each.error_code for each in outcomes]))
    assert min(kinds[[Kind.OK, Kind.PAGE_FAULT]]) > 200
    for bit in range(5):
        assert (codes & (1 << bit)).any(), bit
    assert not (codes & 0x20).any()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("32-bit", {"maxphyaddr-40", "amd-fetch-bit-without-nxe"}),
        ("PAE", {"maxphyaddr-40", "amd-fetch-bit-without-nxe", "pae-pdpte-read-when-used"}),
    ],
)
def test_where_they_do_not_the_registry_says_why(mode, expected):
    _, found = asked(range(30), mode, loadable=False)
    assert expected == {name for each in found for name in each.known.split("+")}


def test_a_walker_that_misreads_one_rule_is_seen_to():
    memory, context, accesses = seeded_tables(3, COUNT, "32-bit", plain=True)
    observed = ProberCache().observe(memory, context, accesses)
    predicted = translate_many(memory, context, accesses)
    assert [] == compare_all(memory, context, accesses, predicted, observed)
    shown = np.flatnonzero(predicted.entry_value[:, 0])
    predicted.entry_value[shown[0], 0] ^= np.uint64(1 << 37)
    assert 1 == len(compare_all(memory, context, accesses, predicted, observed))


@pytest.mark.fuzz
@MODES
@pytest.mark.parametrize("loadable", [True, False])
def test_walker_and_cpu_agree_on_fresh_tables(mode, loadable, fresh_seed):
    start = fresh_seed
    for plain in (True, False):
        seeds = range(start, start + 300)
        _, found = asked(seeds, mode, plain=plain, loadable=loadable)
        assert [] == [each for each in found if each.known is None], f"seeds {seeds}"
