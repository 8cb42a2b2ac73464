from dataclasses import replace

import pytest

from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.walker.formats import load_case
from tests.emu.fuzz.campaign.campaigns import PLAN, Inline, finding, losing, searched, told
from tests.emu.fuzz.campaign.running import corpus


@pytest.mark.parametrize("stops", [[1], [31], [32], [33], [64, 65], [5, 40, 41, 96, 97]])
def test_a_campaign_in_parts_comes_to_the_same_as_in_one(tmp_path, stops):
    searched(tmp_path / "whole", 100)
    for cases in (*stops, 100):
        searched(tmp_path / "parts", cases)
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "parts")


@pytest.mark.parametrize("jobs", [2, 3, 7])
def test_a_campaign_with_more_workers_comes_to_the_same(tmp_path, jobs):
    searched(tmp_path / "one", 100)
    searched(tmp_path / "more", 100, jobs=jobs)
    assert corpus(tmp_path / "one") == corpus(tmp_path / "more")


def test_other_findings_are_another_corpus(tmp_path):
    searched(tmp_path / "one", 100)
    searched(tmp_path / "other", 100, work=losing)
    assert corpus(tmp_path / "one") != corpus(tmp_path / "other")


def test_what_has_been_done_is_not_done_again(tmp_path):
    searched(tmp_path, 40)
    store = Store(tmp_path, PLAN)
    pool = Inline()
    Campaign(PLAN, store).run(pool, 50, None)
    store.close()
    assert list(range(40, 50)) == [task.index for task in pool.done]


def test_a_layout_is_made_with_what_was_seen_two_rounds_before(tmp_path):
    pool = Inline(jobs=2)
    campaign = Campaign(PLAN, Store(None, PLAN))
    campaign.run(pool, 5 * ROUND, None)
    seen = [{task.seen for task in pool.done if task.index // ROUND == at} for at in range(5)]
    assert [1] * 5 == [len(each) for each in seen]
    assert seen[0] == seen[1]
    assert 4 == len(set.union(*seen))
    assert LAG == len(campaign.state.rounds)


def test_the_first_case_of_a_signature_is_kept_and_the_rest_counted(tmp_path):
    campaign = searched(tmp_path, 35)
    found = campaign.state.findings
    assert {"rule 0", "rule 1", "rule 2"} == {
        each.signature.split(":")[0] for each in found.values()
    }
    (third,) = [each for each in found.values() if each.signature.startswith("rule 0")]
    assert (9, 9 + 24) == (third.layout, third.count)
    assert sorted(found) == sorted(path.stem for path in (tmp_path / "findings").iterdir())
    case = load_case(tmp_path / "findings" / f"{finding('rule 0').signature.slug}.json")
    assert (0, None) == (case.seed, case.walker)
    assert "rule 0: walker says ok, it is #PF (layout 9)" == case.note


def test_sums_are_those_of_all_layouts(tmp_path):
    state = searched(tmp_path, 35).state
    assert (35, 35 * 16, 7, 0) == (state.layouts, state.probes, state.divergent, state.lost)
    assert {"maxphyaddr-40": 17} == state.known
    assert {"probe": 17.5} == state.parts


def test_a_layout_without_a_result_is_a_finding_with_all_of_it_and_the_search_goes_on(tmp_path):
    campaign = searched(tmp_path, 35, work=losing)
    assert (35, 34 * 16, 1) == (
        campaign.state.layouts, campaign.state.probes, campaign.state.lost,
    )  # fmt: skip
    (slug,) = [slug for slug in campaign.state.findings if slug.startswith("an-outcome")]
    case = load_case(tmp_path / "findings" / f"{slug}.json")
    layout = PLAN.layout(7, CoverageMap().pack())
    assert len(layout.accesses) == len(case.probes)
    assert "error: no outcome at N, N times" in campaign.state.findings[slug].signature
    assert case.note.endswith("(layout 7): no outcome at 0x1234, 5 times")


def test_a_campaign_that_ends_by_the_clock_is_the_beginning_of_a_longer_one(tmp_path):
    clocked = searched(tmp_path / "clocked", None, seconds=0.3).state
    assert clocked.layouts > 0
    searched(tmp_path / "counted", clocked.layouts)
    assert corpus(tmp_path / "counted") == corpus(tmp_path / "clocked")


def test_whatever_comes_first_ends_it(tmp_path):
    assert 40 == searched(tmp_path / "count", 40, seconds=1000).state.layouts
    assert searched(tmp_path / "clock", 1 << 30, seconds=0.05).state.layouts < 1 << 20


def test_the_state_is_saved_every_few_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 100000, 1))
    monkeypatch.setattr("crosswalk.emu.fuzz.campaign.run.time.monotonic", lambda: next(clock))
    saves = []
    monkeypatch.setattr(Campaign, "save", lambda self: saves.append(self.state.layouts))
    searched(tmp_path, 30)
    assert len(saves) > 5
    assert 30 == saves[-1]


def test_a_finding_is_written_before_it_is_mentioned(tmp_path, monkeypatch):
    store = Store(tmp_path, PLAN)
    campaign = Campaign(PLAN, store)

    def killed(_state):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        campaign.run(Inline(), 6, None)
    store.close()
    assert ["rule-1"] == [path.stem.rpartition("-")[0] for path in tmp_path.glob("findings/*")]
    assert not (tmp_path / "state.json").exists()
    searched(tmp_path, 6)
    searched(tmp_path.parent / "whole", 6)
    assert corpus(tmp_path) == corpus(tmp_path.parent / "whole")


def test_what_a_walker_under_test_got_wrong_is_kept_with_all_of_its_tables(tmp_path):

    def whole(findings):
        return tuple(
            replace(
                each,
                whole=replace(each.whole, entries={**each.case.entries, 0x3000: 0x7}),
                signature=replace(each.signature, witness="peer:mine"),
            )
            for each in findings
        )

    def work(task):
        return told(task, whole)

    searched(tmp_path, 6, work=work)
    (path,) = tmp_path.glob("findings/*")
    assert 0x3000 in load_case(path).entries
