"""Permissions of frames, and nested tables that grant them."""

import numpy as np
import pytest

from crosswalk.emu.protect.permissions import (
    ALL,
    READ_WRITE,
    FrameTables,
    as_listed,
    collective_permissions,
    everything,
    executes,
    grant_text,
    stretches,
)
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.tables import MemoryFull, NestedTables
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use
from crosswalk.walker.rights import Rights

FRAMES = 2048
START = 1 << 33
WRITE, EXECUTE = Permission.WRITE, Permission.EXECUTE


@pytest.fixture
def tables():
    return FrameTables(np.zeros(16 * 512, np.uint64), START, FRAMES)


def test_the_permissions_of_ranges_are_those_of_their_frames():
    frames = Frames(
        np.array([0x1000, 0x3000, 0x4000], np.uint64),
        np.array([0x1000, 0x1000, 0x2000], np.uint64),
        np.array([Rights.SUPERVISOR_READ, Rights.USER_READ | Rights.USER_WRITE, 0b101], np.uint8),
    )
    assert [3, 1, 3, 3, 5, 5] == collective_permissions(frames, 6).tolist()
    unmapped = collective_permissions(frames, 6, unmapped=Permission(0))
    assert [0, 1, 0, 3, 5, 5] == unmapped.tolist()


def test_stretches_are_cut_where_values_change():
    values = np.zeros(8, np.uint8)
    values[2:4] = 3
    inside = [(FRAME, FRAME, 0), (2 * FRAME, 2 * FRAME, 3), (4 * FRAME, FRAME, 0)]
    assert inside == list(stretches(values, [(FRAME, 4 * FRAME)]))
    everywhere = [(0, 2 * FRAME, 0), (2 * FRAME, 2 * FRAME, 3), (4 * FRAME, 4 * FRAME, 0)]
    assert everywhere == list(stretches(values))


def test_all_of_ram_is_granted_at_first(tables):
    assert (tables.granted == ALL).all()
    assert (tables.read_back() == ALL).all()


def test_what_was_granted_is_read_back_after_single_changes_too(tables):
    random = np.random.default_rng(7)
    for _ in range(3):
        permissions = random.choice(np.array([1, 3, 5, 7], np.uint8), FRAMES)
        tables.grant(permissions)
        for frame in random.integers(0, FRAMES, 20).tolist():
            if permissions[frame] & WRITE:
                tables.withhold(frame, WRITE)
            else:
                tables.allow(frame, WRITE)
            permissions[frame] ^= WRITE
            tables.allow(frame, EXECUTE)
            permissions[frame] |= EXECUTE
        assert (permissions == tables.read_back()).all()
        assert (permissions == tables.granted).all()


def test_ranges_are_granted_and_others_left(tables):
    permissions = np.full(FRAMES, READ_WRITE, np.uint8)
    tables.grant(permissions, [(FRAME, 2 * FRAME)])
    assert [7, 3, 3, 7] == tables.read_back()[:4].tolist()
    assert (tables.granted == tables.read_back()).all()


def test_what_the_tables_cannot_hold_changes_nothing():
    tables = FrameTables(np.zeros(3 * 512, np.uint64), START, FRAMES)
    permissions = np.full(FRAMES, ALL, np.uint8)
    permissions[5], permissions[1000] = READ_WRITE, READ_WRITE
    with pytest.raises(MemoryFull):
        tables.grant(permissions)
    assert (tables.granted == ALL).all()
    assert (tables.read_back() == ALL).all()


def test_a_stretch_that_is_alike_takes_large_pages(tables):
    few = tables.tables
    tables.withhold(5, WRITE)
    assert few + 1 == tables.tables
    tables.allow(5, WRITE)
    assert few == tables.tables


def test_what_lies_beyond_ram_is_not_read_back(tables):
    tables.set(FRAMES * FRAME, 1 << 30, READ_WRITE)
    assert (tables.read_back() == ALL).all()
    (_, device) = tables.ranges()
    assert (FRAMES * FRAME, 1 << 30, READ_WRITE) == device


def test_an_entry_lost_shows(monkeypatch, tables):
    monkeypatch.setattr(NestedTables, "set", lambda *_: None)
    tables.withhold(3, WRITE)
    assert tables.read_back()[3] != tables.granted[3]


def test_a_grant_is_shown_with_who_may_execute():
    shown = [grant_text(TableKind.EPT_MBEC, value) for value in (0, 1, 3, 5, 9, 13, 11, 15)]
    assert ["---", "r--", "rw-", "r-s", "r-u", "r-x", "rwu", "rwx"] == shown
    assert ["r--", "rwx"] == [grant_text(TableKind.EPT, value) for value in (1, 7)]


def test_a_page_list_has_one_right_to_execute():
    granted = np.array([0, 1, 3, 5, 9, 13, 11], np.uint8)
    assert [0, 1, 3, 5, 5, 5, 7] == as_listed(granted).tolist()
    assert (4, 4, 12) == tuple(executes(kind) for kind in TableKind)
    assert (7, 7, 15) == tuple(everything(kind) for kind in TableKind)


def test_collective_permissions_keep_who_executes_where_a_table_can():
    rights = [Rights.SUPERVISOR_EXECUTE | Rights.SUPERVISOR_READ, Rights.USER_EXECUTE | 1, 0b101]
    frames = Frames(
        np.arange(3, dtype=np.uint64) * np.uint64(FRAME),
        np.full(3, FRAME, np.uint64),
        np.array(rights, np.uint8),
    )
    found = {kind: collective_permissions(frames, 3, kind=kind)[:2].tolist() for kind in TableKind}
    assert {TableKind.NPT: [5, 5], TableKind.EPT: [5, 5], TableKind.EPT_MBEC: [5, 9]} == found


def test_a_right_is_withheld_alone_whichever_class_names_it():
    """The complement of a `Permission` has no bit for execution by users."""
    tables = FrameTables(np.zeros(16 * 512, np.uint64), START, FRAMES, kind=TableKind.EPT_MBEC)
    tables.withhold(3, WRITE)
    assert (0b1101, 0b1111) == tuple(tables.read_back()[3:5])


def test_tables_built_afresh_are_of_the_same_kind_and_place():
    words = np.zeros(16 * 512, np.uint64)
    tables = FrameTables(words, START, FRAMES, kind=TableKind.EPT_MBEC, offset=1 << 28)
    tables.allow(3, 0)
    tables.withhold(3, Use.SUPERVISOR_EXECUTE)
    fresh = tables.afresh(tables.granted)
    assert (fresh.words == words).all()
    assert 0x1000_3000 == int(words[words & np.uint64(0xFFF) == 0x433][0]) & ~0xFFF
    assert Use(15) & ~Use.SUPERVISOR_EXECUTE == fresh.read_back()[3]
