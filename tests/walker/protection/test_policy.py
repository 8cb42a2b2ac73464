from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Frames, Rights, collective_rights
from crosswalk.walker.nested.formats import table_format
from crosswalk.walker.protection import Permission, overlay, policy
from crosswalk.walker.protection.policy import TableKind, Use, inexpressible, protect
from tests.random_tables import random_tables
from tests.tables import KIB4, MODES, OPEN, PS, RW, US, XD, P, PageTables, context
from tests.walker.protection.frame_by_frame import USES, by_frame, expressible, least, wanted

QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, database=None, phases=[Phase.generate])
KINDS = pytest.mark.parametrize("kind", TableKind)
R, W, X = Permission


def words(use):
    return frozenset(name for bit, name in zip(Use, USES, strict=True) if use & bit)


def expected(tables, kind):
    """For each frame of RAM, what is wanted and what is granted."""
    return {
        frame: (wanted(pages), least(kind, wanted(pages)))
        for frame, pages in by_frame(tables.memory, tables.context).items()
    }


def found(tables, kind):
    protection = protect(
        collective_rights(tables.memory, tables.context), tables.memory.ranges, kind
    )
    columns = (protection.start, protection.size, protection.wanted, protection.granted)
    return {
        frame: (words(want), words(grant))
        for start, size, want, grant in zip(*(c.tolist() for c in columns), strict=True)
        for frame in range(start, start + size, KIB4)
    }


@QUICK
@given(tables=random_tables(MODES), kind=st.sampled_from(TableKind))
def test_each_frame_is_granted_what_its_mappings_allow_and_as_little_more_as_can_be(tables, kind):
    assert expected(tables, kind) == found(tables, kind)


@QUICK
@given(tables=random_tables(MODES), kind=st.sampled_from(TableKind))
def test_the_entries_of_a_list_say_the_same_and_fold(tables, kind):
    frames = collective_rights(tables.memory, tables.context)
    entries = list(protect(frames, tables.memory.ranges, kind))
    for one, other in pairwise(entries):
        assert one.epa < other.pa or (one.epa == other.pa and one.permission != other.permission)
    said = {pa: each.permission for each in entries for pa in range(each.pa, each.epa, KIB4)}
    for frame, (_, granted) in expected(tables, kind).items():
        both = R if "read" in granted else Permission(0)
        both |= W if "write" in granted else 0
        both |= X if granted & {"supervisor execute", "user execute"} else 0
        assert both == said.pop(frame)
    assert {} == said


@QUICK
@given(tables=random_tables(MODES), kind=st.sampled_from(TableKind))
def test_what_is_inexpressible_is_what_is_granted_beyond_what_is_wanted(tables, kind):
    frames = collective_rights(tables.memory, tables.context)
    said = {
        pa: (words(each.wanted), words(each.beyond))
        for each in inexpressible(protect(frames, tables.memory.ranges, kind))
        for pa in range(each.pa, each.pa + each.size, KIB4)
    }
    assert said == {
        frame: (want, grant - want)
        for frame, (want, grant) in expected(tables, kind).items()
        if grant != want
    }


def with_bit(table, bit):
    return table | np.uint8(bit)


def without_bit(table, bit):
    return table & np.uint8(~bit & 15)


def executable_by_default(table):
    return np.where(np.arange(64) == 0, table | Use.SUPERVISOR_EXECUTE, table).astype(np.uint8)


WRONG_TABLES = [
    (f"{change.__name__} {bit.name}", partial(change, bit=bit))
    for change in (with_bit, without_bit)
    for bit in Use
    if (change, bit) != (with_bit, Use.READ)  # Somebody may read whatever is mapped, or not.
]


def wrong_tables(kind):
    """Tables of which a program with a bug says something else than going frame by frame."""
    return find(
        random_tables(most=3), lambda it: expected(it, kind) != found(it, kind), settings=SEARCH
    )


@pytest.mark.parametrize(
    "wrong",
    [*(wrong for _, wrong in WRONG_TABLES), executable_by_default],
    ids=[*(name for name, _ in WRONG_TABLES), "executable by default"],
)
def test_a_right_too_many_or_too_few_is_found_by_going_frame_by_frame(wrong, monkeypatch):
    monkeypatch.setattr(policy, "_WANTED", wrong(policy._WANTED))
    kind = TableKind.EPT_MBEC
    tables = wrong_tables(kind)
    monkeypatch.undo()
    assert expected(tables, kind) == found(tables, kind)


@pytest.mark.parametrize("kind", [TableKind.NPT, TableKind.EPT])
def test_a_kind_taken_for_one_that_can_do_more_is_found(kind, monkeypatch):
    right = policy.rounded
    monkeypatch.setattr(
        policy,
        "rounded",
        lambda asked, **options: right(TableKind.EPT_MBEC if asked == kind else asked, **options),
    )
    tables = wrong_tables(kind)
    monkeypatch.undo()
    assert expected(tables, kind) == found(tables, kind)


def test_a_range_that_lasts_a_frame_too_long_is_found(monkeypatch):
    def longer(pa, start, end):
        return original(pa, start, end + np.uint64(KIB4))

    original = overlay._holders
    monkeypatch.setattr(overlay, "_holders", longer)
    tables = wrong_tables(TableKind.NPT)
    monkeypatch.undo()
    assert expected(tables, TableKind.NPT) == found(tables, TableKind.NPT)


@KINDS
@pytest.mark.parametrize("execute_only", [True, False])
@pytest.mark.parametrize("use", range(16))
def test_what_a_kind_grants_is_the_least_that_it_can_express(kind, execute_only, use):
    granted = words(int(policy.rounded(kind, execute_only=execute_only)[use]))
    assert least(kind, words(use), execute_only=execute_only) == granted
    assert granted in list(expressible(kind, execute_only=execute_only))


@KINDS
@pytest.mark.parametrize("execute_only", [True, False])
def test_entries_can_say_what_a_kind_can_express_and_nothing_else(kind, execute_only):
    entries = table_format(kind, execute_only=execute_only)
    every = int(~entries.rights(0))
    said = [rights for rights in range(every + 1) if entries.can_grant(rights)]
    if kind != TableKind.EPT_MBEC:
        said = [rights | (Use.USER_EXECUTE if rights & 4 else 0) for rights in said]
    assert set(expressible(kind, execute_only=execute_only)) == {words(use) for use in said}


def handmade(*ranges):
    start, size, rights = zip(*ranges, strict=True)
    return Frames(np.array(start, np.uint64), np.array(size, np.uint64), np.array(rights, np.uint8))


EXECUTE_ONLY = handmade((0, KIB4, Rights.SUPERVISOR_EXECUTE))


@pytest.mark.parametrize(
    ("kind", "execute_only", "beyond"),
    [
        (TableKind.NPT, True, Use.READ | Use.USER_EXECUTE),
        (TableKind.EPT, True, Use.USER_EXECUTE),
        (TableKind.EPT, False, Use.READ | Use.USER_EXECUTE),
        (TableKind.EPT_MBEC, True, None),
        (TableKind.EPT_MBEC, False, Use.READ),
    ],
)
def test_execute_only_is_what_npt_and_some_processors_ept_can_not_say(kind, execute_only, beyond):
    # No table of the guest's own can say it, but who fills in Frames from elsewhere may.
    said = [
        (each.pa, each.size, each.wanted, each.beyond)
        for each in inexpressible(
            protect(EXECUTE_ONLY, [(0, KIB4)], kind, execute_only=execute_only)
        )
    ]
    assert [(0, KIB4, Use.SUPERVISOR_EXECUTE, beyond)][: beyond is not None] == said


def listed(tables, ram, kind=TableKind.NPT, **switches):
    frames = collective_rights(tables.memory, context(**switches))
    return [(it.pa, it.epa, int(it.permission)) for it in protect(frames, ram, kind)]


def test_ram_that_nothing_maps_may_be_read_and_written():
    tables = PageTables().map(0, 0x5000, P | XD).map(KIB4, 0x7000, P)
    assert [
        (0, 0x5000, 3),
        (0x5000, 0x6000, 1),
        (0x6000, 0x7000, 3),
        (0x7000, 0x8000, 5),
        (0x8000, 0x10000, 3),
    ] == listed(tables, [(0, 0x10000)])


def test_what_is_not_ram_is_left_out_and_a_hole_in_it_parts_what_is_alike():
    tables = PageTables().map(0, 0, OPEN | PS, level=3)
    ram = [(0x5000, 0x3000), (0x9000, 0x1000), (1 << 40, 0x1000)]
    assert [
        (0x5000, 0x8000, 7),
        (0x9000, 0xA000, 7),
        (1 << 40, (1 << 40) + KIB4, 3),
    ] == listed(tables, ram)


def test_frames_that_ram_holds_in_part_are_left_out():
    assert [(0x1000, 0x3000, 3)] == listed(PageTables(), [(0x800, 0x2900)])
    assert [] == listed(PageTables(), [(0x800, 0xF00)])
    assert [] == listed(PageTables(), [])


def test_what_the_user_alone_executes_is_told_apart_by_mode_based_control_alone():
    tables = PageTables().map(0, 0x5000, P | US)
    frames = collective_rights(tables.memory, context(smep=True))
    granted = {kind: int(protect(frames, [(0x5000, KIB4)], kind).granted[0]) for kind in TableKind}
    assert {TableKind.NPT: 13, TableKind.EPT: 13, TableKind.EPT_MBEC: 9} == granted


def test_write_protection_that_wp_does_not_enforce_protects_nothing():
    tables = PageTables().map(0, 0x5000, P | XD)
    assert [(0x5000, 0x6000, 3)] == listed(tables, [(0x5000, KIB4)], wp=False)


def test_the_alias_that_writes_counts():
    tables = PageTables().map(0, 0x5000, P).map(KIB4, 0x5000, P | RW | XD)
    assert [(0x5000, 0x6000, 7)] == listed(tables, [(0x5000, KIB4)])


@pytest.mark.parametrize("use", range(16))
def test_a_page_list_executes_where_any_privilege_level_does(use):
    expected = (R if use & 1 else R & 0) | (W if use & 2 else R & 0) | (X if use & 12 else R & 0)
    assert expected == policy.permission_of(use)


@KINDS
def test_tables_are_given_ranges_in_the_rights_of_their_kind(kind):
    every = [Rights.SUPERVISOR_READ | Rights(each << 1) for each in (0, 1, 2, 3)]
    every += [each | Rights.USER_READ | Rights.USER_EXECUTE for each in every]
    frames = handmade(*((at * KIB4, KIB4, rights) for at, rights in enumerate(every)))
    protection = protect(frames, [(0, 9 * KIB4)], kind)
    ranges = list(protection.for_tables(kind))
    assert {Use if kind == TableKind.EPT_MBEC else Permission} == {type(it) for *_, it in ranges}
    said = {pa: it for start, size, it in ranges for pa in range(start, start + size, KIB4)}
    granted = protection.granted.tolist()
    expected = granted if kind == TableKind.EPT_MBEC else map(policy.permission_of, granted)
    starts = zip(protection.start.tolist(), protection.size.tolist(), expected, strict=True)
    assert said == {pa: it for at, size, it in starts for pa in range(at, at + size, KIB4)}
