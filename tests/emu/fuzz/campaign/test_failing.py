"""What Crosswalk itself fails to do is a finding like another, and the campaign goes on."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.findings.findings import WRITABLE, Caseless, attempted, findings_of
from crosswalk.emu.fuzz import executor as executors
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.campaign import work as working
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.composites import NAMES, SAME_PKRU, Composites
from crosswalk.emu.report.composites import dump_composite, parse_composite
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import SparseWords
from tests.emu.fuzz.campaign.campaigns import finding, searched, told
from tests.emu.fuzz.campaign.running import corpus

PLAN = Plan(accesses=96, guided=False)


pytestmark = pytest.mark.usefixtures("fresh_executors")


def rules(campaign):
    return {each.signature.partition(" is due")[0] for each in campaign.state.findings.values()}


def test_a_layout_that_cannot_be_made_is_a_finding_without_a_case(tmp_path, monkeypatch):
    layout = Plan.layout

    def failing(self, index, seen):
        if index == 1:
            raise IndexError("row 0x200 of 17")
        return layout(self, index, seen)

    monkeypatch.setattr(Plan, "layout", failing)
    campaign = searched(tmp_path / "parts", 3, PLAN, work=working.work)
    assert (3, 1) == (campaign.state.layouts, campaign.state.lost)
    assert {"a layout that can be tried", "a layout that can be made"} == rules(campaign)
    for found in campaign.state.findings.values():
        assert "crosswalk: IndexError: row N of N" in found.signature
        assert ("crosswalk", False, "fuzz", 1) == (
            found.witness, found.case, found.again, found.layout,
        )  # fmt: skip
    assert [] == list(tmp_path.glob("parts/findings/*"))
    for folder in ("parts", "whole"):
        searched(tmp_path / folder, 4, PLAN, work=working.work)
    assert corpus(tmp_path / "parts") == corpus(tmp_path / "whole")


def test_a_layout_that_something_raises_about_is_a_finding_with_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.fuzz.executor.intended_outcomes", lambda *_: 1 // 0)
    campaign = searched(tmp_path, 2, PLAN, work=working.work)
    assert (2, 2, {"a layout that can be tried"}) == (
        campaign.state.layouts, campaign.state.lost, rules(campaign),
    )  # fmt: skip
    ((slug, found),) = campaign.state.findings.items()
    assert (2, True, "fuzz") == (found.count, found.case, found.again)
    assert (tmp_path / "findings" / f"{slug}.json").exists()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("coverage_of", "a layout whose cells can be counted"),
        ("composites_of", "a layout whose composites can be judged"),
    ],
)
def test_a_part_that_raises_costs_that_part_alone(tmp_path, monkeypatch, name, rule):
    monkeypatch.setattr(executors, name, lambda *_: 1 // 0)
    campaign = searched(tmp_path, 1, PLAN, work=working.work)
    assert ({rule}, 0) == (rules(campaign), campaign.state.lost)
    assert campaign.state.probes > 80


def test_the_command_line_user_s_errors_end_a_campaign(tmp_path):
    with pytest.raises(BadInput):
        searched(tmp_path, 1, replace(PLAN, source="no-such-file"), work=working.work)


def test_a_finding_that_cannot_be_written_is_there_without_a_case_beside_why(tmp_path):
    def outside(task):
        bad = finding("rule 1", 3)
        object.__setattr__(bad.case, "entries", {1 << 41: "word"})
        return told(task, lambda findings: (*findings, bad))

    campaign = searched(tmp_path, 6, work=outside)
    bad = campaign.state.findings[finding("rule 1").signature.slug]
    assert (6 * 3 + 4, False, "fuzz", 0) == (bad.count, bad.case, bad.again, bad.layout)
    assert WRITABLE in rules(campaign)
    assert 6 == campaign.state.layouts


def test_a_finding_whose_case_cannot_be_made_is_gathered_without_it(monkeypatch):
    executor = executors.Executor(predict=lambda *given: off_by_a_page(translate_many(*given)))
    found = executor.findings(PLAN.layout(1, b""))
    whole = found.gathered()
    assert whole == found.all()
    monkeypatch.setattr("crosswalk.emu.findings.findings.divergence_case", lambda *_: 1 // 0)
    *caseless, failed = found.gathered()
    assert [(each.signature, each.count) for each in whole] == [
        (each.signature, each.count) for each in caseless
    ]
    assert {Caseless} == {type(each) for each in caseless}
    assert (WRITABLE, "crosswalk") == (failed.signature.rule, failed.signature.witness)


def off_by_a_page(outcomes):
    return replace(outcomes, pa=np.where(outcomes.kind == 0, outcomes.pa ^ np.uint64(4096), 0))


def test_what_the_emulator_did_is_no_failure_of_crosswalk():
    def dead():
        raise ProbeError("no outcome")

    with pytest.raises(ProbeError):
        attempted("anything", dead, [])


# The second page of an access across pages: its PML4E leads beyond the memory.
BEYOND = SparseWords(
    ((0, 0x10_0000),),
    {0x1000: 0x2007, 0x1008: 1 << 38 | 7, 0x2FF8: 0x3007, 0x3FF8: 0x4007, 0x4FF8: 0x5007},
)
CONTEXT = PagingContext(cr3=0x1000)
ACROSS = Composites(
    np.array([NAMES.index("cross:read")], np.uint8),
    np.array([(1 << 39) - 4], np.uint64),
    np.zeros(1, np.uint8),
    np.zeros(1, np.bool_),
    np.array([(1 << 39) - 4], np.uint64),
    np.zeros(1, np.uint8),
    np.zeros(1, np.bool_),
    np.array([SAME_PKRU], np.int64),
)


def test_a_composite_whose_walk_leaves_the_memory_has_a_case_that_can_be_written():
    stand = CompositeChecker(lambda *given: off_by_a_fault(translate_many(*given)))
    judged = stand.judge(BEYOND, CONTEXT, ACROSS)
    assert judged.differ.all()
    (found,) = findings_of(BEYOND, CONTEXT, ACROSS, judged)
    assert {0x1000, 0x1008, 0x2FF8, 0x3FF8, 0x4FF8} == set(found.case.case.entries)
    data = dump_composite(found.case, found.allowed, found.seen)
    assert found.case == parse_composite(data, "case")


def off_by_a_fault(outcomes):
    return replace(outcomes, cr2=outcomes.cr2 ^ np.uint64(0x40_0000))
