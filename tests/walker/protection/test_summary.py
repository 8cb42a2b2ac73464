from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Rights, Segments, collective_rights
from crosswalk.walker.formats import load_case
from crosswalk.walker.protection import Permission, policy
from crosswalk.walker.protection.pagelist import decode, encode
from crosswalk.walker.protection.policy import TableKind, Use, protect
from crosswalk.walker.protection.summary import summarise
from tests.random_tables import address_spaces, random_tables
from tests.tables import KIB4, MODES, OPEN, ROOT, RW, US, XD, P, PageTables, context
from tests.walker.protection.frame_by_frame import (
    PAGE,
    USES,
    by_frame,
    least,
    region_numbers,
    regions_by_frame,
    rights_of,
    wanted,
)

QUICK = settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
LINUX = Path(__file__).resolve().parents[2] / "cases" / "linux-6.1-4level.json"
R, W, X = Permission
EXECUTES = {"supervisor execute", "user execute"}


@pytest.fixture(scope="module")
def linux():
    case = load_case(LINUX)
    return case.memory(), case.context()


def summary_of(memory, found, kind=TableKind.NPT, **options):
    return summarise(memory, found, collective_rights(memory, found), kind, **options)


def counted(memory, found, kind):
    """The bytes of RAM by permission and by rights, going frame by frame."""
    permission, rights = Counter(), Counter()
    for pages in by_frame(memory, found).values():
        uses = least(kind, wanted(pages))
        bits = R * ("read" in uses) | W * ("write" in uses) | X * bool(uses & EXECUTES)
        permission[Permission(bits)] += PAGE
        rights[Rights(rights_of(pages))] += PAGE
    return permission, rights


def lacking(memory, found, kind):
    """The bytes of RAM by what is wanted and what is granted besides."""
    beyond = Counter()
    for pages in by_frame(memory, found).values():
        want = wanted(pages)
        beyond[frozenset(want), frozenset(least(kind, want) - want)] += PAGE
    return {uses: size for uses, size in beyond.items() if uses[1]}


def words(use):
    return frozenset(name for bit, name in zip(Use, USES, strict=True) if use & bit)


def agrees(memory, found, kind):
    said = summary_of(memory, found, kind)
    permission, rights = counted(memory, found, kind)
    return (permission, rights) == (said.granted, said.rights) and all(
        lacking(memory, found, each)
        == {(words(a), words(b)): size for (a, b), size in said.beyond[each].items()}
        for each in TableKind
    )


@QUICK
@given(tables=random_tables(MODES, most=3), kind=st.sampled_from(TableKind))
def test_the_sums_are_those_of_going_frame_by_frame(tables, kind):
    assert agrees(tables.memory, tables.context, kind)


@QUICK
@given(spaces=address_spaces(), kind=st.sampled_from(TableKind))
def test_the_sums_of_several_address_spaces_are_those_of_going_frame_by_frame(spaces, kind):
    assert agrees(*spaces, kind)


def test_linux_frame_by_frame(linux):
    memory, found = linux
    assert agrees(memory, found, TableKind.NPT)
    said = summary_of(memory, found)
    assert regions_by_frame(memory, found, 4) == [region_numbers(each) for each in said.regions]
    direct, image, *_ = said.regions
    # What `info tlb` of the running kernel shows at these addresses.
    assert (0xFFFF_8C4C_4000_0000, 0xFFFF_FFFF_8440_0000) == (direct.va, image.va)
    assert said.neither == said.exposed.size
    assert 0 == said.exposed.strict == said.locked


@pytest.mark.parametrize("bit", [Use.WRITE, Use.SUPERVISOR_EXECUTE])
def test_a_right_too_many_shows_in_the_sums_of_linux(linux, bit, monkeypatch):
    memory, found = linux
    wrong = np.where(np.arange(64) == Rights.SUPERVISOR_READ, policy._WANTED | bit, policy._WANTED)
    monkeypatch.setattr(policy, "_WANTED", wrong.astype(np.uint8))
    assert not agrees(memory, found, TableKind.NPT)


def test_a_page_list_of_linux_comes_back_and_stands_for_every_frame(linux):
    memory, found = linux
    protection = protect(collective_rights(memory, found), memory.ranges)
    pages = encode(protection, 0x10_0000)
    (_, size), *_ = memory.ranges
    ram = bytearray(size)
    ram[0x10_0000 : 0x10_0000 + len(pages)] = pages
    there = Segments([(0, bytes(ram)), (0xFFFC_0000, bytes(0x4_0000))])
    entries = decode(there, 0x10_0000, write_execute=True)
    assert list(protection) == entries
    assert sum(size for _, size in memory.ranges) == sum(each.epa - each.pa for each in entries)


def small(*, table=0):
    """A page of text, of rodata, of data, for the user; the tables themselves, read-only."""
    tables = PageTables(ram=((0, 0x10000),))
    tables.map(0, 0x8000, P).map(KIB4, 0x9000, P | XD).map(2 * KIB4, 0xA000, P | RW | XD)
    tables.map(3 * KIB4, 0xB000, P | US).map(4 * KIB4, 0xC000, OPEN)
    return tables.map(5 * KIB4, ROOT, P | XD | table).map(6 * KIB4, 1 << 30, OPEN)


def test_titles_count_what_they_say():
    said = summary_of(small().memory, context(smep=True))
    assert (16 * KIB4, 10 * KIB4, KIB4) == (said.ram, said.unmapped, said.outside)
    assert {R: 2 * KIB4, R | W: 11 * KIB4, R | X: 2 * KIB4, R | W | X: KIB4} == said.granted
    assert (4 * KIB4, 13 * KIB4, 2 * KIB4, KIB4) == (
        said.read_only, said.no_execute, said.both, said.neither,
    )  # fmt: skip


@pytest.mark.parametrize(("table", "locked"), [(0, KIB4), (RW, 0)])
def test_paging_structures_that_would_be_read_only_are_counted(table, locked):
    said = summary_of(small(table=table).memory, context())
    assert (4 * KIB4, locked) == (said.tables, said.locked)


def test_the_largest_exposed_ranges_are_named_and_all_are_counted():
    tables = PageTables()
    for at, length in ((0x40, 1), (0x50, 3), (0x60, 2)):
        for page in range(length):
            tables.map((at + page) * KIB4, (at + page) * KIB4, P | RW)
    tables.map(0x70 * KIB4, 0x70 * KIB4, P | RW | XD).map(0x71 * KIB4, 0x70 * KIB4, P | US)
    said = summary_of(tables.memory, context(smep=True), ranges=2, aliases=1).exposed
    assert (4, 3, 7 * KIB4) == (said.ranges, said.strict, said.size)
    assert [0x50 * KIB4, 0x60 * KIB4] == [each.pa for each in said.largest]
    assert [1, 1] == [len(each.writers) for each in said.largest]
