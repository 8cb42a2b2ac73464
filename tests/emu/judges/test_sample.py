"""Machines hold what is known of them: cases, samples of the matrix and of portable layouts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.check.judged import Status, access_verdicts, kind_of
from crosswalk.emu.cli.given_cases import given_cases
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.registry import open_judge
from crosswalk.emu.matrix.asking import Asking
from crosswalk.emu.matrix.select import ACCESS_SECTIONS, sections_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR0
from crosswalk.walker.formats import Case
from tests.emu.case_files import JUDGES_CASES, KNOWN_CASES, RULES_CASES
from tests.emu.judges.planted import LosesA, Right

LAST = (1 << 64) - 1


def last_byte(context, access):
    return access.va == LAST and access.type is AccessType.EXECUTE


def write_without_wp(context, access):
    return access.type is AccessType.WRITE and access.cpl == 0 and not context.cr0 & CR0.WP


ENDS = {
    "qemu": {"the machine died of SIGABRT": last_byte},
    "bochs 3.0": {
        f"the machine panics: {mode}: asked to set dirty on paging leaf entry with R/W bit clear": (
            write_without_wp
        )
        for mode in ("PAE", "Legacy Paging")
    },
}
"""How machines are known to end, and of which accesses."""


def cases():
    """The single accesses of all case files about departures and rules.

    But for those whose registers are refused, which are there for that.
    """
    folders = [str(each) for each in (KNOWN_CASES, JUDGES_CASES, RULES_CASES)]
    for each in given_cases(folders):
        if isinstance(each.content, Case) and "refused" not in Path(each.name).parts:
            case = each.content
            accesses = Accesses.of([probe.asked for probe in case.probes])
            yield Question(case.memory(), case.context(), accesses)


def of_matrix(states, accesses):
    """Some control states of each section of single accesses, with some accesses of each."""
    chance = np.random.default_rng(1)
    for section in sections_of(Asking("a machine", portable=True))[: len(ACCESS_SECTIONS)]:
        if section.composite:
            continue
        spaces = [next(section.spaces())]
        others = list(section.contexts())
        picked = chance.integers(0, len(others), states)
        (space,) = spaces
        for number in picked.tolist():
            rows = np.sort(chance.integers(0, len(space.accesses), accesses))
            yield Question(space.memory(), others[number], space.accesses.take(rows))


def of_layouts(first, count, accesses):
    """Portable layouts, as a campaign has them."""
    plan = Plan(seed=11, accesses=accesses, choice=LayoutChoice(portable=True))
    seen = CoverageMap().pack()
    for index in range(first, first + count):
        layout = plan.layout(index, seen)
        yield Question(layout.memory(), layout.context, layout.accesses)


def wrong(judge, name, questions):
    """What comes of all of them, counted; and what is neither agreed nor known, with its access."""
    counts, found = Counter(), []
    answers = judge.accesses(questions)
    who = kind_of(name, judge.version)
    ends = ENDS.get(who, ENDS.get(who.partition(" ")[0], {}))
    for question, answer in zip(questions, answers, strict=True):
        result = access_verdicts(question, answer, who)
        for row in range(len(result.verdicts)):
            status, detail = result.verdicts.of(row)
            counts[status] += 1
            if status in {Status.AGREED, Status.KNOWN, Status.NOT_SHOWN, Status.NOT_EXPORTABLE}:
                continue
            access = result.accesses[row]
            if status is Status.ENDED and ends.get(detail, nobody)(result.context, access):
                continue
            found.append((status, detail, result.context, access))
    return counts, found


def harmless(question):
    """Whether it makes no Bochs panic: each time takes two more boots."""
    return bool(question.context.cr0 & CR0.WP)


def usual(question):
    """Whether it wants no boot of its own, for 5-level paging or for RAM from 4 GiB up."""
    high = any(start + size > 4 << 30 for start, size in question.memory.ranges)
    return question.context.levels < 5 and not high


def nobody(context, access):
    return False


def test_qemu_agrees_or_is_known_to_differ(qemu):
    questions = [*cases(), *of_matrix(1, 40), *of_layouts(0, 4, 256)]
    counts, found = wrong(open_judge(qemu), qemu, questions)
    assert [] == found
    assert counts[Status.AGREED] > 1500
    assert counts[Status.KNOWN] > 200


def test_bochs_agrees_or_is_known_to_differ(bochs):
    (name,) = [each for each in bochs if "trixie" in each]
    questions = [*cases(), *filter(harmless, [*of_matrix(1, 4), *of_layouts(0, 1, 32)])]
    counts, found = wrong(open_judge(name), name, list(filter(usual, questions)))
    assert [] == found
    assert counts[Status.AGREED] > 200
    assert counts[Status.KNOWN] > 5


@pytest.mark.slow
def test_each_machine_agrees_or_is_known_to_differ_on_more(qemu, bochs):
    for name, states, accesses, layouts in [
        (qemu, 4, 400, 16),
        *((each, 2, 40, 2) for each in bochs),
    ]:
        questions = [*cases(), *of_matrix(states, accesses), *of_layouts(0, layouts, 512)]
        assert [] == wrong(open_judge(name), name, questions)[1]


def test_what_a_machine_loses_is_found_in_the_sample():
    questions = [*of_matrix(1, 4)]
    assert [] == wrong(Right(), "planted", questions)[1]
    _, found = wrong(LosesA(), "planted", questions)
    assert {Status.DIVERGED} == {status for status, *_ in found}


def test_an_end_that_is_known_is_that_of_such_accesses_alone():
    question = next(of_matrix(1, 1))
    ends = ENDS["qemu"]["the machine died of SIGABRT"]
    assert not ends(question.context, question.accesses[0])
    assert not ends(question.context, replace(question.accesses[0], va=LAST, type=AccessType.READ))
