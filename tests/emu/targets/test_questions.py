"""Which questions are put to a walker, and what is put aside where it fails to answer."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.questions import MOST_FAILURES, Course, listed, put
from crosswalk.emu.workers.sandbox import HANGS, Failure, NoAnswer, Unloadable
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import CR3
from crosswalk.walker.outcome import PageFault, Translation
from tests.emu.targets.walkers import (
    HOLE,
    PAGE,
    READ_ONLY,
    answers,
    every,
    library,
    python_walker,
    reads,
    script,
    space,
)
from tests.tables import context

RIGHTS = frozenset({Capability.RIGHTS})
TRANSLATION = frozenset({Capability.TRANSLATION})
LEAVES = frozenset({Capability.LEAVES})
MANY = reads(*range(0, 64 * 4096, 4096))
"""64 accesses, of a page each."""


class Walker:
    """Answers each access with its own address, and notes what it is asked.

    `fails` says of the addresses asked so far, and of the next, whether it fails there. It knows
    where it fails if `tells`.
    """

    def __init__(self, fails, failure=Failure.CRASH, *, tells=True, claims=RIGHTS):
        self.fails, self.failure, self.tells, self.claims = fails, failure, tells, claims
        self.asked = []

    def __call__(self, questions):
        found = Answers.none(len(questions.accesses))
        self.asked.append(before := [])

        def ask(va, number):
            if self.fails(before, va):
                raise NoAnswer(self.failure, "it fails", "it fails", number if self.tells else None)
            before.append(va)

        for row, va in enumerate(questions.accesses.va.tolist()):
            ask(va, row)
            found.fill(row, Translation(va))

        def lister(va, _end):
            ask(va, course.place[0])
            return [(va, 0, 4096)]

        course = Course()
        return replace(found, listing=listed(context(), questions, lister, course)), {}

    def put(self, accesses=MANY):
        return put(self.claims, space().memory, context(), accesses, self)


def at(*addresses):
    return lambda _, va: va in addresses


def shown(said):
    """Each failure's rows, and the addresses of the accesses that show it."""
    return [(each.rows.tolist(), each.accesses.va.tolist()) for each in said.failures]


@pytest.mark.parametrize("tells", [True, False], ids=["it is known where", "it isn't known"])
@pytest.mark.parametrize("failure", [Failure.CRASH, Failure.FLOOD, Failure.NONSENSE])
def test_the_question_that_fails_is_put_aside_and_all_others_are_answered(failure, tells):
    bad = 7 * 4096
    walker = Walker(at(bad), failure, tells=tells)
    said = walker.put()
    assert [failure] == [each.failure.failure for each in said.failures]
    assert [([7], [bad])] == shown(said)
    assert [7] == np.flatnonzero(said.silent).tolist() == said.aside.tolist()
    assert [va for va in MANY.va.tolist() if va != bad] == said.outcomes.pa[~said.silent].tolist()
    if tells:
        # All, as far as that goes; it alone; those before it and behind it.
        assert [7, 0, 7, 56] == [len(asked) for asked in walker.asked]


def test_a_walker_that_does_not_fail_is_asked_once():
    walker = Walker(at())
    said = walker.put()
    assert [MANY.va.tolist()] == walker.asked
    assert (0, ()) == (len(said.aside), said.failures)


def test_several_questions_that_fail_are_put_aside_in_order():
    said = Walker(at(9 * 4096, 3 * 4096)).put()
    assert [([3], [3 * 4096]), ([9], [9 * 4096])] == shown(said)
    assert [3, 9] == np.flatnonzero(said.silent).tolist()


@pytest.mark.parametrize("tells", [True, False])
def test_after_some_failures_no_more_is_asked(tells):
    walker = Walker(lambda *_: True, tells=tells)
    said = walker.put()
    assert [([row], [row * 4096]) for row in range(MOST_FAILURES)] == shown(said)
    assert list(range(64)) == said.aside.tolist()
    assert said.silent.all()
    assert len(walker.asked) <= 2 * MOST_FAILURES + 1


def test_what_lies_before_the_last_failure_is_answered():
    said = Walker(lambda _, va: va >> 12 & 3 == 3).put()
    last = 4 * MOST_FAILURES - 1
    assert [[row] for row in range(3, 64, 4)][:MOST_FAILURES] == [rows for rows, _ in shown(said)]
    assert [row for row in range(last) if row & 3 != 3] == np.flatnonzero(~said.silent).tolist()


def test_of_hangs_only_a_few_are_waited_for():
    walker = Walker(lambda *_: True, Failure.HANG)
    said = walker.put()
    assert HANGS == len(walker.asked)
    assert [([0], [0]), ([1], [4096])] == shown(said)
    assert list(range(64)) == said.aside.tolist()


def test_what_lies_before_the_last_hang_is_answered():
    said = Walker(lambda _, va: va >> 12 & 15 == 15, Failure.HANG).put()
    assert [[15], [31]] == [rows for rows, _ in shown(said)]
    answered = [row for row in range(47) if row & 15 != 15]
    assert answered == np.flatnonzero(~said.silent).tolist()


def test_a_hang_in_an_unknown_place_is_narrowed_down_as_far_as_there_is_time():
    said = Walker(at(5 * 4096), Failure.HANG, tells=False).put()
    ((rows, addresses),) = shown(said)
    assert 5 in rows
    assert len(rows) < 8
    assert [row * 4096 for row in rows] == addresses


def test_a_crash_after_many_questions_is_a_failure_of_all_of_them_which_are_answered():
    said = Walker(lambda before, _: len(before) >= 40).put()
    assert [(list(range(64)), MANY.va.tolist())] == [
        (rows, list(addresses)) for rows, addresses in shown(said)
    ]
    assert 1 == said.failures[0].count
    assert not said.silent.any()
    assert MANY.va.tolist() == said.outcomes.pa.tolist()


def test_a_walker_too_slow_for_all_questions_at_once_has_not_failed():
    walker = Walker(lambda before, _: len(before) >= 40, Failure.HANG)
    said = walker.put()
    assert () == said.failures
    assert MANY.va.tolist() == said.outcomes.pa.tolist()


def test_a_single_question_that_hangs_is_asked_again_and_one_that_crashes_is_not():
    for failure, asked, failed in ((Failure.HANG, 2, 0), (Failure.CRASH, 1, 1)):
        walker = Walker(lambda *_: len(walker.asked) == 1, failure)  # noqa: B023  # Asked in here.
        said = walker.put(reads(PAGE))
        assert (asked, failed) == (len(walker.asked), len(said.failures))
    walker = Walker(lambda *_: True, Failure.HANG)
    assert [([0], [PAGE])] == shown(walker.put(reads(PAGE)))


def test_a_wrong_place_costs_halving_and_nothing_else():
    walker = Walker(at(50 * 4096))

    def wrong(questions):
        try:
            return walker(questions)
        except NoAnswer as failure:
            failure.at = 0
            raise

    said = put(RIGHTS, space().memory, context(), MANY, wrong)
    assert [([50], [50 * 4096])] == shown(said)
    assert [50] == said.aside.tolist()


def test_answers_that_are_refused_are_failures_of_one_kind_and_nothing_is_asked_again():
    walker = Walker(at())

    def refusing(questions):
        said, _ = walker(questions)
        return said, {row: NoAnswer(Failure.NONSENSE, "odd", f"odd: {row}") for row in (9, 5, 60)}

    said = put(RIGHTS, space().memory, context(), MANY, refusing)
    assert 1 == len(walker.asked)
    assert [([5, 9, 60], [5 * 4096])] == shown(said)
    assert ("odd: 5", 3) == (str(said.failures[0].failure), said.failures[0].count)
    assert [5, 9, 60] == said.aside.tolist() == np.flatnonzero(said.silent).tolist()


def test_a_list_that_is_refused_has_no_mappings():
    walker = Walker(at(), claims=LEAVES)

    def refusing(questions):
        return walker(questions)[0], {0: NoAnswer(Failure.NONSENSE, "odd", "odd")}

    said = put(LEAVES, space().memory, context(), reads(PAGE), refusing)
    assert [([0], [PAGE])] == shown(said)
    assert [0xFFFF_8000_0000_0000] == said.listing.mappings.va.tolist()
    assert ([0], [True, False]) == (said.listing.aside.tolist(), said.listing.silent.tolist())


def test_a_bit_too_many_in_every_answer_hides_none_of_the_others(tmp_path):
    body = f"""
open({str(tmp_path / "loads")!r}, "a").write("x")
def f(memory, context, access):
    return access.va | (1 << 63 if access.va & 0x1000 else 0)
f.claims = "rights"
"""
    addresses = range(0, 40 * 4096, 4096)
    said = answers(python_walker(tmp_path, body), reads(*addresses))
    assert [(list(range(1, 40, 2)), [4096])] == shown(said)
    assert 20 == said.failures[0].count
    assert list(addresses)[::2] == said.outcomes.pa[~said.silent].tolist()
    assert "x" == (tmp_path / "loads").read_text()


def test_who_can_not_be_loaded_again_is_asked_no_more_and_the_failure_is_the_first():
    walker = Walker(at(9 * 4096))

    def once(questions):
        if walker.asked:
            raise Unloadable(Failure.CRASH, "can't be loaded", "can't be loaded")
        return walker(questions)

    said = put(RIGHTS, space().memory, context(), MANY, once)
    assert [([9], [9 * 4096])] == shown(said)
    assert "it fails" == said.failures[0].failure.kind
    assert 64 == len(said.aside)


def test_of_lists_the_range_that_fails_is_put_aside():
    upper = 0xFFFF_8000_0000_0000
    accesses = reads(PAGE, upper + 5)
    for bad, rows, address, left in ((0, [0], PAGE, upper), (upper, [1], upper + 5, 0)):
        walker = Walker(at(bad), claims=LEAVES)
        said = walker.put(accesses)
        assert [(rows, [address])] == shown(said)
        assert [left] == said.listing.mappings.va.tolist()
        assert [1 - int(bad != 0)] == said.listing.at.tolist()
        assert [int(bad != 0)] == said.listing.aside.tolist()
        assert [bad == 0, bad != 0] == said.listing.silent.tolist()


def test_a_range_without_accesses_is_shown_by_a_read_of_its_first_byte():
    upper = 0xFFFF_8000_0000_0000
    said = Walker(at(upper), claims=LEAVES).put(reads(PAGE))
    assert [([], [upper])] == shown(said)


def test_accesses_and_lists_are_put_aside_apart():
    walker = Walker(lambda before, va: va == PAGE, claims=RIGHTS | LEAVES)
    said = walker.put(reads(HOLE, PAGE))
    assert [([1], [PAGE])] == shown(said)
    assert [1] == said.aside.tolist()
    assert 0 == len(said.listing.aside)
    assert [0, 0xFFFF_8000_0000_0000] == said.listing.mappings.va.tolist()


def test_translation_alone_is_asked_once_a_page_for_the_first_access_in_order():
    accesses = reads(PAGE + 0xFF8, HOLE, PAGE + 8, READ_ONLY, HOLE + 1, PAGE)
    walker = Walker(at(), claims=TRANSLATION)
    said = walker.put(accesses)
    assert [[PAGE + 0xFF8, HOLE, READ_ONLY]] == walker.asked
    assert accesses.va.tolist() == said.outcomes.pa.tolist()
    with_rights = Walker(at(), claims=TRANSLATION | RIGHTS)
    with_rights.put(accesses)
    assert [accesses.va.tolist()] == with_rights.asked


def test_what_a_page_is_not_translated_to_is_so_for_all_of_its_accesses():
    def faults(questions):
        said = Answers.none(len(questions.accesses))
        said.fill(0, PageFault(0, 0))
        return said, {}

    said = put(TRANSLATION, space().memory, context(), reads(PAGE + 8, HOLE, PAGE, HOLE), faults)
    assert [Kind.PAGE_FAULT, Kind.PAGE_FAULT] == said.outcomes.kind[[0, 2]].tolist()
    assert [0, 0] == said.outcomes.pa[[0, 2]].tolist()
    assert [False, True, False, True] == said.silent.tolist()


def test_a_page_that_fails_fails_for_all_of_its_accesses():
    said = Walker(at(HOLE), claims=TRANSLATION).put(reads(PAGE, HOLE, PAGE + 1, HOLE + 1))
    assert [([1, 3], [HOLE])] == shown(said)
    assert [1, 3] == said.aside.tolist()


def test_pages_are_those_before_and_after_a_masked_address():
    """LAM masks the addresses of reads and writes, and those of fetches not."""
    tagged = PAGE | 0x5 << 57
    under = context(root=0x1000 | CR3.LAM_U57)
    asked = every(tagged, PAGE)
    walker = Walker(at(), claims=TRANSLATION)
    said = put(TRANSLATION, space().memory, under, asked, walker)
    assert 3 == len(walker.asked[0])
    assert asked.va.tolist() == said.outcomes.pa.tolist()


FAILING = """
def f(memory, context, access):
    if access.va == 0x40_1000: {act}
    return access.va
f.claims = "rights"
"""
PROCESS = """
import json, os, sys
print('{{"protocol": "crosswalk-walker/1", "claims": ["rights"]}}', flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if "va" in question:
        if question["va"] == "0x401000": {act}
        print(json.dumps({{"outcome": "ok", "pa": question["va"]}}), flush=True)
"""
LIBRARY = """
void crosswalk_attach(const struct crosswalk_memory *memory) {{ (void)memory; }}
int crosswalk_translate(uint64_t va, int access, int cpl, int ac, uint64_t *pa)
{{
    (void)access; (void)cpl; (void)ac;
    if (va == 0x401000) {{ {act} }}
    *pa = va;
    return 1;
}}
"""


@pytest.mark.parametrize(
    ("made", "body", "act", "kind"),
    [
        (python_walker, FAILING, "1 // 0", "raised ZeroDivisionError"),
        (python_walker, FAILING, "__import__('os').abort()", "died of SIGABRT"),
        (python_walker, FAILING, "return 'what?'", "no physical address, None or outcome"),
        (python_walker, FAILING, "return 1 << 60", "a physical address of more than 52 bits"),
        (script, PROCESS, "os.abort()", "died of SIGABRT"),
        (script, PROCESS, "print('what?', flush=True); continue", "no answer to an access"),
        (script, PROCESS, "print('{}\\n{}', flush=True)", "more answers than questions"),
        (library, LIBRARY, "abort();", "died of SIGABRT"),
        (library, LIBRARY, "return 2;", "crosswalk_translate returned neither 0, 1 nor -1"),
    ],
)
def test_one_failure_does_not_hide_the_rest(tmp_path, made, body, act, kind):
    walker = made(tmp_path, body.format(act=act))
    said = answers(walker, reads(PAGE, READ_ONLY, HOLE, READ_ONLY + 8))
    assert [(kind, [READ_ONLY])] == [
        (each.failure.kind, each.accesses.va.tolist()) for each in said.failures
    ]
    assert [False, True, False, False] == said.silent.tolist()
    assert [PAGE, HOLE, READ_ONLY + 8] == said.outcomes.pa[[0, 2, 3]].tolist()
