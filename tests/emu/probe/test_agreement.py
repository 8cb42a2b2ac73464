"""Prober and walker, two readings of the manual that share no code, on hostile tables."""

import functools

import numpy as np
import pytest

from crosswalk.emu.check import compare_all
from crosswalk.emu.probe import Prober
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from tests.emu.accesses import columns
from tests.emu.seeded_tables import seeded_tables

COUNT = 100


@functools.cache
def asked(seed, *, plain):
    """Predicted and observed outcomes of the tables, and the divergences that nothing explains."""
    memory, context, accesses = seeded_tables(seed, COUNT, plain=plain)
    predicted = translate_many(memory, context, accesses)
    observed = Prober(memory, context).probe(accesses)
    found = compare_all(memory, context, accesses, predicted, observed)
    return predicted, observed, found


@pytest.mark.parametrize("plain", [True, False], ids=["the CPU's features", "other features"])
def test_walker_and_cpu_agree_on_seeded_tables(plain):
    known = set()
    for seed in range(25):
        _, _, found = asked(seed, plain=plain)
        assert [] == [each for each in found if each.known is None], f"seed {seed}"
        known |= {name for each in found for name in each.known.split("+")}
    everything = {
        "pdpte-leaf-accessed-on-fault",
        "maxphyaddr-40",
        "pdpte-ps-always-leaf",
        "amd-pml4e-bit-8",
        "amd-fetch-bit-without-nxe",
    }
    assert ({"pdpte-leaf-accessed-on-fault"} if plain else everything) == known


def test_bulk_and_single_probes_see_the_same_of_seeded_tables():
    for seed in range(15):
        memory, context, accesses = seeded_tables(seed, COUNT)
        prober = Prober(memory, context)
        bulk = columns(prober.probe(accesses))
        assert columns(prober.probe(accesses, bulk=False)) == bulk, f"seed {seed}"


def test_seeded_tables_hold_all_that_an_access_may_come_to():
    outcomes = [asked(seed, plain=True)[1] for seed in range(25)]
    kinds = np.bincount(np.concatenate([each.kind for each in outcomes]), minlength=3)
    codes = np.unique(np.concatenate([each.error_code for each in outcomes]))
    assert all(count > 50 for count in kinds[[Kind.OK, Kind.PAGE_FAULT, Kind.GENERAL_PROTECTION]])
    for bit in range(6):
        assert (codes & (1 << bit)).any(), bit


def test_a_seeded_tables_is_the_same_each_time():
    first, second = seeded_tables(3, 50), seeded_tables(3, 50)
    assert first.context == second.context
    assert np.array_equal(first.accesses.va, second.accesses.va)
    assert np.array_equal(
        first.memory.tables(np.arange(0x1000, 0xD000, 0x1000, dtype=np.uint64)),
        second.memory.tables(np.arange(0x1000, 0xD000, 0x1000, dtype=np.uint64)),
    )


@pytest.mark.fuzz
@pytest.mark.parametrize("plain", [True, False], ids=["the CPU's features", "other features"])
def test_walker_and_cpu_agree_on_fresh_tables(plain, fresh_seed):
    for seed in range(fresh_seed, fresh_seed + 1000):
        _, _, found = asked(seed, plain=plain)
        assert [] == [each for each in found if each.known is None], f"seed {seed}"
