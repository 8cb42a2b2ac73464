"""What is made of what machines leave behind: an honest one agrees, one that lies doesn't."""

from dataclasses import dataclass, replace
from functools import cache

import pytest

from crosswalk.emu.check.nested import allowed_by
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.fuzz.nested.ept_pair import make_ept_pair
from crosswalk.emu.fuzz.nested.pair import ENTRY_SLOTS
from crosswalk.emu.judges.judge import ELSEWHERE, Reason, Unjudged
from crosswalk.emu.judges.nested.code import access_at, done_at
from crosswalk.emu.judges.nested.judge import NestedQuestion
from crosswalk.emu.judges.nested.outcomes import Left, Made, outcome_of, sign_of, stored_byte
from crosswalk.emu.judges.nested.workspace import Workspace
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.judges.nested.grid import PAGES, VA, ept_grid, npt_grid
from tests.emu.judges.nested.honest import made, workspace


def question(pair):
    return NestedQuestion(pair.memory, pair.context, pair.accesses, pair.tables, ENTRY_SLOTS)


def questions():
    yield from (npt_grid(used=False), ept_grid(mbec=True, accessed_dirty=True))
    yield from (question(make_pair(3, number, 40)) for number in range(4))
    yield from (question(make_ept_pair(3, number, 40, mbec=number % 2 == 1)) for number in range(4))


def observed(space, access, what, baseline=()):
    stored = stored_byte(space, access.va)
    return outcome_of(space, access, what, stored, jumped=False, baseline=baseline)


@dataclass(frozen=True)
class Case:
    space: Workspace
    access: Access
    predicted: tuple
    what: Made

    @property
    def first(self):
        return self.predicted[0]

    @property
    def shown(self):
        reached = isinstance(self.first, Translation)
        return not reached or self.space.shows(self.access, self.first.pa)

    def agrees(self, what):
        answer = observed(self.space, self.access, what)
        told = not isinstance(answer, Reason)
        return told and allowed_by(self.space.memory, self.predicted, answer)


@cache
def cases():
    found = []
    for each in questions():
        space = workspace(each)
        for access in each.accesses:
            predicted = nested_outcomes(space.memory, space.context, access)
            found.append(Case(space, access, predicted, made(space, access, predicted[0])))
    return found


def test_a_machine_that_does_as_the_walker_says_is_understood():
    shown = [case for case in cases() if case.shown]
    assert [] == [case.access for case in shown if not case.agrees(case.what)]
    assert len(shown) > 0.95 * len(cases())


def flipped(field, bits):
    def lie(case):
        what, left = case.what, case.what.left
        if left.vector not in {None, Vector.PF}:
            return None
        if left.vector == Vector.PF and field in {"error_code", "address"}:
            return replace(what, left=replace(left, **{field: getattr(left, field) ^ bits}))
        fault = left.fault
        if fault is None or not hasattr(fault, field):
            return None
        changed = replace(fault, **{field: getattr(fault, field) ^ bits})
        return replace(what, left=replace(left, fault=changed))

    return lie


def loses_a_mark(case):
    """Of an access that succeeds: where it faults, marks are the processor's choice."""
    what = case.what
    if what.left.vector not in {Vector.UD, Vector.DB}:
        return None
    marked = [each for each in what.changed if each in case.first.entries]
    rest = tuple(each for each in what.changed if each not in marked[:1])
    return replace(what, changed=rest) if marked else None


def marks_one_more(case):
    space, what = case.space, case.what
    table = space.starts[0] + 8
    value = space.memory.word(int(table)) | 1 << 52
    if value == space.memory.word(int(table)):
        return None
    return replace(what, changed=tuple(sorted({**dict(what.changed), int(table): value}.items())))


def neighbour(space, pa):
    """Another frame's address at the same place in it."""
    frames = [int(start) for start in space.starts if int(start) != pa & -FRAME]
    return frames[len(frames) // 2] | pa % FRAME


def goes_to_another_frame(case):
    space, access, what, predicted = case.space, case.access, case.what, case.first
    if not isinstance(predicted, Translation):
        return None
    other = neighbour(space, predicted.pa)
    content = space.memory.word(other & -8)
    match access.type:
        case AccessType.READ:
            byte = content >> access.va % 8 * 8 & 0xFF
            sign = space.memory.word(sign_of(other))
            return replace(what, left=replace(what.left, rsi=sign, rax=byte))
        case AccessType.WRITE:
            mask, shift = 0xFF << access.va % 8 * 8, access.va % 8 * 8
            value = content & ~mask | stored_byte(space, access.va) << shift
            changed = {**dict(predicted.entries), other & -8: value}
            return replace(what, changed=tuple(sorted(changed.items())), again=None)
    code = space.memory.word(sign_of(other)) >> 8 & 0xFFFF_FFFF
    return replace(what, again=replace(what.again, left=replace(what.again.left, rax=code)))


def reads_another_byte(case):
    what = case.what
    if case.access.type is not AccessType.READ or what.left.vector != Vector.UD:
        return None
    return replace(what, left=replace(what.left, rax=what.left.rax ^ 1))


def succeeds_all_the_same(case):
    what, access = case.what, case.access
    if what.left.vector in {Vector.UD, Vector.DB} or access.type is AccessType.EXECUTE:
        return None
    return replace(what, left=Left(done_at(access), vector=Vector.UD))


def faults_all_the_same(case):
    what, access = case.what, case.access
    if what.left.vector not in {Vector.UD, Vector.DB}:
        return None
    at = access.va if access.type is AccessType.EXECUTE else access_at(access)
    return replace(what, left=Left(at, vector=Vector.PF, error_code=1, address=access.va))


LIES = {
    "the error code's P": flipped("error_code", 1 << 0),
    "the error code's W/R": flipped("error_code", 1 << 1),
    "the error code's U/S": flipped("error_code", 1 << 2),
    "the error code's RSVD": flipped("error_code", 1 << 3),
    "the stage of a nested fault": flipped("error_code", 3 << 32),
    "CR2": flipped("address", 1 << 0),
    "the guest-physical address": flipped("gpa", 1 << 3),
    "the linear address of a violation": flipped("gla", 1 << 12),
    **{
        f"bit {bit} of the qualification": flipped("qualification", 1 << bit)
        for bit in (1, 2, 3, 4, 8)
    },
    "a mark is lost": loses_a_mark,
    "a word is changed besides": marks_one_more,
    "another frame is reached": goes_to_another_frame,
    "another byte is read": reads_another_byte,
    "no fault": succeeds_all_the_same,
    "a fault": faults_all_the_same,
}


@pytest.mark.parametrize("name", LIES)
def test_a_machine_that_lies_in_one_thing_is_caught(name):
    lies = [(case, LIES[name](case)) for case in cases() if case.shown]
    told = [(case, lied) for case, lied in lies if lied is not None]
    assert [] == [case.access for case, lied in told if case.agrees(lied)]
    assert len(told) > 3


def one(kind, cpl=0, offset=0):
    space = workspace(npt_grid())
    return space, Access(VA + 7 * FRAME + offset, kind, cpl)


@pytest.mark.parametrize("kind", [AccessType.READ, AccessType.WRITE])
def test_an_end_elsewhere_in_the_code_is_a_finding(kind):
    space, access = one(kind)
    answer = observed(space, access, Made(Left(done_at(access) + 1, vector=Vector.UD), ()))
    assert (Unjudged.ENDED, "the access ends otherwise: vector 6") == (answer.kind, answer.text)


def test_a_guest_that_is_not_entered_is_a_finding():
    space, access = one(AccessType.READ)
    answer = observed(space, access, Made(Left(access_at(access), other="not entered"), ()))
    assert Reason(Unjudged.ENDED, "not entered") == answer


def test_what_an_instruction_without_mark_does_is_no_fault_of_its_fetch():
    space, access = one(AccessType.EXECUTE)
    own = [
        Left(access.va, vector=Vector.GP),
        Left(access.va, vector=Vector.PF, error_code=4, address=access.va + 0x1234),
        Left(access.va, vector=Vector.UD),
        Left(access.va, fault=EptViolation(0x181, 0x5000, access.va + 0x1234)),
        Left(access.va, what="HLT"),
    ]
    assert [Translation(ELSEWHERE)] * 5 == [
        observed(space, access, Made(left, (), Made(left, ()))) for left in own
    ]


def test_faults_of_a_fetch_are_its_own():
    space, access = one(AccessType.EXECUTE)
    fault = PageFault(0x10, access.va)
    left = Left(access.va, vector=Vector.PF, error_code=0x10, address=access.va)
    assert fault == observed(space, access, Made(left, ()))
    left = Left(access.va, fault=EptMisconfiguration(0x5000))
    assert EptMisconfiguration(0x5000) == observed(space, access, Made(left, ()))


@pytest.mark.parametrize(("sign", "byte"), [(0x1234, 0), (None, 1)])
def test_a_read_that_finds_what_no_page_has_went_elsewhere(sign, byte):
    space, access = one(AccessType.READ)
    pa = PAGES * FRAME
    sign = space.memory.word(sign_of(pa)) if sign is None else sign
    rax = (space.memory.word(pa) & 0xFF) ^ byte
    left = Left(done_at(access), rax=rax, rsi=sign, vector=Vector.UD)
    assert Translation(ELSEWHERE) == observed(space, access, Made(left, ()))


def test_a_write_that_no_word_shows_went_elsewhere():
    space, access = one(AccessType.WRITE)
    left = Left(done_at(access), vector=Vector.UD)
    assert Translation(ELSEWHERE) == observed(space, access, Made(left, ()))


def test_general_protection_of_reads_is_told_of_canonical_addresses_too():
    space, access = one(AccessType.READ)
    left = Left(access_at(access), vector=Vector.GP)
    assert GeneralProtection() == observed(space, access, Made(left, ()))


def test_what_the_way_to_the_code_changes_is_not_the_accesss_own():
    space, _ = one(AccessType.READ)
    access = Access(1 << 60, AccessType.READ)
    what = Made(Left(access_at(access), vector=Vector.GP), ((0x1000, 0x67), (0x2000, 0x67)))
    assert GeneralProtection(((0x2000, 0x67),)) == observed(
        space, access, what, baseline=((0x1000, 0x67),)
    )


def test_the_byte_that_is_stored_is_in_no_frame():
    space = workspace(npt_grid())
    for va in (VA, VA + 1, VA + 0xFF7):
        byte = stored_byte(space, va)
        held = {int(word) >> va % 8 * 8 & 0xFF for word in space.words[:, va % FRAME // 8]}
        assert byte not in held
