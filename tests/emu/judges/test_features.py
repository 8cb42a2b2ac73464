"""What Unicorn's CPU hasn't, put to machines that have it: widths of address, LASS, PKS."""

from dataclasses import replace

import pytest

from crosswalk.emu.check.judged import Status, access_verdicts, kind_of
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.registry import open_judge
from crosswalk.walker.columns import Accesses
from crosswalk.walker.formats import load_case
from crosswalk.walker.memory import SparseWords
from tests.emu.accesses import every
from tests.emu.case_files import RULES_CASES
from tests.tables import OPEN, ROOT, context

WIDTHS = (36, 46, 52)
VA = 0x123


def asked(*names):
    """The cases of these names as questions, with the probes they have."""
    cases = [load_case(RULES_CASES / f"{name}.json") for name in names]
    return [
        Question(each.memory(), each.context(), Accesses.of([probe.asked for probe in each.probes]))
        for each in cases
    ]


def judged(name, questions):
    """Each question with what the judge says, and the verdicts on it."""
    judge = open_judge(name)
    answers = judge.accesses(questions)
    who = kind_of(name, judge.version)
    return [
        (question, answer, access_verdicts(question, answer, who))
        for question, answer in zip(questions, answers, strict=True)
    ]


def test_qemu_has_the_width_of_address_that_is_asked_for(qemu):
    found = judged(qemu, asked(*(f"maxphyaddr-{width}" for width in WIDTHS)))

    for width, (question, answer, result) in zip(WIDTHS, found, strict=True):
        assert width == result.context.maxphyaddr
        statuses = result.verdicts.counts()
        # A fetch where there is no RAM would end QEMU.
        assert {(Status.NOT_SHOWN, "no RAM where the access may lead"): 1}.items() <= (
            statuses.items()
        )
        known = statuses[Status.KNOWN, "reserved-fault-without-p"]
        assert len(question.accesses) - 1 == statuses[Status.AGREED, ""] + known
        assert (10 if width < 52 else 0) == known
        # Of a CPU of 40 bits the same answers are wrong.
        other = replace(answer, context=replace(answer.context, maxphyaddr=40))
        assert access_verdicts(question, other, kind_of(qemu)).verdicts.rows(Status.DIVERGED)


def test_qemu_walks_into_tables_where_there_is_nothing(qemu):
    far = 1 << 45 | 0x3000
    registers = context(maxphyaddr=46)
    asked = [
        Question(SparseWords([(0, 1 << 24)], words), registers, Accesses.of(every(VA)))
        for words in (
            {ROOT: far | OPEN},
            {ROOT: 0x2000 | OPEN, 0x2000: far | OPEN},
            {ROOT: 0x2000 | OPEN, 0x2000: far | 1 << 46 | OPEN},
        )
    ]
    counts = [result.verdicts.counts() for _, _, result in judged(qemu, asked)]
    reserved = {(Status.KNOWN, "reserved-fault-without-p"): 6}
    assert [{(Status.AGREED, ""): 6}, {(Status.AGREED, ""): 6}, reserved] == counts


@pytest.mark.slow
def test_bochs_has_lass(bochs):
    for name in bochs:
        found = judged(name, asked(*(path.stem for path in sorted(RULES_CASES.glob("lass*.json")))))
        for question, answer, result in found:
            counts = result.verdicts.counts()
            if "Bochs 2" in open_judge(name).version:
                assert {Status.NOT_SHOWN} == {status for status, _ in counts}
                continue
            assert {(Status.AGREED, ""): len(question.accesses)} == counts
            without = replace(answer.context, cr4=answer.context.cr4 & ~(1 << 27))
            other = replace(answer, context=without)
            plain = replace(question, context=without)
            assert access_verdicts(plain, other, "bochs").verdicts.rows(Status.DIVERGED)


@pytest.mark.slow
def test_keys_of_supervisor_pages_are_known_of_each_bochs(bochs):
    expected = {
        "bochs 3.0": {(Status.AGREED, ""): 11, (Status.KNOWN, "pkrs-by-privilege"): 3},
        "bochs 3.1": {(Status.AGREED, ""): 9, (Status.KNOWN, "pkrs-by-upper-levels"): 5},
    }
    for name in bochs:
        who = kind_of(name, open_judge(name).version)
        ((_, _, result),) = judged(name, asked("pks"))
        if who in expected:
            assert expected[who] == result.verdicts.counts()
