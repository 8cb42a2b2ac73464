from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import BadInput, Vendor, memory_types
from crosswalk.walker.memory_types import RESET_PAT, MemoryType, MemoryTypes, Pat, is_pat
from crosswalk.walker.mtrrs import MTRR_TYPES, Mtrrs, VariableRange
from crosswalk.walker.pages import pages
from tests.random_tables import extended_tables
from tests.tables import KIB4, MIB2, OPEN, PAT_LARGE, PCD, PS, PWT, context
from tests.walker import naive, naive_types

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
LINUX_PAT = 0x0407_0506_0007_0106
BY_NAME = {kind.text: kind for kind in MemoryType}

INTEL = """
UC  UC UC   UC  UC- UC   UC  WC WC   UC  WT UC   UC  WB UC   UC  WP UC
WC  UC UC   WC  UC- WC   WC  WC WC   WC  WT UC   WC  WB WC   WC  WP UC
WT  UC UC   WT  UC- UC   WT  WC WC   WT  WT WT   WT  WB WT   WT  WP WP
WB  UC UC   WB  UC- UC   WB  WC WC   WB  WT WT   WB  WB WB   WB  WP WP
WP  UC UC   WP  UC- WC   WP  WC WC   WP  WT WT   WP  WB WP   WP  WP WP
"""
"""The SDM's table of effective page-level memory types: MTRR, PAT, effective."""

AMD = """
UC  UC UC   WC  UC CD   WP  UC CD   WT  UC CD   WB  UC CD
UC  UC- UC  WC  UC- WC  WP  UC- CD  WT  UC- CD  WB  UC- CD
UC  WC WC   WC  WC WC   WP  WC WC+  WT  WC WC+  WB  WC WC+
UC  WP UC   WC  WP CD   WP  WP WP   WT  WP CD   WB  WP WP
UC  WT UC   WC  WT CD   WP  WT CD   WT  WT WT   WB  WT WT
UC  WB UC   WC  WB WC   WP  WB WP   WT  WB WT   WB  WB WB
"""
"""The APM's table of the combined effect of MTRRs and PAT, in the same order."""


def rows(table):
    words = table.lower().split()
    return list(zip(words[::3], words[1::3], words[2::3], strict=True))


def types_of(found):
    return [MemoryType(kind).text for kind in found.tolist()]


def effective(vendor, mtrr, own, **others):
    pat = Pat(BY_NAME[own])  # In field 0; the others are UC.
    mtrrs = Mtrrs(default=BY_NAME[mtrr])
    return MemoryTypes(pat, mtrrs, vendor, **others).of_own(BY_NAME[own], 0x5000).text


@pytest.mark.parametrize(("vendor", "table"), [(Vendor.INTEL, INTEL), (Vendor.AMD, AMD)])
def test_types_combine_as_in_the_manuals_table(vendor, table):
    found = rows(table)
    assert 30 == len({(mtrr, own) for mtrr, own, _ in found})
    assert found == [(mtrr, own, effective(vendor, mtrr, own)) for mtrr, own, _ in found]


@pytest.mark.parametrize(
    ("vendor", "table", "rule"),
    [(Vendor.INTEL, INTEL, naive_types.on_intel), (Vendor.AMD, AMD, naive_types.on_amd)],
)
def test_the_rules_of_the_naive_twin_are_the_manuals_table(vendor, table, rule):
    assert rows(table) == [(mtrr, own, rule(own, mtrr)) for mtrr, own, _ in rows(table)]


@pytest.mark.parametrize(("vendor", "kind"), [(Vendor.INTEL, "uc"), (Vendor.AMD, "cd")])
def test_nothing_is_cached_with_cd_set(vendor, kind):
    for mtrr, own, _ in rows(INTEL):
        assert kind == effective(vendor, mtrr, own, disabled=True)
    assert MemoryTypes.of(replace(context(), cr0=0xC001_0033)).disabled
    assert not MemoryTypes.of(context()).disabled
    assert MemoryTypes() == MemoryTypes.of(context())


@pytest.mark.parametrize(
    ("level", "flags", "index"),
    [
        (1, 0, 0),
        (1, PWT, 1),
        (1, PCD, 2),
        (1, PCD | PWT, 3),
        (1, PS, 4),
        (1, PS | PCD | PWT, 7),
        (2, PS, 0),
        (2, PS | PAT_LARGE, 4),
        (2, PS | PAT_LARGE | PWT, 5),
        (3, PS | PCD, 2),
        (3, PS | PAT_LARGE | PCD, 6),
    ],
)
def test_pat_is_bit_7_of_a_pte_and_bit_12_of_a_large_page(level, flags, index):
    flags |= OPEN
    assert index == memory_types.pat_index(level, flags)
    others = np.array([1, 2, level], np.uint8)
    found = memory_types.pat_indices(others, np.array([PWT, PS, flags], np.uint64))
    assert [1, 0, index] == found.tolist()
    alone = memory_types.pat_indices(others[2:], np.array([flags], np.uint64))
    assert [index] == alone.tolist()


def test_fields_of_pat_are_its_bytes_from_the_lowest_on():
    assert ["wb", "wc", "uc-", "uc", "wb", "wp", "uc-", "wt"] == types_of(Pat(LINUX_PAT).types)
    assert ["wb", "wt", "uc-", "uc"] * 2 == types_of(Pat().types)
    assert "0x0007040600070406" == str(Pat(RESET_PAT))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0x0007_0406_0007_0402, "0x2 in field PA0, which is reserved"),
        (0x0307_0406_0007_0406, "0x3 in field PA7"),
        (0x0007_0406_0007_0806, "0x8 in field PA1"),
        (1 << 64, "does not fit in 64 bits"),
    ],
)
def test_a_value_that_wrmsr_refuses_is_refused(value, message):
    assert not is_pat(value)
    with pytest.raises(BadInput, match=message):
        Pat(value)


def test_a_page_is_mixed_where_its_parts_differ_and_undefined_where_mtrrs_contradict():
    ranges = (
        VariableRange(0x20_0000, KIB4, MemoryType.WC),
        VariableRange(0x40_1000, KIB4, MemoryType.WT),
        VariableRange(0x60_0000, KIB4, MemoryType.WC),
        VariableRange(0x60_0000, KIB4, MemoryType.WT),
    )
    types = MemoryTypes(Pat(LINUX_PAT), Mtrrs(default=MemoryType.WB, variable=ranges))
    large = [0, 0x20_0000, 0x40_0000, 0x60_0000]
    found = types.of_indices(
        np.array(large * 2, np.uint64),
        np.full(8, MIB2, np.uint64),
        np.repeat(np.array([0, 1], np.uint8), 4),  # WB, then WC
    )
    assert ["wb", "mixed", "mixed", "undefined"] == types_of(found[:4])
    assert ["wc", "wc", "wc", "undefined"] == types_of(found[4:])
    assert [0x20_0000, 0x20_1000, 0x40_1000, 0x40_2000, 0x60_0000, 0x60_1000] == (
        types.bounds.tolist()
    )


def test_of_a_page_the_stretches_that_it_reaches_count_and_no_others():
    ranges = (
        VariableRange(0x80_0000, 1 << 20, MemoryType.WB),
        VariableRange(0x90_0000, 1 << 20, MemoryType.WT),
    )
    types = MemoryTypes(Pat(LINUX_PAT), Mtrrs(variable=ranges))
    found = types.of_indices(
        np.full(2, 0x80_0000, np.uint64),
        np.full(2, MIB2, np.uint64),
        np.array([0, 7], np.uint8),  # WB, and WT, which is WT in both halves.
    )
    assert ["mixed", "wt"] == types_of(found)


def test_without_mtrrs_the_type_is_that_of_the_pages_own():
    types = MemoryTypes(Pat(LINUX_PAT))
    index = np.arange(8, dtype=np.uint8)
    found = types.of_indices(np.zeros(8, np.uint64), np.full(8, KIB4, np.uint64), index)
    assert types_of(Pat(LINUX_PAT).types) == types_of(found)
    assert 0 == len(types.bounds)


MTRRS = st.none() | st.builds(
    lambda default, variable, fixed: Mtrrs(
        default=default,
        variable=tuple(variable),
        fixed=tuple((at << 14, 1 << 14, kind) for at, kind in fixed),
    ),
    st.sampled_from(MTRR_TYPES),
    st.lists(
        st.builds(
            lambda bits, at, kind: VariableRange(at << bits & (1 << 33) - 1, 1 << bits, kind),
            st.integers(12, 32),
            st.integers(0, 15),
            st.sampled_from(MTRR_TYPES),
        ),
        max_size=4,
    ),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(MTRR_TYPES)),
        max_size=3,
        unique_by=lambda x: x[0],
    ),
)
PATS = st.lists(st.sampled_from((0, 1, 4, 5, 6, 7)), min_size=8, max_size=8).map(bytes)


def plain(mtrrs):
    """MTRRs as the naive twin has them."""
    if mtrrs is None:
        return None
    variable = [(it.base, it.size, it.type.text) for it in mtrrs.variable]
    return mtrrs.default.text, variable, [(at, size, it.text) for at, size, it in mtrrs.fixed]


def is_as_the_twin_has_it(tables, pat, mtrrs, disabled):
    """Whether each page has the type that the naive twin gives it."""
    switched = replace(tables.context, cr0=tables.context.cr0 | disabled << 30)
    value = int.from_bytes(pat, "little")
    expected = [
        naive_types.type_of_page(switched, value, plain(mtrrs), page)
        for page in naive.pages(replace(tables, context=switched))
    ]
    types = MemoryTypes.of(switched, Pat(value), mtrrs)
    found = [
        kind
        for some in pages(tables.memory, switched)
        for kind in types_of(types.of_pages(some.pa, some.size, some.level, some.flags))
    ]
    return expected == found


DRAWN = (extended_tables(), PATS, MTRRS, st.booleans())


@QUICK
@given(*DRAWN)
def test_types_are_those_of_the_naive_twin(tables, pat, mtrrs, disabled):
    assert is_as_the_twin_has_it(tables, pat, mtrrs, disabled)


def low_pat(level, flags):
    """`pat_indices` with a bug: PAT is taken from bit 7 of large pages, too."""
    return right_indices(np.ones_like(level), flags)


right_indices = memory_types.pat_indices


@staticmethod
def cached(context, pat, mtrrs):
    """`MemoryTypes.of` with a bug: CR0.CD is passed over."""
    return MemoryTypes(pat, mtrrs, context.vendor)


@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (memory_types, "pat_indices", low_pat),
        (Mtrrs, "type_at", lambda self, pa: self.default),
        (MemoryTypes, "of", cached),
    ],
    ids=["PAT of large pages", "ranges", "CD"],
)
def test_a_planted_bug_is_found(monkeypatch, target, name, bug):
    monkeypatch.setattr(target, name, bug)
    example = find(
        st.tuples(*DRAWN), lambda drawn: not is_as_the_twin_has_it(*drawn), settings=SEARCH
    )
    assert not is_as_the_twin_has_it(*example)
