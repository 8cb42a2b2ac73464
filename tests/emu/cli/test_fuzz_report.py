"""The last word of a campaign: agreement only on what was asked and answered."""

from dataclasses import replace

import pytest

from crosswalk.emu.cli.fuzz_report import Ended, record, report_lines, verdict
from crosswalk.emu.findings.baseline import Accepted
from crosswalk.emu.findings.describe import described
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.state import Found, State, new_cells
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.matrix.select import layout_choice
from crosswalk.emu.report.finding import FindingsJson
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.answers import Answers
from crosswalk.walker.context import PagingMode
from tests.emu.fuzz.campaign.campaigns import PLAN


def state(**counts):
    return State({}, layouts=20, **counts)


def ended(walker=None, questions=(), failing=(), accepted=(), **counts):
    """A campaign that is over; `questions` are (mode, claim, answered, declined)."""
    campaign = Campaign(PLAN, Store(None, PLAN))
    campaign.plan = replace(PLAN, walker=walker)
    campaign.state = state(**counts)
    for mode, claim, answered, declined in questions:
        campaign.tally.add(mode, None, answered, declined)
        campaign.tally.add(mode, claim, answered, declined)
    document = FindingsJson(walker=walker, findings=[described(each) for each in failing])
    return Ended(campaign, document, Accepted(known=tuple(accepted)))


FOUR, FIVE = PagingMode.LEVEL4, PagingMode.LEVEL5
RIGHTS, FLAGS = Capability.RIGHTS, Capability.FLAGS
FINDING = Signature("peer:mine", "a rule", "ok", "#PF")


@pytest.mark.parametrize(
    ("counts", "status", "word"),
    [
        ({"probes": 10}, 0, "agreement"),
        (
            {"probes": 1000, "predicted_only": {"LAM": 12}},
            0,
            "agreement on 1,000 of 1,012 probes; predicted only: 12 (LAM)",
        ),
        (
            {"probes": 1000, "known": {"one": 90, "two": 10}, "predicted_only": {"LAM": 12}},
            0,
            "agreement on 900 of 1,012 probes; known divergences: 100; predicted only: 12 (LAM)",
        ),
        ({"probes": 10, "known": {"one": 10}}, 0, "known divergences alone; known divergences: 10"),
        ({"probes": 10, "not_asked": {"some": 3}}, 0, "agreement; not asked: 3 (some)"),
        (
            {"probes": 10, "copied": 4, "masked": 5},
            0,
            "agreement; 4 under a copy of the root; 5 with the encryption mask taken off",
        ),
        ({}, 2, "nothing asked"),
        ({"predicted_only": {"UAI": 2}}, 2, "nothing asked; predicted only: 2 (UAI)"),
        ({"probes": 10, "failing": [FINDING]}, 1, "FAILED"),
        (
            {"probes": 10, "divergent": 4, "accepted": ["a cause"]},
            0,
            "agreement on 6 of 10 probes; 1 finding accepted",
        ),
        ({"probes": 10, "walker": "mine"}, 2, "nothing asked of mine"),
        ({"probes": 10, "walker": "mine", "questions": [(FOUR, RIGHTS, 9, 0)]}, 0, "agreement"),
        (
            {"probes": 10, "walker": "mine", "questions": [(FOUR, RIGHTS, 4, 6)]},
            0,
            "agreement; mine declined 6 of its accesses",
        ),
        (
            {
                "probes": 10,
                "walker": "mine",
                "questions": [(FOUR, RIGHTS, 4, 0), (FIVE, RIGHTS, 0, 6)],
            },
            0,
            "agreement; mine declined 6 of its accesses",
        ),
        (
            {
                "probes": 10,
                "walker": "mine",
                "questions": [(FOUR, RIGHTS, 0, 4), (FIVE, RIGHTS, 0, 6)],
            },
            2,
            "nothing judged of: rights",
        ),
        (
            {
                "probes": 10,
                "walker": "mine",
                "questions": [(FOUR, RIGHTS, 4, 0), (FOUR, FLAGS, 0, 6)],
                "accepted": ["a cause"],
            },
            2,
            "nothing judged of: flags",
        ),
        (
            {
                "probes": 10,
                "walker": "mine",
                "questions": [(FOUR, RIGHTS, 0, 4)],
                "failing": [FINDING],
            },
            1,
            "FAILED",
        ),
    ],
)
def test_the_word_is_agreement_only_where_somebody_answered(counts, status, word):
    assert (status, word) == verdict(ended(**counts))
    if status:
        assert "agreement" not in word


def test_a_campaign_of_no_layouts_agrees_with_nobody(run, tmp_path):
    ran = run("fuzz", "--cases", 0, "--jobs", 1, "--corpus", tmp_path / "none")
    assert (2, True) == (ran.status, "verdict: nothing asked\n" in ran.out)


class Silent:
    name, claims = "silent", frozenset({Capability.FAULTS})

    def answer(self, _memory, _context, accesses):
        return Answers.none(len(accesses))


def test_what_a_walker_declines_is_counted():
    layout = generate(0, 1, accesses=96)
    tried = Executor(target=Silent()).run(lambda: layout)
    assert (0, len(layout.accesses), ()) == (tried.answered, tried.declined, tried.findings)
    tried = Executor().run(lambda: layout)
    assert (0, 0) == (tried.answered, tried.declined)


def test_new_cells_are_those_of_the_last_tenth_of_the_layouts():
    assert (0, None) == new_cells(state())
    grown = state(growth=[(0, 100), (17, 5), (18, 2), (19, 1)])
    assert (3, 19) == new_cells(grown)
    assert (0, 17) == new_cells(state(growth=[(0, 100), (17, 5)]))


ALL = frozenset(PagingMode)


@pytest.mark.parametrize(
    ("modes", "asked", "line"),
    [
        (None, [FOUR, FIVE], "not asked in 32bit, pae: it states no modes; --mode 32bit,pae asks"),
        (frozenset({FOUR}), [FOUR], "not asked in 32bit, pae, 5level: it doesn't state them"),
        (frozenset({FOUR, FIVE}), [FOUR], "not asked in 32bit, pae: it doesn't state them"),
        (ALL, [FOUR], None),
        (None, list(PagingMode), None),
    ],
)
def test_modes_that_a_walker_is_not_asked_in_are_named_with_why(modes, asked, line):
    over = replace(ended("mine", [(mode, RIGHTS, 1, 0) for mode in asked], probes=10), modes=modes)
    found = [each.strip() for each in report_lines(over) if "not asked in" in each]
    assert ([] if line is None else [line]) == found


def test_modes_that_the_options_leave_out_are_named():
    over = ended("mine", [(FOUR, RIGHTS, 1, 0)], probes=10)
    choice = layout_choice(["32bit", "4level"])
    over.campaign.plan = replace(over.campaign.plan, choice=choice)
    for modes in (None, frozenset({FOUR, PagingMode.BIT32})):
        lines = [each.strip() for each in report_lines(replace(over, modes=modes))]
        assert "not asked in pae, 5level: left out by --mode or --select" in lines
        assert not any("doesn't state" in each or "states no modes" in each for each in lines)


def test_questions_that_a_walker_failed_at_are_counted():
    over = ended("mine", [(FOUR, RIGHTS, 3, 2)], probes=10)
    over.campaign.tally.asked[FOUR, None] += 4
    lines = list(report_lines(over))
    assert "mine: asked for 9 accesses, answered 3, declined 2, failed at 4" in lines
    assert "    4level: asked for 9, answered 3" in lines


def test_wrong_answers_of_the_walker_are_no_divergences_of_crosswalk_and_are_counted_beside_them():
    def found(witness, layout, count):
        return Found("a rule", witness, count, layout)

    findings = {
        "a-1": found("peer:mine", 3, 5),
        "b-2": found("peer:mine", 0, 2),
        "c-3": found("peer:mine", None, 1),  # Kept from before, and not met yet.
        "d-4": found("walker", 1, 4),
    }
    over = ended("mine", probes=30, divergent=11, findings=findings)
    lines = list(report_lines(over))
    assert 7 == record(over)["wrong_answers"]
    assert lines[0].endswith("19 agree, 4 diverge; wrong answers of mine: 7")
    lines = list(report_lines(ended(probes=30, divergent=4, findings={"d-4": findings["d-4"]})))
    assert lines[0].endswith("26 agree, 4 diverge")
