from dataclasses import replace
from pathlib import Path

import pytest

from crosswalk.walker import SparseWords, mappings
from crosswalk.walker.encryption import likely_encryption_mask
from crosswalk.walker.formats import load_case
from tests.tables import OPEN, ROOT, PageTables, context

RULES = Path(__file__).parents[1] / "cases" / "rules"
C, WIDE = 1 << 47, {"maxphyaddr": 52}


def encrypted(mask, levels=4, ram=((0, 1 << 24),)):
    builder = PageTables(levels, ram=ram).map(0, 0x5000).map(1 << 39, 0x6000)
    return SparseWords(ram, {pa: word | mask for pa, word in builder.words.items()})


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("mask", [C, 1 << 51, 1 << 32, 0x3F << 46])
def test_bits_that_all_entries_of_the_root_share_are_suggested(mask, levels):
    memory = encrypted(mask, levels)
    for root in (ROOT, ROOT | mask):
        assert mask == likely_encryption_mask(memory, context(levels, root=root, **WIDE))


@pytest.mark.parametrize("name", ["cbit47_m48", "cbit51_m52", "sev-cbit47"])
def test_the_mask_of_an_encrypted_guest_is_suggested(name):
    case = load_case(RULES / f"{name}.json")
    unsaid = replace(case.context(), encryption_mask=0)
    assert case.cpu.encryption_mask == likely_encryption_mask(case.memory(), unsaid)


def test_a_bit_above_maxphyaddr_is_suggested():
    assert C == likely_encryption_mask(encrypted(C), context(maxphyaddr=43))


def test_pdptes_suggest_a_mask_too():
    tables = PageTables("PAE").map(0, 0x8000)
    memory = SparseWords(tables.ram, {pa: word | C for pa, word in tables.words.items()})
    assert C == likely_encryption_mask(memory, context("PAE", maxphyaddr=52))


def test_nothing_is_suggested_for_plain_tables():
    assert 0 == likely_encryption_mask(encrypted(0), context(**WIDE))
    assert 0 == likely_encryption_mask(SparseWords([(0, 1 << 24)], {}), context())
    assert 0 == likely_encryption_mask(SparseWords([], {}), context())
    assert 0 == likely_encryption_mask(
        PageTables("32-bit").map(0, 0x8000).memory, context("32-bit")
    )


def test_addresses_of_ram_far_up_are_no_mask():
    high = 1 << 32
    builder = PageTables().map(0, 0x5000)
    words = {pa | high: word | high for pa, word in builder.words.items()}
    memory = SparseWords([(0, 1 << 24), (high, 1 << 24)], words | builder.words)
    assert 0 == likely_encryption_mask(memory, context(root=ROOT | high))


def test_one_entry_without_the_bit_is_enough_to_suggest_nothing():
    memory = encrypted(C)
    words = dict(memory.words()) | {ROOT + 8: 0x2000 | OPEN}
    assert 0 == likely_encryption_mask(SparseWords([(0, 1 << 24)], words), context(**WIDE))


def test_entries_that_lead_nowhere_with_the_bit_and_without_it_suggest_nothing():
    memory = SparseWords([(ROOT, 0x1000)], {ROOT: C | 0x7000_0000 | OPEN})
    assert 0 == likely_encryption_mask(memory, context(**WIDE))


def test_with_a_mask_given_no_other_is_suggested():
    assert 0 == likely_encryption_mask(encrypted(C), context(encryption_mask=C, **WIDE))


def test_the_suggested_mask_shows_the_mappings():
    memory = encrypted(C)
    plain = context(maxphyaddr=43)
    assert [] == list(mappings(memory, plain))
    shown = replace(plain, encryption_mask=likely_encryption_mask(memory, plain))
    found = [(each.va, each.pa, each.flags & C) for each in mappings(memory, shown)]
    assert [(0, 0x5000, C), (1 << 39, 0x6000, C)] == found
