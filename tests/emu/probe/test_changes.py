"""Words that accesses changed, and that predictor and observer compute each for itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.check import check
from crosswalk.emu.probe import workspace as workspaces
from crosswalk.emu.probe.workspace import changed_words
from crosswalk.walker import bulk
from tests.tables import OPEN, PageTables, context

VA = 0x40_0000
WORD = st.tuples(st.sampled_from((8, 16, 24, 1 << 39)), st.integers(0, 3))


def by_hand(row):
    """The changed words of one access, as (address, value) in order; `row` has (address, bits)."""
    found = {}
    for pa, bits in row:
        if bits:
            found[pa] = found.get(pa, 1 << 63) | bits
    return sorted(found.items())


@given(st.lists(st.lists(WORD, min_size=5, max_size=5), max_size=6))
def test_changed_words_are_merged_by_address(rows):
    pa = np.array([[pa for pa, _ in row] for row in rows], np.uint64).reshape(-1, 5)
    bits = np.array([[bits for _, bits in row] for row in rows], np.uint64).reshape(-1, 5)
    before = np.full(pa.shape, 1 << 63, np.uint64)
    address, value = changed_words(pa, before, before | bits)
    assert ((len(rows), 5), (len(rows), 5)) == (address.shape, value.shape)
    for at, row in enumerate(rows):
        pairs = list(zip(address[at].tolist(), value[at].tolist(), strict=True))
        expected = by_hand(row)
        assert expected + [(0, 0)] * (5 - len(expected)) == pairs


@pytest.mark.parametrize(
    ("module", "name"), [(workspaces, "changed_words"), (bulk, "merge_changes")]
)
def test_dirty_lost_by_either_side_is_a_divergence(monkeypatch, module, name):
    memory = PageTables().map(VA, 0x8000, OPEN).memory
    assert 0 == check(memory, context()).divergent
    merge = getattr(module, name)

    def lost(*given):
        address, value = merge(*given)
        return address, value & ~np.uint64(0x40)

    monkeypatch.setattr(module, name, lost)
    assert 0 < check(memory, context()).divergent
