import numpy as np

from emu.check import compare_all
from emu.check.explain import ACCESSED_LEAF, accessed_leaves
from emu.check.known import KNOWN
from emu.probe import Stand
from tests.emu.soups import soup
from walker.bulk import translate_many


def test_in_bulk_the_same_is_explained_as_row_by_row():
    stand, explained = Stand(), 0
    for seed in range(30):
        memory, registers, accesses = soup(seed, 400, plain=True)
        predicted = translate_many(memory, registers, accesses)
        observed = stand.observe(memory, registers, accesses)
        rows = accessed_leaves(memory, registers, accesses, predicted, observed)
        divergences = compare_all(memory, registers, accesses, predicted, observed)
        known = [each.access for each in divergences if each.known == ACCESSED_LEAF]
        assert [accesses[row] for row in np.flatnonzero(rows).tolist()] == known
        explained += len(known)
    assert explained > 50


def test_the_entry_is_in_the_registry():
    assert ACCESSED_LEAF in {entry.id for entry in KNOWN}


def test_another_change_is_not_explained():
    stand = Stand()
    for seed in range(30):
        memory, registers, accesses = soup(seed, 400, plain=True)
        predicted = translate_many(memory, registers, accesses)
        observed = stand.observe(memory, registers, accesses)
        if accessed_leaves(memory, registers, accesses, predicted, observed).any():
            break
    dirty = observed.entry_value | np.where(observed.entry_value != 0, np.uint64(1 << 9), 0)
    observed.entry_value[:] = dirty
    assert not accessed_leaves(memory, registers, accesses, predicted, observed).any()
