"""What composites may come to, by the manuals; and that what differs is seen to."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.allowed_outcomes import allowed_outcomes, is_allowed, parts_of
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.probe.composites import FORMS, Composites
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from tests.emu.composites import composite
from tests.tables import KIB4, RW, US, USED, XD, D, PageTables, context

VA = 0x40_0000
NEXT = VA + KIB4
FIRST, SECOND = 0x8000 | USED, 0x9000 | USED


def pages(first=USED, second=USED):
    builder = PageTables(ram=((0, 1 << 26),))
    for va, pa, flags in ((VA, 0x8000, first), (NEXT, 0x9000, second)):
        if flags is not None:
            builder.map(va, pa, flags, upper=USED)
    return builder


def claimed(builder, one, **switches):
    """The valid claims about one composite: kinds, codes, CR2s, and words that must and may."""
    memory, under = builder.memory, context(**switches)
    found = []
    for claim in allowed_outcomes(one, parts_of(memory, under, one)):
        if not claim.valid[0]:
            continue
        must, may = {}, {}
        for pa, value, needed in zip(claim.word[0], claim.value[0], claim.must[0], strict=True):
            if value:
                into = must if needed else may
                into[int(pa)] = into.get(int(pa), 0) | int(value)
        found.append(
            (
                tuple(claim.kind[0].tolist()),
                tuple(claim.error_code[0].tolist()),
                tuple(claim.cr2[0].tolist()),
                must,
                may,
            )
        )
    return found


def fault(code, cr2, may=None):
    return ((1, 0), (code, 0), (cr2, 0), {}, may or {})


def test_both_pages_of_a_crossing_that_is_allowed_are_marked():
    builder = pages(USED & ~0x20, USED & ~0x20)
    marks = {builder.entry_pa(VA, 1): FIRST | D, builder.entry_pa(NEXT, 1): SECOND | D}
    expected = [((0, 0), (0, 0), (0, 0), marks, {})]
    assert expected == claimed(builder, composite("cross:write", NEXT - 4))


def test_where_both_pages_are_denied_either_may_be_the_one_that_faults():
    expected = [fault(0x7, NEXT - 4), fault(0x7, NEXT)]
    found = claimed(pages(USED & ~RW, USED & ~RW), composite("cross:write", NEXT - 4, 3))
    assert expected == found


def test_the_page_that_is_not_at_fault_may_have_been_marked():
    builder = pages(USED & ~0x20, None)
    marks = {builder.entry_pa(VA, 1): FIRST}
    assert [fault(0x0, NEXT, marks)] == claimed(builder, composite("cross:read", NEXT - 4))


def test_a_locked_modification_is_a_write_in_its_error_code():
    assert [fault(0x6, VA)] == claimed(pages(None), composite("rmw:xadd", VA, 3))


def test_an_implicit_access_is_the_supervisors_and_ignores_ac():
    for cpl in (0, 3):
        one = composite("implicit:read", VA + 8, cpl, ac=True)
        assert [fault(0x1, VA + 8)] == claimed(pages(), one, smap=True)


def test_marking_a_descriptor_is_a_write_after_a_read():
    builder = pages(USED & ~RW & ~0x20)
    marks = {builder.entry_pa(VA, 1): 0x8000 | USED & ~RW}
    one = composite("implicit:write", VA + 8)
    assert [fault(0x3, VA + 8, marks)] == claimed(builder, one)


def test_two_accesses_each_have_their_own_answer():
    builder = pages(USED & ~0x20 | XD)
    place = builder.entry_pa(VA, 1)
    found = claimed(builder, composite("twice:execute+write", VA, then=(3, False)))
    may = {place: FIRST | XD}
    assert [((1, 0), (0x11, 0), (VA, 0), {place: FIRST | XD | D}, may)] == found


BUGS = {}


def bug(*forms):
    def keep(function):
        BUGS[function.__name__] = (function, forms)
        return function

    return keep


@bug("rmw:xadd", "rmw:cmpxchg", "implicit:write")
def writes_taken_for_reads(memory, under, accesses):
    return translate_many(memory, under, replace(accesses, type=np.zeros_like(accesses.type)))


@bug("cross:read", "cross:write", "cross:execute")
def the_second_page_forgotten(memory, under, accesses):
    return translate_many(
        memory, under, replace(accesses, va=np.where(accesses.va == NEXT, VA, accesses.va))
    )


@bug("implicit:read", "implicit:write")
def implicit_accesses_the_users(memory, under, accesses):
    return translate_many(memory, under, replace(accesses, cpl=np.full_like(accesses.cpl, 3)))


@bug("twice:read+write", "twice:write+write")
def no_dirty_bit(memory, under, accesses):
    found = translate_many(memory, under, accesses)
    entry = np.where(found.kind[:, None] == Kind.OK, found.entry_value & ~np.uint64(D), 0)
    return replace(found, entry_value=entry)


@bug("twice:read+read", "twice:write+read")
def cr2_at_the_page(memory, under, accesses):
    found = translate_many(memory, under, accesses)
    return replace(found, cr2=found.cr2 & ~np.uint64(0xFFF))


@bug("cross:read", "rmw:xadd", "twice:read+read", "implicit:read")
def another_frame(memory, under, accesses):
    found = translate_many(memory, under, accesses)
    return replace(found, pa=np.where(found.pa != 0, found.pa ^ np.uint64(KIB4), found.pa))


@bug("twice:read+execute", "cross:execute")
def fetches_not_told(memory, under, accesses):
    found = translate_many(memory, under, accesses)
    return replace(found, error_code=found.error_code & ~np.uint16(0x10))


def at(form):
    family, kind = form.split(":")
    if family == "cross":
        return NEXT - (6 if kind == "execute" else 4)
    return VA + (8 if family == "implicit" else 0x40)


GROUNDS = [
    pages(first, second)
    for first in (USED & ~0x20, USED & ~RW, USED & ~US)
    for second in (USED & ~0x20, None)
]


def all_of(form):
    rows = [composite(form, at(form), cpl, then=(then, False)) for cpl in (0, 3) for then in (0, 3)]
    return Composites.join(rows)


@pytest.fixture(scope="module")
def stand():
    """One for all tests: that saves engines."""
    return CompositeChecker()


def judged(stand, form, predict):
    """What one form came to on all grounds: how many diverge, how many are known to."""
    stand._predict, differ, known = predict, 0, 0
    for builder in GROUNDS:
        found = stand.judge(builder.memory, context(), all_of(form))
        differ += int(found.differ.sum())
        known += sum(found.known.values())
    return differ, known


@pytest.mark.parametrize("form", FORMS)
def test_the_emulated_cpu_does_what_is_claimed(stand, form):
    differ, known = judged(stand, form, translate_many)
    assert 0 == differ
    assert (known > 0) == form.startswith("rmw:")


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name, (_, forms) in BUGS.items() for form in forms]
)
def test_a_planted_bug_is_seen(stand, name, form):
    differ, _ = judged(stand, form, BUGS[name][0])
    assert differ > 0


def test_rights_that_a_tlb_remembers_wrongly_are_seen(stand):
    # The second access is taken to have what the first had.
    builder = pages(USED & ~US)
    one = composite("twice:read+read", VA, then=(3, False))
    seen = stand.judge(builder.memory, context(), one).seen
    parts = parts_of(builder.memory, context(), one)
    assert is_allowed(allowed_outcomes(one, parts), seen).all()
    assert not is_allowed(allowed_outcomes(one, replace(parts, second=parts.first)), seen).any()


def changed(seen, name, value, column=0):
    copied = getattr(seen, name).copy()
    copied[0, column] = value
    return replace(seen, **{name: copied})


NEAR_MISSES = {
    "kind": lambda seen: changed(seen, "kind", 2),
    "kind of the second": lambda seen: changed(seen, "kind", 1, 1),
    "pa": lambda seen: changed(seen, "pa", 0x8001),
    "pa of the second": lambda seen: changed(seen, "pa", 0, 1),
    "error code": lambda seen: changed(seen, "error_code", 1),
    "CR2": lambda seen: changed(seen, "cr2", VA),
    "a word less": lambda seen: changed(seen, "entry_value", 0),
    "a bit less": lambda seen: changed(seen, "entry_value", 0x8000 | USED, 0),
    "a bit more": lambda seen: changed(seen, "entry_value", 0x8000 | USED | D | 0x100, 0),
    "a word more": lambda seen: changed(changed(seen, "entry_value", 1, 5), "entry_pa", 8, 5),
    "another word": lambda seen: changed(seen, "entry_pa", 8),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_is_slightly_different_is_not_met(stand, name):
    builder = pages(USED & ~0x20, USED & ~0x20)
    one = composite("twice:read+write", VA)
    stand._predict = translate_many
    found = stand.judge(builder.memory, context(), one)
    assert is_allowed(found.allowed, found.seen).all()
    assert not is_allowed(found.allowed, NEAR_MISSES[name](found.seen)).any()


def test_cr2_may_lie_anywhere_in_a_descriptor_and_nowhere_else(stand):
    builder = pages(None)
    one = composite("implicit:read", VA + 8)
    stand._predict = translate_many
    found = stand.judge(builder.memory, context(), one)
    for cr2, good in ((VA + 7, False), (VA + 8, True), (VA + 15, True), (VA + 16, False)):
        assert good == is_allowed(found.allowed, changed(found.seen, "cr2", cr2)).all()
