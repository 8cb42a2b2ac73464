"""Pairs put to a machine: what it doesn't survive is foreseen, proved once, and not made again."""

from dataclasses import replace

from crosswalk.emu.check.nested import is_fatal
from crosswalk.emu.fuzz.nested.judged import judge_pair, judged_pairs, pair_of
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.walker.nested.outcome import EptViolation
from crosswalk.walker.protection.policy import TableKind
from tests.emu.check.nested.simulated import BOCHS, PANIC, SimulatedJudge, honest

FATAL = 105
"""The pair of seed 0 whose first access Bochs 3.0 doesn't survive."""


def test_a_machine_is_held_against_the_prediction():
    judge = SimulatedJudge()
    found = list(judged_pairs(judge, TableKind.EPT_MBEC, 1, range(4), 30))
    assert [0, 1, 2, 3] == [each.number for each in found]
    assert [()] * 4 == [each.verdict.divergences for each in found]
    assert all(each.verdict.probes + len(each.verdict.fatal) == 30 for each in found)
    assert any(each.verdict.known for each in found)


def test_a_machine_without_departures_only_agrees():
    for each in judged_pairs(honest(), TableKind.EPT, 1, range(4), 30):
        assert (30, 30) == (each.verdict.probes, each.verdict.agreements)


def test_a_machine_that_lies_in_one_bit_is_caught():
    def lying(outcome):
        if isinstance(outcome, EptViolation):
            return replace(outcome, qualification=outcome.qualification ^ 1 << 5)
        return outcome

    judge = replace(honest(), change=lying)
    assert any(
        each.verdict.divergences for each in judged_pairs(judge, TableKind.EPT, 1, range(2), 30)
    )


def fatal_accesses(accesses):
    pair = pair_of(TableKind.EPT, 0, FATAL, accesses)
    who = "bochs 3.0"
    return [each for each in pair.accesses if is_fatal(pair.memory, pair.context, each, who)]


def test_one_of_those_that_it_does_not_survive_is_made():
    fatal = fatal_accesses(60)
    assert len(fatal) > 1
    judge = SimulatedJudge()
    pair = pair_of(TableKind.EPT, 0, FATAL, 60)
    result = judge_pair(judge, pair, 1)
    assert fatal[:1] == [each for each in judge.asked if each in fatal]
    assert (set(fatal), 1, ()) == (set(result.verdict.fatal), result.proved, result.survived)
    assert () == result.verdict.ended
    again = SimulatedJudge()
    assert 0 == judge_pair(again, pair, 0).proved
    assert not set(fatal) & set(again.asked)


def test_one_that_was_drawn_twice_is_made_once():
    pair = pair_of(TableKind.EPT, 0, FATAL, 1)
    twice = replace(pair, accesses=pair.accesses * 2)
    judge = SimulatedJudge()
    result = judge_pair(judge, twice, 1)
    assert list(pair.accesses) == judge.asked
    assert (pair.accesses * 2, 1) == (result.verdict.fatal, result.proved)
    survivor = SimulatedJudge(deviations=BOCHS)
    result = judge_pair(survivor, twice, 1)
    assert (pair.accesses, pair.accesses) == (result.survived, result.verdict.fatal)


def test_only_the_first_of_all_pairs_is_made():
    judge = SimulatedJudge()
    found = list(judged_pairs(judge, TableKind.EPT, 0, [FATAL, FATAL], 1))
    assert [1, 0] == [each.proved for each in found]
    assert 1 == len(judge.asked)


def test_one_that_it_survives_all_the_same_is_told():
    judge = SimulatedJudge(deviations=BOCHS)
    result = judge_pair(judge, pair_of(TableKind.EPT, 0, FATAL, 1), 1)
    assert fatal_accesses(1) == list(result.survived)


def test_an_end_that_is_not_foreseen_is_a_finding():
    def ending(outcome):
        return PANIC if isinstance(outcome, EptViolation) else outcome

    judge = replace(honest(), change=ending)
    (result,) = judged_pairs(judge, TableKind.EPT, 1, [0], 30)
    assert result.verdict.ended
    assert {PANIC} == {reason for _, reason in result.verdict.ended}


def test_what_has_no_outcome_is_counted_by_its_reason():
    why = Reason(Unjudged.NOT_SHOWN, "no RAM there")
    judge = replace(honest(), change=lambda _: why)
    (result,) = judged_pairs(judge, TableKind.EPT, 1, [0], 30)
    assert (0, {why: 30}) == (result.verdict.probes, result.verdict.not_shown)
