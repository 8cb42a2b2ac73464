"""What the emulated CPU does with accesses that are more than one byte's."""

from dataclasses import replace

import pytest

from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.access_engine import Run
from crosswalk.emu.probe.composite import CompositeEngine, CompositeProber, _fault_of
from crosswalk.emu.probe.composites import Composites
from crosswalk.walker.errors import BadInput
from tests.emu.accesses import tables_of
from tests.emu.composites import NOTHING, PROTECTION, answers, composite, fault, make, ok
from tests.tables import KIB4, MIB2, OPEN, PS, RW, US, USED, XD, D, PageTables, context

VA = 0x40_0000
NEXT = VA + KIB4
END, CODE_END = NEXT - 4, NEXT - 6
SUPERVISOR = USED & ~US
TOP = 1 << 64


def pages(first=USED, second=USED, *, upper=USED):
    """Two pages in a row; None for one that isn't there."""
    builder = PageTables(ram=((0, 1 << 26),))
    for va, pa, flags in ((VA, 0x8000, first), (NEXT, 0x9000, second)):
        if flags is not None:
            builder.map(va, pa, flags, upper=upper)
    return builder


def one(builder, *arguments, **keywords):
    """The answers to one composite under the usual context, or `context=`."""
    under = keywords.pop("context", context())
    ((outcomes, words),) = make(builder.memory, under, composite(*arguments, **keywords))
    return outcomes, words


@pytest.mark.parametrize("form", ["rmw:xadd", "rmw:cmpxchg"])
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("offset", [0, 7, 8, 15, 0xFFF])
def test_a_locked_modification_reaches_its_byte_and_sets_d(form, cpl, offset):
    builder = pages(OPEN)
    outcomes, words = one(builder, form, VA + offset, cpl)
    assert [ok(0x8000 + offset), NOTHING] == outcomes
    assert {builder.entry_pa(VA, 1): 0x8000 | USED | D} == words


@pytest.mark.parametrize("form", ["rmw:xadd", "rmw:cmpxchg"])
def test_a_locked_modification_needs_the_right_to_write_even_if_it_changes_nothing(form):
    outcomes, _ = one(pages(USED & ~RW), form, VA + 5, 3)
    assert [fault(0x7, VA + 5), NOTHING] == outcomes


@pytest.mark.parametrize(
    ("form", "at", "value"),
    [
        ("cross:read", END, USED),
        ("cross:write", END, USED | D),
        ("cross:execute", CODE_END, USED),
    ],
)
@pytest.mark.parametrize("cpl", [0, 3])
def test_an_access_that_crosses_reaches_both_pages(form, at, value, cpl):
    builder = pages(OPEN, OPEN)
    outcomes, words = one(builder, form, at, cpl)
    assert [ok(0x8000 + at - VA), ok(0x9000)] == outcomes
    assert {
        builder.entry_pa(VA, 1): 0x8000 | value,
        builder.entry_pa(NEXT, 1): 0x9000 | value,
    } == words


@pytest.mark.parametrize(
    ("form", "at", "denying", "code"),
    [
        ("cross:read", END, None, 0x4),
        ("cross:read", END, SUPERVISOR, 0x5),
        ("cross:write", END, USED & ~RW, 0x7),
        ("cross:execute", CODE_END, USED | XD, 0x15),
        ("cross:execute", CODE_END, None, 0x14),
    ],
)
def test_the_page_that_is_at_fault_is_reported_by_cr2(form, at, denying, code):
    assert [fault(code, at), NOTHING] == one(pages(denying, USED), form, at, 3)[0]
    assert [fault(code, NEXT), NOTHING] == one(pages(USED, denying), form, at, 3)[0]


def test_large_pages_are_crossed_too():
    builder = PageTables(ram=((0, 1 << 26),))
    builder.map(0, MIB2, USED | PS, level=2, upper=USED).map(MIB2, 0x9000, USED, upper=USED)
    assert [ok(2 * MIB2 - 4), ok(0x9000)] == one(builder, "cross:write", MIB2 - 4)[0]


def test_behind_the_lower_half_nothing_is_canonical_and_behind_the_top_comes_0():
    builder = PageTables(ram=((0, 1 << 26),))
    half = 1 << 47
    for va, pa in ((half - KIB4, 0x10_8000), (TOP - KIB4, 0x10_9000), (0, 0x10_A000)):
        builder.map(va, pa, USED, upper=USED)
    assert [PROTECTION, NOTHING] == one(builder, "cross:read", half - 4)[0]
    assert [PROTECTION, NOTHING] == one(builder, "cross:read", TOP - half - 4)[0]
    assert [ok(0x10_9FFC), ok(0x10_A000)] == one(builder, "cross:write", TOP - 4)[0]


@pytest.mark.parametrize("cpl", [0, 3])
def test_a_descriptor_is_read_by_the_supervisor_whoever_loads_it(cpl):
    builder = pages(SUPERVISOR)
    assert [ok(0x8108), NOTHING] == one(builder, "implicit:read", VA + 0x108, cpl)[0]
    # U/S is clear in the error code.
    assert [fault(0x0, VA + 8), NOTHING] == one(pages(None), "implicit:read", VA + 8, cpl)[0]


def test_loading_a_segment_register_marks_its_descriptor():
    builder = pages(OPEN)
    outcomes, words = one(builder, "implicit:write", VA + 8, 3)
    assert [ok(0x8008), NOTHING] == outcomes
    assert {builder.entry_pa(VA, 1): 0x8000 | USED | D} == words
    ((_, _, code, cr2), _), _ = one(pages(USED & ~RW), "implicit:write", VA + 8, 3)
    assert 0x3 == code
    assert cr2 in range(VA + 8, VA + 16)


@pytest.mark.parametrize("ac", [False, True])
def test_smap_keeps_user_pages_from_implicit_accesses_of_cpl_3_whatever_ac_is(ac):
    found, _ = one(pages(), "implicit:read", VA + 8, 3, ac=ac, context=context(smap=True))
    assert [fault(0x1, VA + 8), NOTHING] == found


def test_a_write_after_a_read_sets_d_though_the_page_is_in_the_tlb():
    builder = pages(USED)
    outcomes, words = one(builder, "twice:read+write", VA + 0x40)
    assert [ok(0x8040), ok(0x8040)] == outcomes
    assert {builder.entry_pa(VA, 1): 0x8000 | USED | D} == words


def test_the_second_access_goes_through_the_tlb(monkeypatch):
    # The entry goes between the two, and the second access doesn't notice.
    again, made = CompositeEngine.again, []

    def between(self, *arguments, **keywords):
        if made:
            asked._workspace.space.view[builder.entry_pa(VA, 1) // 8] = 0
        made.append(arguments)
        return again(self, *arguments, **keywords)

    monkeypatch.setattr(CompositeEngine, "again", between)
    builder = pages(USED)
    asked = CompositeProber(builder.memory, context())
    found, _ = answers(asked.probe(composite("twice:read+read", VA)))
    assert [ok(0x8000), ok(0x8000)] == found
    made.clear()
    found, _ = answers(asked.probe(composite("twice:read+read", VA, then=(3, False))))
    assert fault(0x4, VA) == found[1]


@pytest.mark.parametrize(
    ("form", "cpl", "then", "switches", "code"),
    [
        ("twice:read+read", 0, (3, False), {"smap": False}, 0x5),
        ("twice:execute+write", 0, (0, False), {}, 0x3),
        ("twice:read+execute", 3, (3, False), {}, None),
    ],
)
def test_what_the_first_access_may_the_second_need_not(form, cpl, then, switches, code):
    flags = SUPERVISOR & ~RW if cpl == 0 else USED
    found, _ = one(pages(flags), form, VA, cpl, then=then, context=context(**switches))
    assert ok(0x8000) == found[0]
    assert (ok(0x8000) if code is None else fault(code, VA)) == found[1]


def test_ac_counts_as_it_is_at_the_second_access():
    under = context(smap=True)
    for first, then, expected in (
        (True, False, [ok(0x8000), fault(0x1, VA)]),
        (False, True, [fault(0x1, VA), ok(0x8000)]),
    ):
        found, _ = one(pages(), "twice:read+read", VA, ac=first, then=(0, then), context=under)
        assert expected == found


def test_pkru_counts_as_it_is_at_the_second_access():
    builder = pages(USED | 1 << 59)
    under = replace(context(pke=True), pkru=0x0)
    for then, expected in ((0x4, fault(0x25, VA)), (0x8, ok(0x8000)), (0x0, ok(0x8000))):
        found, _ = one(builder, "twice:read+read", VA, 3, then=(3, False), pkru=then, context=under)
        assert [ok(0x8000), expected] == found
    denied = replace(under, pkru=0xC)
    found, _ = one(builder, "twice:write+write", VA, 3, then=(3, False), pkru=0, context=denied)
    assert [fault(0x27, VA), ok(0x8000)] == found


def mixed():
    return [
        composite("rmw:xadd", VA + 3),
        composite("cross:read", END, 3),
        composite("cross:write", END),
        composite("cross:execute", CODE_END, 3),
        composite("implicit:write", VA + 8, 3),
        composite("implicit:read", NEXT + 8),
        composite("twice:write+execute", VA + 0x40),
        composite("twice:read+write", NEXT + 0x40, 3, then=(0, False)),
        composite("cross:read", NEXT + KIB4 - 4),
        composite("rmw:cmpxchg", NEXT + KIB4),
    ]


def test_each_starts_from_the_same_state_whatever_came_before():
    builder = pages(OPEN, OPEN, upper=OPEN)
    alone = [make(builder.memory, context(), each)[0] for each in mixed()]
    assert alone * 3 == make(builder.memory, context(), *mixed() * 3)
    assert alone[::-1] == make(builder.memory, context(), *mixed()[::-1])
    assert len({str(each) for each in alone}) > 7


def test_tables_are_as_they_were_afterwards_and_another_space_may_follow():
    asked = CompositeProber(pages(OPEN, OPEN).memory, context())
    before = tables_of(asked)
    first = answers(asked.probe(Composites.join(mixed())), 1)
    assert (before == tables_of(asked)).all()
    asked.enter(pages(None, OPEN).memory, context())
    assert fault(0x4, END) == answers(asked.probe(Composites.join(mixed())), 1)[0][0]
    asked.enter(pages(OPEN, OPEN).memory, context())
    assert first == answers(asked.probe(Composites.join(mixed())), 1)


@pytest.mark.parametrize(
    ("form", "va"),
    [
        ("cross:read", VA + 8),
        ("cross:execute", END),
        ("implicit:read", VA),
        ("twice:read+execute", VA + 8),
    ],
)
def test_a_composite_at_the_wrong_place_is_refused(form, va):
    with pytest.raises(BadInput, match=f"{form.replace('+', '.')} can't be made at {va:#x}"):
        make(pages().memory, context(), composite(form, va))


def test_a_composite_may_not_reach_a_table():
    builder = PageTables().map(VA, 0x1000)
    with pytest.raises(BadInput, match="paging structure"):
        make(builder.memory, context(), composite("rmw:xadd", VA))


@pytest.mark.parametrize("mode", ["PAE", "32-bit"])
def test_other_modes_are_refused_and_the_prober_stays_what_it_was(mode):
    prober = CompositeProber(pages().memory, context())
    for take_up in (CompositeProber, prober.enter):
        with pytest.raises(BadInput, match=f"4- and 5-level paging, not {mode} paging"):
            take_up(pages().memory, context(mode))
    assert answers(prober.probe(composite("rmw:xadd", VA)))[0] == [ok(0x8000), NOTHING]


def test_a_page_without_ram_is_no_outcome():
    builder = PageTables().map(VA, 1 << 30)
    with pytest.raises(ProbeError, match="no outcome"):
        make(builder.memory, context(), composite("twice:read+read", VA))


@pytest.mark.parametrize(
    "run",
    [
        Run(0, False, 0xFFFF_FFFF, 0, 0, 0x100, 0, 0, 0),
        Run(21, False, 14, 0, 0, 0x101, 0, 0, 0),
        Run(21, False, 13, 8, 0, 0x100, 0, 0, 0),
        Run(21, False, 8, 0, 0, 0x100, 0, 0, 0),
        Run(6, False, 0xFFFF_FFFF, 0, 0, 0x100, 0, 0, 0),
    ],
    ids=["no mark", "another RIP", "#GP with a code", "#DF", "engine error"],
)
def test_what_is_neither_done_nor_a_fault_of_the_access_is_an_error(run):
    with pytest.raises(ProbeError, match="no outcome"):
        _fault_of(run, 0x100, "this")


def test_a_store_that_leaves_a_word_elsewhere_is_an_error(monkeypatch):
    memory = pages().memory
    asked = CompositeProber(memory, context())
    cross = CompositeEngine.cross

    def astray(self, kind, va, who, value):
        return cross(self, kind, va, who, value ^ 1)

    monkeypatch.setattr(CompositeEngine, "cross", astray)
    with pytest.raises(ProbeError, match="not where the tables lead"):
        asked.probe(composite("cross:write", END))


def test_the_second_access_may_go_by_another_address_of_the_page():
    builder = pages(OPEN).map(NEXT, 0x8000, USED & ~RW, upper=USED)
    found, words = one(builder, "twice:write+read", VA, then_va=NEXT)
    assert [ok(0x8000), ok(0x8000)] == found
    assert {builder.entry_pa(VA, 1): 0x8000 | USED | D} == words
    found, _ = one(builder, "twice:read+write", VA, 3, then=(3, False), then_va=NEXT)
    assert [ok(0x8000), fault(0x7, NEXT)] == found
