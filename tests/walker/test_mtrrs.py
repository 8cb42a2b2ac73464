import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker import BadInput
from crosswalk.walker.mtrrs import (
    FIXED_RANGES,
    MTRR_TYPES,
    MemoryType,
    Mtrrs,
    VariableRange,
    mtrrs_of_msrs,
)
from tests.walker import naive_types

UC, WC, WT, WP, WB = MTRR_TYPES
GIB, MIB = 1 << 30, 1 << 20
FIXED = dict.fromkeys(FIXED_RANGES, 434041037028460038)


def test_types_have_the_names_that_people_use():
    names = ["uc", "wc", "wt", "wp", "wb", "uc-", "cd", "wc+", "mixed", "undefined"]
    assert names == [kind.text for kind in MemoryType]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((), UC),
        ((WB,), WB),
        ((WB, WB), WB),
        ((WB, UC), UC),
        ((WC, WP, UC), UC),
        ((WT, WB), WT),
        ((WB, WT, WB), WT),
        ((WC, WB), MemoryType.UNDEFINED),
        ((WP, WB), MemoryType.UNDEFINED),
        ((WT, WP), MemoryType.UNDEFINED),
        ((WT, WB, WC), MemoryType.UNDEFINED),
    ],
)
def test_overlapping_ranges_have_the_type_of_the_precedences(kinds, expected):
    mtrrs = Mtrrs(variable=tuple(VariableRange(0, GIB, kind) for kind in kinds))
    assert expected is mtrrs.type_at(GIB - 1)
    assert UC is mtrrs.type_at(GIB)


def test_a_fixed_range_goes_before_variable_ones_and_before_the_default():
    variable = (VariableRange(0, MIB, UC),)
    mtrrs = Mtrrs(default=WB, variable=variable, fixed=((0xA0000, 0x4000, WC),))
    assert [UC, WC, UC, WB] == [mtrrs.type_at(pa) for pa in (0x9FFFF, 0xA3FFF, 0xA4000, MIB)]
    starts, types = mtrrs.stretches()
    assert [0, 0xA0000, 0xA4000, MIB] == starts.tolist()
    assert [UC, WC, UC, WB] == types.tolist()


RANGES = st.builds(
    lambda bits, at, kind: VariableRange(at << bits & (1 << 34) - 1, 1 << bits, kind),
    st.integers(12, 33),
    st.integers(0, 255),
    st.sampled_from(MTRR_TYPES),
)


@given(st.sampled_from(MTRR_TYPES), st.lists(RANGES, max_size=6))
def test_stretches_are_what_each_byte_says_alone_and_as_long_as_can_be(default, ranges):
    mtrrs = Mtrrs(default=default, variable=tuple(ranges))
    starts, types = mtrrs.stretches()
    plain = (default.text, [(it.base, it.size, it.type.text) for it in ranges], [])
    for pa in {0, *(at for it in ranges for at in (it.base, it.base + it.size - 1, it.base ^ 1))}:
        row = np.searchsorted(starts, np.uint64(pa), "right") - 1
        assert naive_types.mtrr_type(plain, pa) == MemoryType(types[row]).text
    assert np.diff(types.astype(int)).all()


@pytest.mark.parametrize(
    ("base", "size", "message"),
    [
        (0x1000, 0x3000, "power of two"),
        (0x1000, 0x2000, "aligned to its size"),
        (0, 0x800, "at least 4K"),
        (1 << 52, 0x1000, "ends beyond 52 bits"),
    ],
)
def test_a_range_that_no_mtrr_can_have_is_refused(base, size, message):
    with pytest.raises(BadInput, match=message):
        VariableRange(base, size, WB)


def test_no_mtrr_has_a_type_of_pat_alone_and_there_are_not_many():
    with pytest.raises(BadInput, match="no MTRR has this type"):
        VariableRange(0, GIB, MemoryType.UC_MINUS)
    with pytest.raises(BadInput, match="89 fixed MTRR ranges; there are 88"):
        Mtrrs(fixed=tuple((at, 1, WB) for at in range(89)))
    with pytest.raises(BadInput, match="257 MTRRs; at most 256"):
        Mtrrs(variable=(VariableRange(0, GIB, WB),) * 257)


def test_above_4_gib_what_no_range_covers_is_write_back_up_to_top_mem2():
    mtrrs = Mtrrs(variable=(VariableRange(5 * GIB, GIB, WC),), tom2=7 * GIB)
    kinds = [mtrrs.type_at(at * GIB) for at in (3, 4, 5, 6, 7)]
    assert [UC, WB, WC, WB, UC] == kinds
    starts, types = mtrrs.stretches()
    assert [0, 4 * GIB, 5 * GIB, 6 * GIB, 7 * GIB] == starts.tolist()
    assert [UC, WB, WC, WB, UC] == types.tolist()
    assert [UC] == Mtrrs(tom2=2 * GIB).stretches()[1].tolist()


def test_msrs_say_the_default_the_fixed_and_the_variable_ranges():
    values = {
        0x2FF: 0xC06,
        0x200: 0xC000_0000,
        0x201: 0x7F_C000_0800,
        0x202: 0x1_0000_0001,
        0x203: 0x7F_F000_0000,
        **FIXED,
        0x259: 0x0000000000000105,
    }
    mtrrs = mtrrs_of_msrs(values)
    assert WB is mtrrs.default
    assert (VariableRange(0xC000_0000, GIB, UC),) == mtrrs.variable
    places = [WB, WP, WC, UC, UC, WB]
    assert places == [
        mtrrs.type_at(pa) for pa in (0x9FFFF, 0xA0000, 0xA4000, 0xA8000, 0xBFFFF, 0xC0000)
    ]
    assert [0, 0x9C000, 0xFF000] == [mtrrs.fixed[at][0] for at in (0, 15, 87)]


def test_without_their_enable_bits_registers_count_for_nothing():
    assert UC is mtrrs_of_msrs({0x2FF: 0x406, **FIXED}).type_at(0)
    assert [0] == mtrrs_of_msrs({0x2FF: 0x6}).stretches()[0].tolist()
    assert () == mtrrs_of_msrs({0x2FF: 0x806, **FIXED}).fixed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({0x200: 6}, "0x2ff .IA32_MTRR_DEF_TYPE. is not given"),
        ({0x2FF: 0x807}, "MSR 0x2ff has memory type 0x7, which is reserved"),
        ({0x2FF: 0xC06}, "fixed ranges are enabled, and MSR 0x250 is not given"),
        ({0x2FF: 0xC06, **FIXED, 0x258: 3 << 56}, "MSR 0x258 has memory type 0x3"),
        ({0x2FF: 0x806, 0x277: 0}, "MSR 0x277 is none of theirs"),
        ({0x2FF: 0x806, 0x200: 6}, "MSR 0x201, the other half of a pair, is not given"),
        ({0x2FF: 0x806, 0x203: 0}, "MSR 0x202, the other half of a pair, is not given"),
        ({0x2FF: 0x806, 0x200: 2, 0x201: 0xF_F000_0800}, "memory type 0x2"),
        ({0x2FF: 0x806, 0x200: 6, 0x201: 0xF_0F00_0800}, "of no contiguous range"),
        ({0x2FF: 0x806, 0x200: 6, 0x201: 0x800}, "of no contiguous range"),
    ],
)
def test_values_that_are_no_mtrrs_are_refused(values, message):
    with pytest.raises(BadInput, match=message):
        mtrrs_of_msrs(values)
