"""`NestedTables` on cases made by hand, by the manual's values."""

import numpy as np
import pytest

from crosswalk.walker import BadInput, CrosswalkError
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.nested import MemoryFull, NestedTables
from crosswalk.walker.protection import Permission
from crosswalk.walker.protection.policy import Use
from tests.tables import GIB1, KIB4, MIB2, OPEN, PS, RW, US, XD, A, D, P
from tests.walker.nested.nested_memory import (
    EPT,
    EPT_MBEC,
    GRANTS,
    NONE,
    NPT,
    PA,
    READ_EXECUTE,
    READ_WRITE,
    RWX,
    R,
    ept_leaves,
    leaves,
    pool,
)


def test_entries_are_those_of_the_manual():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, KIB4, R)
    tables.set(KIB4, KIB4, READ_WRITE)
    tables.set(2 * KIB4, KIB4, READ_EXECUTE)
    tables.set(3 * KIB4, KIB4, RWX)
    tables.set(MIB2, MIB2, READ_EXECUTE)

    assert PA == tables.root
    # PML4, PDPT, PD and PT, taken in this order.
    assert [PA + at * KIB4 | OPEN for at in (1, 2, 3)] == [int(words[512 * at]) for at in range(3)]
    assert MIB2 | P | US | PS == words[2 * 512 + 1]
    expected = [P | US | XD, P | RW | US | XD, P | US, OPEN, 0]
    pages = [at * KIB4 if flags else 0 for at, flags in enumerate(expected)]
    assert [page | flags for page, flags in zip(pages, expected, strict=True)] == [
        int(word) for word in words[3 * 512 : 3 * 512 + 5]
    ]


@pytest.mark.parametrize(
    ("offset", "page1gb", "sizes"),
    [
        (0, False, [MIB2] * 1024),
        (0, True, [GIB1] * 2),
        (MIB2, True, [MIB2] * 1024),
        (GIB1, True, [GIB1] * 2),
        (KIB4, True, [KIB4] * (2 << 18)),
    ],
)
def test_pages_are_the_largest_that_addresses_allow(offset, page1gb, sizes):
    words = pool(1100)
    NestedTables(words, PA, offset=offset, page1gb=page1gb).set(0, 2 * GIB1, RWX)
    assert sizes == [size for _, size, _, _ in leaves(words)]


def test_a_split_and_a_merge_leave_the_same_words_and_tables():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, 8 * MIB2, RWX)
    before = words.copy()
    assert 3 == tables.tables
    tables.set(3 * MIB2 + KIB4, KIB4, R)
    assert (4, 514) == (tables.tables, np.count_nonzero(words != before) + 1)
    tables.set(3 * MIB2 + KIB4, KIB4, RWX)
    assert 3 == tables.tables
    assert (before == words).all()


def test_unmapping_everything_leaves_an_empty_root():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(MIB2 - KIB4, MIB2, RWX)
    tables.set(0, GIB1, NONE)
    assert (1, 0, []) == (tables.tables, np.count_nonzero(words), list(tables.ranges()))


def test_what_is_granted_already_touches_nothing():
    tables = NestedTables(pool(8), PA)
    tables.set(0, 8 * MIB2, RWX)
    tables.set(MIB2 + KIB4, KIB4, RWX)
    assert () == tables.touched
    assert 3 == tables.tables


def test_used_presets_accessed_and_dirty():
    words = pool(8)
    NestedTables(words, PA, used=True).set(0, MIB2 + KIB4, R)
    assert [True] * 2 == [bool(int(words[at]) & (A | D) == A) for at in (0, 512)]
    assert P | US | XD | PS | A | D == words[1024]
    assert MIB2 | P | US | XD | A | D == words[1536]


def test_accessed_and_dirty_survive_what_does_not_concern_them():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, 2 * MIB2, RWX)
    words[1024] |= A | D
    tables.set(KIB4, KIB4, R)
    split = int(words[1024]) - PA & ~0xFFF
    first = split // 8
    assert [OPEN | A | D, KIB4 | P | US | XD] == [int(word) for word in words[first : first + 2]]
    tables.set(KIB4, KIB4, RWX)
    assert OPEN | PS | A | D == words[1024]
    assert MIB2 | OPEN | PS == words[1025]


def thirds(region):
    """A region that takes a table of its own, and one that doesn't."""
    start = region * 4 * MIB2
    return [(start, KIB4, R), (start + MIB2, MIB2, RWX)]


@pytest.mark.parametrize("tables", range(1, 9))
def test_where_no_table_is_left_nothing_has_changed(tables):
    words = pool(tables)
    nested = NestedTables(words, PA)
    # Three tables for the first, and one more for each region of 2 MiB that is split.
    done = 0
    while tables > done + 3:
        nested.update(thirds(done))
        done += 1
    before, ranges = words.copy(), list(nested.ranges())
    with pytest.raises(MemoryFull, match=f"all {tables} nested tables are in use"):
        nested.update(thirds(done))
    assert (before == words).all()
    assert ranges == list(nested.ranges())
    assert () == nested.touched
    assert issubclass(MemoryFull, CrosswalkError)
    # And it goes on as if nothing had been asked.
    if done:
        nested.set(0, KIB4, NONE)
        assert [(MIB2, MIB2, RWX)] == list(nested.ranges())[:1]


def test_a_table_taken_before_memory_was_full_is_free_again():
    words = pool(4)
    tables = NestedTables(words, PA)
    tables.set(0, 4 * MIB2, RWX)
    before = words.copy()
    with pytest.raises(MemoryFull):
        tables.update([(0, KIB4, R), (MIB2, KIB4, R)])
    assert 3 == tables.tables
    assert (before == words).all()
    tables.set(MIB2, KIB4, R)
    assert 4 == tables.tables


def test_the_lowest_free_table_is_taken_first():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, 4 * MIB2, RWX)
    for region in range(4):
        tables.set(region * MIB2, KIB4, R)
    for region in (3, 2, 0):
        tables.set(region * MIB2, KIB4, RWX)
    tables.set(2 * MIB2, KIB4, R)
    tables.set(0, KIB4, R)
    assert [PA + 5 * KIB4, PA + 4 * KIB4, PA + 3 * KIB4] == [
        int(words[1024 + region]) & ~0xFFF for region in (0, 1, 2)
    ]


def test_an_entry_without_user_access_is_read_back_as_no_permission():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, 3 * MIB2, RWX)
    words[1025] &= ~np.uint64(US)
    assert [(0, MIB2, RWX), (2 * MIB2, MIB2, RWX)] == list(tables.ranges())


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(1, KIB4, R)], "no guest-physical frames"),
        ([(0, KIB4 + 1, R)], "no guest-physical frames"),
        ([(0, 0, R)], "no guest-physical frames"),
        ([(-KIB4, KIB4, R)], "no guest-physical frames"),
        ([((1 << 48) - KIB4, 2 * KIB4, R)], "no guest-physical frames"),
        ([(0, KIB4, Permission.WRITE)], "can't grant -w- at 0x0"),
        ([(0, KIB4, Permission.EXECUTE)], "can't grant --x at 0x0"),
        ([(0, 2 * KIB4, R), (KIB4, KIB4, R)], "overlap or don't ascend at 0x1000"),
        ([(KIB4, KIB4, R), (0, KIB4, R)], "overlap or don't ascend at 0x0"),
    ],
)
def test_what_cannot_be_said_is_refused_and_changes_nothing(ranges, message):
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set(0, MIB2, RWX)
    before = words.copy()
    with pytest.raises(BadInput, match=message):
        tables.update(ranges)
    assert (before == words).all()


def test_a_negative_offset_maps_only_what_it_can():
    words = pool(8)
    tables = NestedTables(words, PA, offset=-16 * KIB4)
    tables.set(16 * KIB4, KIB4, R)
    assert [(16 * KIB4, KIB4, 0, R)] == leaves(words)
    with pytest.raises(BadInput, match="no system-physical frames"):
        tables.set(15 * KIB4, KIB4, R)


@pytest.mark.parametrize(
    ("size", "pa", "options", "message"),
    [
        (0, PA, {}, "no whole frames"),
        (513, PA, {}, "no whole frames"),
        (512, PA + 8, {}, "not a multiple of 4096"),
        (512, 1 << 52, {}, "end past 2\\^52"),
        (1024, (1 << 52) - 4096, {}, "end past 2\\^52"),
        (512, PA, {"offset": 8}, "not a multiple"),
        (512, PA, {"levels": 3}, "4 or 5 levels, not 3"),
    ],
)
def test_memory_that_holds_no_tables_is_refused(size, pa, options, message):
    with pytest.raises(BadInput, match=message):
        NestedTables(np.zeros(size, np.uint64), pa, **options)


@pytest.mark.parametrize(
    "words", [pool(2)[::2], pool(1).astype(np.int64), np.broadcast_to(np.uint64(0), 512)]
)
def test_words_that_would_be_written_elsewhere_are_refused(words):
    with pytest.raises(BadInput, match="contiguous words of 8 bytes"):
        NestedTables(words, PA)


def test_the_last_guest_physical_page_is_mapped():
    words = pool(8)
    tables = NestedTables(words, PA)
    tables.set((1 << 48) - KIB4, KIB4, READ_EXECUTE)
    assert [((1 << 48) - KIB4, KIB4, READ_EXECUTE)] == list(tables.ranges())


@pytest.mark.parametrize("kind", [EPT, EPT_MBEC])
def test_entries_of_ept_are_those_of_the_manual(kind):
    words = pool(8)
    tables = NestedTables(words, PA, kind=kind, page1gb=True)
    rights = type(GRANTS[kind][0])
    for at, each in enumerate(GRANTS[kind]):
        tables.set(at * KIB4, KIB4, each)
    tables.set(MIB2, MIB2, rights(5), MemoryType.UC)
    tables.set(GIB1, GIB1, rights(1))

    table = 0x407 if kind is EPT_MBEC else 7
    assert [PA + at * KIB4 | table for at in (1, 2, 3)] == [int(words[512 * at]) for at in range(3)]
    # Bit 7 makes a page of it; bits 5:3 are 6, write-back, or 0, uncacheable.
    assert MIB2 | 0x85 == words[2 * 512 + 1]
    assert GIB1 | 0xB1 == words[512 + 1]
    flags = [each & 7 | 0x30 | (0x400 if each & 8 else 0) if each else 0 for each in GRANTS[kind]]
    pages = [at * KIB4 | each if each else 0 for at, each in enumerate(flags)]
    assert pages == [int(word) for word in words[3 * 512 : 3 * 512 + len(pages)]]


def test_the_eptp_names_root_levels_and_the_type_of_the_tables_memory():
    # Bits 2:0 are 6, write-back; bits 5:3 the levels less one; bit 6 enables A and D.
    assert PA | 0x1E == NestedTables(pool(1), PA, kind=EPT).eptp()
    assert PA | 0x66 == NestedTables(pool(1), PA, kind=EPT, levels=5).eptp(accessed_dirty=True)
    with pytest.raises(BadInput, match="no EPTP"):
        NestedTables(pool(1), PA).eptp()


def test_accessed_and_dirty_of_ept_are_preset_and_survive():
    words = pool(8)
    tables = NestedTables(words, PA, kind=EPT, used=True)
    tables.set(0, 2 * MIB2, RWX)
    tables.set(KIB4, KIB4, R)
    # A is bit 8, D bit 9; bit 6 ignores the PAT, bit 5 is part of the type: neither is theirs.
    assert PA + 3 * KIB4 | 0x107 == words[1024]
    assert [0x337, KIB4 | 0x331] == [int(word) for word in words[1536:1538]]
    assert MIB2 | 0x3B7 == words[1025]


def test_memory_types_split_a_page_and_are_read_back():
    words = pool(8)
    tables = NestedTables(words, PA, kind=EPT)
    tables.set(0, 2 * MIB2, RWX)
    tables.set(KIB4, KIB4, RWX, MemoryType.UC)
    assert [(0, 2 * MIB2, RWX)] == list(tables.ranges())
    assert [
        (0, KIB4, RWX, MemoryType.WB),
        (KIB4, KIB4, RWX, MemoryType.UC),
        (2 * KIB4, 2 * MIB2 - 2 * KIB4, RWX, MemoryType.WB),
    ] == list(tables.typed_ranges())
    types = [(size, memory_type) for _, size, _, _, memory_type in ept_leaves(words, mbec=False)]
    assert [(KIB4, 6), (KIB4, 0), *[(KIB4, 6)] * 510, (MIB2, 6)] == types
    tables.set(KIB4, KIB4, RWX)
    assert 3 == tables.tables


@pytest.mark.parametrize(
    ("kind", "options", "permission", "memory_type", "message"),
    [
        (EPT, {}, Permission.WRITE, None, "can't grant -w- at 0x0: what can be written can be"),
        (EPT, {"execute_only": False}, Permission.EXECUTE, None, "grant --x at 0x0: .* or exec"),
        (EPT, {}, Use.USER_EXECUTE, None, "can't grant"),
        (EPT_MBEC, {}, Use.WRITE | Use.USER_EXECUTE, None, "grant write, user execute at 0x0"),
        (EPT_MBEC, {"execute_only": False}, Use.USER_EXECUTE, None, "grant user execute at 0x0"),
        (EPT_MBEC, {}, R, None, "are granted a Use, not a Permission"),
        (EPT, {}, R, MemoryType.UC_MINUS, "ept tables have no memory type uc-"),
        (NPT, {}, R, MemoryType.WB, "npt tables have no memory type wb"),
    ],
)
def test_what_a_kind_of_table_cannot_say_is_refused(
    kind, options, permission, memory_type, message
):
    words = pool(8)
    tables = NestedTables(words, PA, kind=kind, **options)
    with pytest.raises(BadInput, match=message):
        tables.set(0, KIB4, permission, memory_type)
    assert 0 == np.count_nonzero(words)


@pytest.mark.parametrize(
    ("kind", "execute_only", "entry"),
    [
        (EPT, True, 0x32),
        (EPT, False, 0x34),
        (EPT_MBEC, True, 0x432),
        (EPT_MBEC, False, 0x430),
        (EPT, True, 0x400),
        (EPT, True, 0x17),
        (EPT, True, 0x3F),
    ],
)
def test_an_entry_that_is_misconfigured_or_not_present_is_read_back_as_no_permission(
    kind, execute_only, entry
):
    words = pool(8)
    tables = NestedTables(words, PA, kind=kind, execute_only=execute_only)
    rights = type(GRANTS[kind][0])
    tables.set(0, 3 * KIB4, rights(7))
    words[3 * 512 + 1] = KIB4 | entry
    assert [(0, KIB4, rights(7)), (2 * KIB4, KIB4, rights(7))] == list(tables.ranges())


def test_a_page_of_1_gib_is_split_where_it_begins():
    words = pool(8)
    tables = NestedTables(words, PA, page1gb=True)
    tables.set(0, GIB1, RWX)
    tables.set(5 * MIB2, KIB4, R)
    assert [] == [gpa for gpa, _, pa, _ in leaves(words) if gpa != pa]
