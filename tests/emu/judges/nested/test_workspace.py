"""What a machine gets of a pair: marks, and the way to the code that makes accesses."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.judges.nested.code import access_at, code_pages
from crosswalk.emu.judges.nested.svm import NestedEntries
from crosswalk.emu.judges.nested.workspace import (
    CODE_VA,
    GUEST_SLOT,
    HOST_SLOT,
    LENT_BYTES,
    LENT_GPA,
    QUIET_ROOT,
    SIGN,
    Lending,
    make_workspace,
)
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, Segments
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.outcome import PageFault, Translation
from tests.emu.judges.nested.grid import HOST, PAGES, VA, ept_grid, npt_grid
from tests.emu.judges.nested.honest import LENT, workspace

KERNEL, USER = LENT + LENT_BYTES - 2 * FRAME, LENT + LENT_BYTES - FRAME


def fetch(space, va, cpl, **registers):
    context = NestedContext(replace(space.context.guest, **registers), space.context.host)
    outcome, *_ = nested_outcomes(space.memory, context, Access(va, AccessType.EXECUTE, cpl=cpl))
    return outcome


@pytest.mark.parametrize("question", [npt_grid(), ept_grid(), ept_grid(mbec=True)])
@pytest.mark.parametrize("quiet", [False, True])
def test_the_code_of_each_privilege_level_is_reached_and_nothing_is_marked(question, quiet):
    space = workspace(question, guest_too=True)
    root = {"cr3": QUIET_ROOT} if quiet else {}
    for cpl, page in ((0, KERNEL), (3, USER)):
        access = Access(VA, AccessType.READ, cpl)
        found = fetch(space, access_at(access), cpl, **root)
        assert access_at(access) % FRAME + page == found.pa
        assert () == found.entries or not quiet
    assert isinstance(fetch(space, CODE_VA, 3, **root), PageFault)


def test_without_need_the_guests_tables_stay_as_they_are():
    space = workspace(npt_grid())
    assert space.marks[:PAGES, GUEST_SLOT].all()
    assert not workspace(npt_grid(), guest_too=True).marks[:PAGES, GUEST_SLOT].any()


def test_the_hosts_first_table_leads_to_what_is_lent():
    space = workspace(ept_grid())
    assert LENT == space.words[HOST, HOST_SLOT] & np.uint64(-FRAME & (1 << 52) - 1)
    assert HOST_SLOT == LENT_GPA >> 39


def test_what_is_lent_is_memory_of_the_prediction():
    space = workspace(npt_grid())
    assert (LENT, LENT_BYTES) in space.memory.ranges
    assert [0, LENT] == [start for start, _, _ in space.runs]
    assert code_pages()[0][: 8 * SIGN] == space.memory.read(KERNEL, 8 * SIGN)


def test_what_a_machine_can_show():
    space = workspace(npt_grid())
    for kind in AccessType:
        assert space.shows(Access(VA, kind), PAGES * FRAME + 8)
        assert space.shows(Access(VA, kind), HOST * FRAME + 24)
        assert not space.shows(Access(VA, kind), 0x50_0000)


def test_a_fetch_of_an_entry_may_do_anything():
    space, entry = workspace(npt_grid()), HOST * FRAME
    read, write, fetch = (Access(VA, kind) for kind in AccessType)
    assert [True, True, False] == [space.shows(each, entry) for each in (read, write, fetch)]


def test_words_of_tables_that_are_no_entries_are_marks():
    question = npt_grid()
    entry = (HOST + 3) * FRAME + 8 * 9
    kept = workspace(question).memory.word(entry)
    assert kept == question.memory.word(entry)
    space = workspace(replace(question, slots=frozenset(range(9))))
    assert kept != space.memory.word(entry)
    assert space.marks[HOST + 3, 9]


def test_without_marks_reads_are_shown_where_frames_differ_and_fetches_are_not():
    question = npt_grid()
    data = bytearray(question.memory.read(0, 16 * FRAME))
    sign = SIGN * 8 + 5 * FRAME
    data[sign : sign + 8] = b"its sign"
    memory = Segments([(0, bytes(data))])
    space = workspace(replace(question, memory=memory, tables=None))
    read, write, fetch = (Access(VA, kind) for kind in AccessType)
    assert [True, True] == [space.shows(read, 5 * FRAME), space.shows(write, 5 * FRAME)]
    assert [False, True] == [space.shows(read, 6 * FRAME), space.shows(write, 6 * FRAME)]
    assert not space.shows(fetch, 5 * FRAME)


def test_every_frame_has_a_sign_of_its_own():
    space = workspace(npt_grid())
    assert space.marks[:, SIGN].all()
    assert len(space.starts) == len(np.unique(space.words[:, SIGN]))


def test_without_tables_named_no_word_is_changed_but_by_what_is_lent():
    question = replace(npt_grid(), tables=None)
    space = workspace(question)
    before = np.frombuffer(question.memory.read(0, 40 * FRAME), np.uint64)
    changed = np.flatnonzero(before != np.frombuffer(space.memory.read(0, 40 * FRAME), np.uint64))
    assert [HOST * FRAME // 8 + HOST_SLOT] == changed.tolist()
    assert not space.marks.any()


def refused(memory, root=0, at=LENT):
    question = npt_grid()
    lending = Lending(NestedEntries(), code_pages(), at, root, guest_too=False)
    with pytest.raises(BadInput) as caught:
        make_workspace(memory, question.context, frozenset(), lending)
    return str(caught.value)


def test_pairs_that_no_machine_can_have_are_refused():
    page = bytes(FRAME)
    whole = Segments([(0, page)])
    assert "no memory at 0x5000, where the host's tables begin" in refused(whole, root=0x5000)
    assert "memory at 0x0, where the machine's own" in refused(whole, at=0)
    assert "more than 524,288 bytes" in refused(Segments([(0, page * 129)]))


def test_a_translation_goes_where_the_tables_say():
    space = workspace(ept_grid())
    accesses = ept_grid().accesses
    outcomes = [nested_outcomes(space.memory, space.context, each)[0] for each in accesses]
    reached = [each.pa for each in outcomes if isinstance(each, Translation)]
    assert 54 == len(reached)
    assert all(space.frame(pa) is not None for pa in reached)
