"""Tables as `protect --format ept` writes them, in Bochs: each page has just the rights granted."""

import numpy as np
import pytest

from crosswalk.emu.judges.nested.judge import NestedJudge, NestedQuestion
from crosswalk.emu.judges.nested.vmx import Vmx
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext
from crosswalk.walker.memory import FRAME, WORDS, Segments
from crosswalk.walker.nested.context import EptContext, NestedContext
from crosswalk.walker.nested.image import tables_image
from crosswalk.walker.nested.outcome import EptViolation
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.protection.policy import TableKind
from tests.walker.nested.nested_memory import EPT, EPT_MBEC, GRANTS

GUEST, PAGES, BASE, VA = 1, 8, 64, 0x40_0000_0000
"""Frames of the guest's tables, of its pages and of the EPT; where the guest has the pages."""


@pytest.fixture(scope="module")
def vmx(bochs3):
    """A judge: VMX in Bochs."""
    with NestedJudge(BochsHost(bochs3), Vmx()) as judge:
        yield judge


def pages_of(kind):
    """Each right twice: of a page of the supervisor's, and of one of the user's."""
    return [(right, user) for right in GRANTS[kind] for user in (0, 1)]


def question_of(kind, granted):
    """A guest whose tables grant everything, under an EPT that grants its pages this."""
    words = np.zeros((BASE + 8, WORDS), np.uint64)
    for level in range(3):
        words[GUEST + level, VA >> 39 - 9 * level & 511] = (GUEST + level + 1) * FRAME | 0x67
    for page, (_, user) in enumerate(pages_of(kind)):
        words[GUEST + 3, page] = (PAGES + page) * FRAME | 0x63 | 4 * user
    own = (GUEST * FRAME, 4 * FRAME, GRANTS[kind][2])
    ranges = [((PAGES + page) * FRAME, FRAME, right) for page, right in enumerate(granted)]
    data, tables = tables_image([own, *ranges], BASE * FRAME, kind=kind)
    words.reshape(-1)[BASE * WORDS :][: len(data) // 8] = np.frombuffer(data, "<u8")
    guest = PagingContext(
        cr3=GUEST * FRAME,
        cr0=0x8000_0033 | int(CR0.WP),
        cr4=int(CR4.PAE),
        efer=int(EFER.LME | EFER.LMA | EFER.NXE),
    )
    host = EptContext(eptp=tables.eptp(), mbec=kind is EPT_MBEC)
    accesses = tuple(
        Access(VA + page * FRAME + 64, access_kind, cpl)
        for page in range(len(granted))
        for access_kind in AccessType
        for cpl in (0, 3)
    )
    frames = [*range(GUEST, GUEST + 4), *range(BASE, BASE + tables.tables)]
    return NestedQuestion(
        Segments([(0, words.tobytes())]),
        NestedContext(guest, host),
        accesses,
        frozenset(at * FRAME for at in frames),
    )


def expected(kind, access):
    """What an access comes to by the right that was granted, and nothing else."""
    page = access.va - VA >> 12
    right, user = pages_of(kind)[page]
    if access.cpl == 3 and not user:
        return PageFault, None
    executes = 8 if user and kind is EPT_MBEC else 4
    needed = {AccessType.READ: 1, AccessType.WRITE: 2, AccessType.EXECUTE: executes}[access.type]
    place = (PAGES + page) * FRAME + 64
    return (Translation if right & needed else EptViolation), place


def observed(answer):
    match answer:
        case Translation(pa=pa):
            return Translation, pa
        case EptViolation(gpa=gpa):
            return EptViolation, gpa
    return type(answer), None


def differing(judge, kind, granted):
    question = question_of(kind, granted)
    (judged,) = judge.ask([question])
    return [
        (access, answer)
        for access, answer in zip(question.accesses, judged.answers, strict=True)
        if expected(kind, access) != observed(answer)
    ]


@pytest.mark.parametrize("kind", [TableKind.EPT, TableKind.EPT_MBEC])
def test_bochs_grants_each_page_just_what_was_written(vmx, kind):
    assert [] == differing(vmx, kind, [right for right, _ in pages_of(kind)])


def test_a_right_that_differs_in_one_bit_is_found(vmx):
    granted = [right for right, _ in pages_of(EPT)]
    assert GRANTS[EPT][3] == granted[6]
    granted[6] = GRANTS[EPT][1]
    found = differing(vmx, EPT, granted)
    assert {(VA + 6 * FRAME + 64, AccessType.EXECUTE, 0)} == {
        (access.va, access.type, access.cpl) for access, _ in found
    }
