"""The entries of each kind of table, bit by bit, against the manuals' layouts."""

import numpy as np
import pytest

from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.nested.formats import table_format
from crosswalk.walker.protection import Permission
from crosswalk.walker.protection.policy import Use
from tests.tables import GIB1, OPEN, PS, RW, US, XD, A, D, P
from tests.walker.nested.nested_memory import EPT, EPT_MBEC, NPT

XU = 1 << 10
TYPES = (0, 1, 4, 5, 6)
FORMATS = pytest.mark.parametrize(
    ("kind", "execute_only"),
    [(NPT, True), (EPT, True), (EPT, False), (EPT_MBEC, True), (EPT_MBEC, False)],
)


def granted(kind, execute_only, rights):
    """Whether a kind of table can grant these rights: R 1, W 2, X 4, XU 8."""
    if rights >= (16 if kind is EPT_MBEC else 8):
        return False
    read, write, execute = rights & 1, rights & 2, rights & 12
    if kind is NPT:
        return bool(read) or not rights
    return bool(read) or not (write or (execute and not execute_only))


@FORMATS
@pytest.mark.parametrize("rights", range(17))
def test_what_can_be_granted_is_what_the_manuals_allow(kind, execute_only, rights):
    form = table_format(kind, execute_only=execute_only)
    assert granted(kind, execute_only, rights) == form.can_grant(rights)


def ept_entry(rights, memory_type):
    return rights & 7 | memory_type << 3 | (XU if rights & 8 else 0) if rights else 0


def npt_entry(rights):
    flags = P | US | (RW if rights & 2 else 0) | (0 if rights & 4 else XD)
    return flags if rights else 0


@FORMATS
def test_leaves_have_just_these_bits(kind, execute_only):
    form = table_format(kind, execute_only=execute_only)
    cases = [
        (rights, memory_type)
        for rights in range(16 if kind is EPT_MBEC else 8)
        for memory_type in ((0,) if kind is NPT else TYPES)
        if granted(kind, execute_only, rights)
    ]
    grants = np.array([rights | kind_ << 4 for rights, kind_ in cases], np.uint8)
    pa = np.arange(len(cases), dtype=np.uint64) * np.uint64(GIB1)
    for level, large in ((1, 0), (2, PS), (3, PS)):
        expected = [
            GIB1 * at | entry | large if entry else 0
            for at, entry in enumerate(
                npt_entry(rights) if kind is NPT else ept_entry(rights, type_)
                for rights, type_ in cases
            )
        ]
        assert expected == form.leaves(pa, level, grants).tolist()


def npt_read(entry):
    if not (entry & P and entry & US):
        return 0
    return 1 | (2 if entry & RW else 0) | (0 if entry & XD else 4)


def ept_read(kind, execute_only, entry):
    rights = entry & 7 | (8 if entry & XU and kind is EPT_MBEC else 0)
    memory_type = entry >> 3 & 7
    if not rights or not granted(kind, execute_only, rights) or memory_type not in TYPES:
        return 0
    return rights | memory_type << 4


@FORMATS
@pytest.mark.parametrize("others", [0, A | D, 0x300, 0xF_FFFF_FFFF_F000, 1 << 11 | 1 << 60])
def test_any_entry_is_read_back_as_the_manuals_have_it(kind, execute_only, others):
    form = table_format(kind, execute_only=execute_only)
    low = range(0x80) if kind is not NPT else range(8)
    entries = [bits | other for bits in low for other in (0, XU, XD, XU | XD, PS)]
    entries = [entry | others for entry in entries]
    expected = [
        npt_read(entry) if kind is NPT else ept_read(kind, execute_only, entry) for entry in entries
    ]
    assert expected == form.grants_of(np.array(entries, np.uint64)).tolist()


@FORMATS
def test_an_entry_refers_to_a_table_where_it_is_present_and_no_page(kind, execute_only):
    form = table_format(kind, execute_only=execute_only)
    entries = [bits | other for bits in range(16) for other in (0, XU, PS, XU | PS)]
    present = {NPT: P, EPT: 7, EPT_MBEC: 7 | XU}[kind]
    expected = [bool(entry & present) and not entry & PS for entry in entries]
    words = np.array(entries, np.uint64)
    assert expected == form.is_table(words, 2).tolist() == form.is_table(words, 4).tolist()
    assert [False] * len(entries) == form.is_table(words, 1).tolist()


@pytest.mark.parametrize(
    ("kind", "rights", "everything", "table", "marks"),
    [
        (NPT, Permission, 7, OPEN, (A, D)),
        (EPT, Permission, 7, 7, (1 << 8, 1 << 9)),
        (EPT_MBEC, Use, 15, 7 | XU, (1 << 8, 1 << 9)),
    ],
)
def test_a_table_withholds_nothing_and_has_the_formats_own_marks(
    kind, rights, everything, table, marks
):
    form = table_format(kind)
    assert (rights, everything, table) == (form.rights, form.everything, form.table)
    assert marks == (form.accessed, form.dirty)
    assert {kind_.value for kind_ in form.types} == (set() if kind is NPT else set(TYPES))
    assert all(isinstance(each, MemoryType) for each in form.types)


def test_rights_are_put_into_words():
    assert ["---", "r-x"] == [table_format(EPT).text(rights) for rights in (0, 5)]
    words = [table_format(EPT_MBEC).text(rights) for rights in (0, 9)]
    assert ["none", "read, user execute"] == words


def test_the_rule_names_what_has_to_be_readable():
    rules = [table_format(EPT, execute_only=each).rule for each in (True, False)]
    assert ["what can be written can be read", "what can be written or executed can be read"] == [
        *rules
    ]
