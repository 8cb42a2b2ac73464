"""All that a host's tables map, held to the walk of one guest-physical address after the other."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Access,
    AccessType,
    SparseWords,
    collective_rights,
    count_mappings,
    mappings,
)
from crosswalk.walker.aliases import Aliases, AliasQuery
from crosswalk.walker.chosen import Spans, chosen_pages
from crosswalk.walker.errors import BadInput
from crosswalk.walker.nested import (
    EptCapability,
    EptContext,
    EptEntry,
    second_level,
)
from crosswalk.walker.nested.ept import EPT_LEVELS, descend_ept, ept_leaf_address
from crosswalk.walker.nested.second_level import EptTables, NptTables, guest_ranges
from crosswalk.walker.nested.translate import Npt
from crosswalk.walker.nested.violations import ept_uses_of
from crosswalk.walker.pages import pages
from crosswalk.walker.protection.policy import Use
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.translate import StepKind
from crosswalk.walker.unfollowed import Reason, unfollowed
from tests.random_tables import extended_tables
from tests.tables import KIB4, LEGACY, LONG, MIB2, OPEN, PAT_LARGE, PS, A, D, context

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
FRAMES = tuple(range(0x1000, 0x7000, KIB4))
OUTSIDE = 0x9000
SLOTS = (0, 1)
WB = 6 << 3
READS = Rights.SUPERVISOR_READ | Rights.USER_READ
OF_USE = {
    Use.READ: READS,
    Use.WRITE: WRITES,
    Use.SUPERVISOR_EXECUTE: Rights.SUPERVISOR_EXECUTE,
    Use.USER_EXECUTE: Rights.USER_EXECUTE,
}


@dataclass(frozen=True)
class RandomEpt:
    """EPT entries in a few frames of RAM by physical address, and how they are read."""

    entries: dict[int, int]
    context: EptContext

    @cached_property
    def memory(self):
        return SparseWords([(frame, KIB4) for frame in FRAMES], self.entries)

    @cached_property
    def tables(self):
        return EptTables(self.context)

    @cached_property
    def walks(self):
        """The walk of the first guest-physical address behind each path of slots in use."""
        found = {}
        for path in product(SLOTS, repeat=self.context.levels):
            gpa = 0
            for slot in path:
                gpa = gpa << 9 | slot
            found[gpa << 12] = descend_ept(self.memory, self.context, gpa << 12)
        return found

    @cached_property
    def expected(self):
        """Each page that these walks end at: gpa, pa, level, rights, in address order."""
        found = set()
        for gpa, path in self.walks.items():
            leaf = path.leaf
            if leaf is None:
                continue
            uses = ept_uses_of(self.context, path)
            rights = sum(OF_USE[use] for use in Use if use & uses)
            span = EPT_LEVELS[leaf.level].span
            pa = ept_leaf_address(self.context, leaf.level, leaf.entry)
            found.add((gpa & -span, pa, leaf.level, Rights(rights)))
        return sorted(found)


@st.composite
def entries(draw):
    """One entry: rights, type and the rest of it as a rule lawful, but not always."""
    rights = draw(st.sampled_from((1, 3, 5, 7, 7, 7, 7, 4, 2, 6, 0)))
    entry = rights | draw(st.sampled_from((*FRAMES, *FRAMES, OUTSIDE)))
    if draw(st.booleans()):
        entry |= draw(st.sampled_from((WB, WB, 0, 1 << 3, 2 << 3, 7 << 3, EptEntry.IPAT)))
    if draw(st.integers(0, 3)) == 0:
        entry = entry & ~(0xFF << 12) | EptEntry.PS | draw(st.sampled_from((0, MIB2, 1 << 30)))
    if draw(st.booleans()):
        entry |= EptEntry.XU
    if draw(st.integers(0, 3)) == 0:
        entry |= 1 << draw(st.sampled_from((8, 9, 11, 12, 39, 40, 51, 52, 57, 63)))
    return int(entry)


@st.composite
def epts(draw):
    missing = draw(
        st.sets(
            st.sampled_from(
                (EptCapability.EXECUTE_ONLY, EptCapability.PAGE_1G, EptCapability.PAGE_2M)
            )
        )
    )
    places = st.tuples(st.sampled_from(FRAMES), st.sampled_from(SLOTS))
    drawn = draw(st.dictionaries(places, entries(), min_size=1, max_size=14))
    drawn[FRAMES[0], 0] = draw(entries()) | 7
    reading = EptContext.at(
        FRAMES[0],
        levels=draw(st.sampled_from((4, 4, 4, 5))),
        accessed_dirty=draw(st.booleans()),
        mbec=draw(st.booleans()),
        capabilities=EptCapability(sum(EptCapability)) & ~EptCapability(sum(missing)),
    )
    return RandomEpt({frame + 8 * slot: entry for (frame, slot), entry in drawn.items()}, reading)


def listed(drawn, tables=None):
    blocks = pages(drawn.memory, drawn.tables if tables is None else tables)
    return [(it.va, it.pa, it.level, it.rights) for block in blocks for it in block]


@QUICK
@given(drawn=epts())
def test_what_is_listed_is_what_one_walk_after_the_other_finds(drawn):
    assert drawn.expected == listed(drawn)


@pytest.mark.parametrize(("levels", "bits"), [(4, 48), (5, 57)])
def test_the_last_guest_physical_address_has_no_sign(levels, bits):
    reading = EptContext.at(FRAMES[0], levels=levels)
    tables = {frame + 8 * 511: frame + KIB4 | 7 for frame in FRAMES[: levels - 1]}
    words = tables | {FRAMES[levels - 1] + 8 * 511: 0x5000 | WB | 5}
    found = listed(RandomEpt(words, reading))
    rights = READS | EXECUTES
    assert [((1 << bits) - KIB4, 0x5000, 1, rights)] == found


@QUICK
@given(drawn=epts(), gpa=st.integers(0, (1 << 57) - 1))
def test_a_guest_physical_address_translates_if_it_is_in_a_page_that_is_listed(drawn, gpa):
    here = [it for it in listed(drawn) if it[0] <= gpa < it[0] + EPT_LEVELS[it[2]].span]
    leaf = descend_ept(drawn.memory, drawn.context, gpa).leaf
    assert [] == here if leaf is None else 1 == len(here)


@QUICK
@given(drawn=epts())
def test_all_that_is_made_of_the_states_is_of_the_pages_listed(drawn):
    memory, tables = drawn.memory, drawn.tables
    counts = Counter(level for _, _, level, _ in drawn.expected)
    assert {level: counts[level] for level in (1, 2, 3)} == count_mappings(memory, tables)

    frames = {}
    for _, pa, level, rights in drawn.expected:
        if level == 1:
            frames[pa] = frames.get(pa, Rights(0)) | rights
    collective = collective_rights(memory, tables)
    asked = np.array(sorted(frames), np.uint64)
    large = [(pa, level, rights) for _, pa, level, rights in drawn.expected if level > 1]
    for pa, found in zip(asked.tolist(), collective.rights_at(asked).tolist(), strict=True):
        inside = [r for at, level, r in large if at <= pa < at + EPT_LEVELS[level].span]
        expected = frames[pa]
        for rights in inside:
            expected |= rights
        assert expected == found


@QUICK
@given(
    drawn=epts(), frame=st.sampled_from(FRAMES), rights=st.sampled_from((None, WRITES, EXECUTES))
)
def test_who_maps_a_frame_is_found_without_listing_the_others(drawn, frame, rights):
    expected = [
        (gpa, pa, level, granted)
        for gpa, pa, level, granted in drawn.expected
        if pa <= frame < pa + EPT_LEVELS[level].span and (rights is None or granted & rights)
    ]
    query = AliasQuery(frame, KIB4, rights)
    found = Aliases(drawn.memory, drawn.tables, [query]).find(0)
    assert expected == [(it.va, it.pa, it.level, it.rights) for it in found]
    chosen = chosen_pages(
        drawn.memory,
        drawn.tables,
        lambda rows, _: (rows.pa <= frame) & (rows.pa + rows.size > frame),
    )
    reaching = [it for it in drawn.expected if it[1] <= frame < it[1] + EPT_LEVELS[it[2]].span]
    assert reaching == [
        (it.va, it.pa, it.level, it.rights) for _, blocks in chosen for b in blocks for it in b
    ]


@QUICK
@given(drawn=epts())
def test_what_cant_be_followed_is_where_walks_end_so(drawn):
    ends = {StepKind.MISCONFIGURED: Reason.RESERVED, StepKind.OUTSIDE: Reason.OUTSIDE}
    expected = set()
    for path in drawn.walks.values():
        last = path.steps[-1]
        if last.kind is StepKind.MISCONFIGURED:
            expected.add((last.level, last.pa, ends[last.kind]))
        elif last.kind is StepKind.OUTSIDE:
            expected.add((last.level + 1, path.steps[-2].pa, ends[last.kind]))
    found = unfollowed(drawn.memory, drawn.tables, first=1000)
    assert expected == {(it.level, it.pa, it.reason) for it in found.first}
    assert len(expected) == len(found)
    assert {None} >= {it.mode for it in found.first}


@QUICK
@given(drawn=epts())
def test_ranges_are_the_pages_that_go_on(drawn):
    sections = chosen_pages(drawn.memory, drawn.tables, None, edges=Spans.of([]).edges)
    found = [
        it for _, blocks in sections for rows in guest_ranges(blocks, drawn.tables) for it in rows
    ]
    assert len(drawn.expected) == sum(it.count for it in found)
    by_gpa = {gpa: (pa, rights) for gpa, pa, _, rights in drawn.expected}
    for it in found:
        assert (it.pa, it.rights) == by_gpa[it.va]
        inside = [gpa for gpa in by_gpa if it.va <= gpa < it.va + it.size]
        assert it.count == len(inside)
        for gpa in inside:
            pa = it.pa if it.stride else it.pa + gpa - it.va
            assert (pa, it.rights) == by_gpa[gpa]


def folded(words, tables):
    memory = SparseWords([(frame, KIB4) for frame in FRAMES], words)
    return [(it.va, it.size) for rows in guest_ranges(pages(memory, tables), tables) for it in rows]


UPPER = {0x1000: 0x2007, 0x2000: 0x3007}
RWX = WB | 7


@pytest.mark.parametrize(
    ("flags", "apart"),
    [
        (EptEntry.A | EptEntry.D, False),
        (EptEntry.PS, False),
        (EptEntry.W, True),
        (EptEntry.IPAT, True),
        (6 << 3, True),
    ],
    ids=["A and D", "bit 7", "W", "IPAT", "the memory type"],
)
def test_neighbours_in_an_ept_fold_whatever_their_use_and_their_size(flags, apart):
    tables = EptTables(EptContext.at(0x1000))
    # A page of 2 MiB, and behind it two of 4 KiB.
    words = UPPER | {0x3000: RWX | EptEntry.PS, 0x3008: 0x4007}
    words |= {0x4000: MIB2 | RWX, 0x4008: MIB2 + KIB4 | RWX ^ flags}
    small = [(MIB2 + KIB4, KIB4)] if apart else []
    whole = MIB2 + KIB4 * (1 if apart else 2)
    assert [(0, whole), *small] == folded(words, tables)


@pytest.mark.parametrize(
    ("large", "small", "apart"),
    [(0, 0, False), (PAT_LARGE, PS, False), (0, PS, True), (PAT_LARGE, 0, True), (A | D, 0, False)],
    ids=["no PAT", "PAT", "PAT of the small", "PAT of the large", "A and D"],
)
def test_pat_has_its_place_in_nested_tables_of_amd(large, small, apart):
    tables = NptTables(context(root=0x1000))
    words = UPPER | {0x3000: OPEN | PS | large, 0x3008: 0x4007, 0x4000: MIB2 | OPEN | small}
    expected = [(0, MIB2), (MIB2, KIB4)] if apart else [(0, MIB2 + KIB4)]
    assert expected == folded(words, tables)


def test_nested_tables_are_those_of_a_host_in_long_mode():
    for mode in LEGACY:
        with pytest.raises(BadInput, match="4 or 5 levels"):
            NptTables(context(mode))


def test_a_reserved_bit_of_nested_tables_ends_the_walk():
    tables = NptTables(context(root=0x1000))
    memory = SparseWords(
        [(0x1000, 4 * KIB4)], UPPER | {0x3000: 0x4007, 0x4000: 0x5007, 0x4008: 1 << 50 | 7}
    )
    assert [0] == [it.va for block in pages(memory, tables) for it in block]
    assert (1, 0) == (unfollowed(memory, tables).reserved, unfollowed(memory, tables).outside)


def no_check(tables):
    tables.malformed = lambda level, entries, *, leaf: np.zeros(len(entries), np.bool_)


def no_large_pages(tables):
    tables.leaves_among = lambda level, entries: np.full(len(entries), level == 1)


def leaf_alone(tables):
    plain = tables.formats
    tables.formats = {
        number: replace(each, grants=lambda entries: np.full(len(entries), 15, np.uint8))
        if number > 1
        else each
        for number, each in plain.items()
    }


def one_execute(tables):
    tables.rights = tables.rights.copy()
    tables.rights[8:] = tables.rights[:8]


def not_executable_alone(tables):
    tables.formats = {number: replace(each, present=1) for number, each in tables.formats.items()}


def any_address(tables):
    address = np.uint64((1 << 40) - 1)
    tables._reserved = {key: value & address for key, value in tables._reserved.items()}


@pytest.mark.parametrize(
    "plant",
    [no_check, no_large_pages, leaf_alone, one_execute, not_executable_alone, any_address],
    ids=lambda plant: plant.__name__.replace("_", " "),
)
def test_a_rule_that_the_bulk_walk_breaks_is_found(plant):
    def wrong(drawn):
        tables = EptTables(drawn.context)
        plant(tables)
        try:
            return drawn.expected != listed(drawn, tables)
        except IndexError:  # A table at no address of a frame.
            return True

    drawn = find(epts(), wrong, settings=SEARCH)
    assert drawn.expected == listed(drawn)


RIGHTS = {
    (AccessType.READ, 0): Rights.SUPERVISOR_READ,
    (AccessType.READ, 3): Rights.USER_READ,
    (AccessType.WRITE, 0): Rights.SUPERVISOR_WRITE,
    (AccessType.WRITE, 3): Rights.USER_WRITE,
    (AccessType.EXECUTE, 0): Rights.SUPERVISOR_EXECUTE,
    (AccessType.EXECUTE, 3): Rights.USER_EXECUTE,
}


def npt_pages(tables, host, *, gmet):
    return [it for b in pages(tables.memory, NptTables(host, gmet=gmet)) for it in b]


def as_accesses_end(tables, host, *, gmet):
    """Whether the pages of nested tables are those that `Npt` lets accesses through to."""
    npt = Npt(host, gmet)
    for it in npt_pages(tables, host, gmet=gmet):
        path = npt.descend(tables.memory, it.va)
        rights = Rights(0)
        for (kind, cpl), right in RIGHTS.items():
            if npt.page_fault(path, Access(it.va, kind, cpl), 0) is None:
                rights |= right
        leaf = path.leaf
        if (leaf.level, npt.address(leaf, it.va), rights) != (it.level, it.pa, it.rights):
            return False
    return True


@QUICK
@given(tables=extended_tables(modes=LONG), gmet=st.booleans())
def test_nested_tables_of_amd_let_accesses_through_as_they_are_listed(tables, gmet):
    host = tables.context
    assert as_accesses_end(tables, host, gmet=gmet)
    # They are ordinary tables, but for the sign of an address.
    plain = [
        (it.va & (1 << host.va_bits) - 1, it.pa, it.size) for it in mappings(tables.memory, host)
    ]
    listed = [(it.va, it.pa, it.size) for it in npt_pages(tables, host, gmet=gmet)]
    assert sorted(plain) == listed


@pytest.mark.parametrize("gmet", [False, True])
def test_rights_of_the_other_kind_of_nested_tables_are_found(gmet, monkeypatch):
    name = "_trapped_use_of" if gmet else "_use_of"
    other = "_use_of" if gmet else "_trapped_use_of"

    def wrong(tables):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(second_level, name, getattr(second_level, other))
            return not as_accesses_end(tables, tables.context, gmet=gmet)

    tables = find(extended_tables(modes=LONG), wrong, settings=SEARCH)
    assert as_accesses_end(tables, tables.context, gmet=gmet)
