from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker import Mapping, Range, Ranges, Rights, coalesce
from crosswalk.walker.mappings import coalesce_pages, joined_kinds
from crosswalk.walker.pages import pages_of
from tests.tables import KIB4, MIB2, OPEN, PAT_LARGE, PS, PWT, RW, SIZES, TOP, US, XD, A, D, G, P

RIGHTS = Rights(63)


def page(va, pa, flags=OPEN, *, level=1, rights=RIGHTS):
    return Mapping(va, pa, SIZES[level], level, flags, rights)


def folded(*pages, **options):
    return [(it.va, it.pa, it.size, it.flags, it.count) for it in coalesce(pages, **options)]


def apart(first, second, **options):
    """Whether two mappings stay two ranges, with nothing lost."""
    found = folded(first, second, **options)
    assert 2 == sum(it[4] for it in found)
    assert first.size + second.size == sum(it[2] for it in found)
    return len(found) == 2


FIRST = page(0x1000, 0x5000)


def test_neighbours_fold_into_one_range():
    pages = [page(0x1000 + at * KIB4, 0x5000 + at * KIB4) for at in range(5)]
    assert [Range(0x1000, 0x5000, 5 * KIB4, OPEN, RIGHTS, 5)] == list(coalesce(pages))


def test_nothing_folds_into_nothing_and_one_page_into_itself():
    assert [] == list(coalesce([]))
    assert [Range(0x1000, 0x5000, KIB4, OPEN, RIGHTS, 1)] == list(coalesce([FIRST]))


@pytest.mark.parametrize(
    ("va", "pa"),
    [(0x3000, 0x6000), (0x2000, 0x7000), (0x2000, 0x5000), (0x2000, 0x4000), (0x1000, 0x6000)],
    ids=["gap in va", "gap in pa", "the same pa", "pa going down", "the same va"],
)
def test_a_step_that_is_not_the_size_of_the_page_keeps_ranges_apart(va, pa):
    assert apart(FIRST, page(va, pa))


@pytest.mark.parametrize("flag", [RW, US, PWT, G, XD, 1 << 9, 1 << 52, 1 << 59])
def test_a_flag_that_differs_keeps_ranges_apart(flag):
    assert apart(FIRST, page(0x2000, 0x6000, OPEN ^ flag))


def test_rights_that_differ_keep_ranges_apart():
    assert apart(FIRST, page(0x2000, 0x6000, rights=Rights(62)))


@pytest.mark.parametrize("flags", [OPEN | A, OPEN | D, OPEN | A | D])
def test_accessed_and_dirty_count_only_if_asked_for(flags):
    second = page(0x2000, 0x6000, flags)

    assert not apart(FIRST, second)
    assert not apart(second, page(0x3000, 0x7000))
    assert apart(FIRST, second, ignore=0)


def test_other_flags_can_be_ignored_instead():
    assert not apart(FIRST, page(0x2000, 0x6000, OPEN | G), ignore=G)
    assert apart(FIRST, page(0x2000, 0x6000, OPEN | A), ignore=G)


def test_a_range_has_the_flags_of_its_first_page():
    pages = [page(0x1000, 0x5000, OPEN | A), page(0x2000, 0x6000, OPEN | D)]
    assert [(0x1000, 0x5000, 2 * KIB4, OPEN | A, 2)] == folded(*pages)


def test_pages_of_different_sizes_fold():
    small = page(MIB2 - KIB4, 3 * MIB2 - KIB4)
    large = page(MIB2, 3 * MIB2, OPEN | PS, level=2)
    after = page(2 * MIB2, 4 * MIB2)
    assert [(small.va, small.pa, MIB2 + 2 * KIB4, OPEN, 3)] == folded(small, large, after)


def test_pages_of_one_size_and_different_pat_do_not_fold():
    assert apart(FIRST, page(0x2000, 0x6000, OPEN | PS))
    large = page(0, 0, OPEN | PS, level=2)
    assert apart(large, page(MIB2, MIB2, OPEN | PS | PAT_LARGE, level=2))


def test_a_small_page_with_pat_does_not_fold_with_a_large_one_without():
    assert apart(page(MIB2 - KIB4, MIB2 - KIB4, OPEN | PS), page(MIB2, MIB2, OPEN | PS, level=2))


def test_pages_of_different_sizes_and_the_same_pat_fold():
    small = page(MIB2 - KIB4, MIB2 - KIB4, OPEN | PS)
    assert not apart(small, page(MIB2, MIB2, OPEN | PS | PAT_LARGE, level=2))


def test_the_two_halves_of_the_address_space_do_not_fold():
    last_low = page(0x7FFF_FFFF_F000, 0x5000)
    assert apart(last_low, page(0xFFFF_8000_0000_0000, 0x6000))
    assert [(TOP - KIB4, 0x5000, KIB4, OPEN, 1)] == folded(page(TOP - KIB4, 0x5000))


PAGES = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, KIB4)),
        st.sampled_from((0, 0, 0, KIB4)),
        st.sampled_from((P, P, P | A, P | D, P | G)),
        st.sampled_from((1, 1, 1, 2)),
        st.sampled_from((1, 1, 3)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(PAGES)
def test_ranges_cover_the_same_bytes_and_cannot_fold_further(choices):
    pages, va, pa = [], 0x1000, 0x9000
    for hole, jump, flags, level, rights in choices:
        raw = flags | (PS if level == 2 else 0)
        pages.append(page(va + hole, pa + jump, raw, level=level, rights=Rights(rights)))
        va, pa = pages[-1].va + SIZES[level], pages[-1].pa + SIZES[level]
    ranges = list(coalesce(pages))

    assert sum(it.size for it in pages) == sum(it.size for it in ranges)
    assert len(pages) == sum(it.count for it in ranges)
    rest = iter(pages)
    for it in ranges:
        va, pa = it.va, it.pa
        for _ in range(it.count):
            one = next(rest)
            assert (va, pa, it.rights) == (one.va, one.pa, one.rights)
            assert 0 == (it.flags ^ one.flags) & ~(A | D | PS)
            va, pa = va + one.size, pa + one.size
        assert it.va + it.size == va
    for before, after in pairwise(ranges):
        assert (
            before.va + before.size != after.va
            or before.pa + before.size != after.pa
            or before.rights != after.rights
            or (before.flags ^ after.flags) & ~(A | D | PS)
        )


def test_joined_kinds_are_alike_where_both_are():
    rows = next(pages_of([page(at << 12, 0) for at in range(4)]))
    ones, others = np.array([0, 0, 1, 1], np.uint8), np.array([0, 255, 255, 0], np.uint8)
    found = joined_kinds(lambda _: ones, lambda _: others)(rows)
    assert 4 == len(set(found.tolist()))
    assert ones.tolist() == joined_kinds(None, lambda _: ones)(rows).tolist()
    assert [0] * 4 == joined_kinds(None, None)(rows).tolist()


@pytest.mark.parametrize(
    ("start", "counts", "shifts"),
    [(0, [3], [21]), (MIB2, [1, 2], [21, 12]), (MIB2 + KIB4, [2, 1], [21, 12])],
)
def test_pages_of_another_kind_keep_ranges_apart(start, counts, shifts):
    pages = [page(0, 0, level=2), page(MIB2, MIB2), page(MIB2 + KIB4, MIB2 + KIB4)]
    blocks = [*pages_of(pages[:1]), *pages_of(pages[1:])]
    found = Ranges.join(coalesce_pages(blocks, kind=lambda rows: (rows.va >= start).view(np.uint8)))
    assert counts == found.count.tolist()
    assert shifts == found.shift.tolist()
