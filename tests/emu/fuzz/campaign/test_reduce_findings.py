import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.reduce_findings import REDUCIBLE, SHOWN, reduce_findings
from crosswalk.emu.fuzz.campaign.store import Store, digest
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.interesting import reduced_to
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.finding import UNSTEADY
from crosswalk.walker.columns import Accesses
from crosswalk.walker.formats import load_case, parse_case
from crosswalk.walker.outcome import PageFault
from tests.emu.fuzz.campaign.campaigns import PLAN, finding, real_campaign, searched, told
from tests.emu.fuzz.campaign.running import corpus
from tests.emu.fuzz.hunted_bugs import path_of
from tests.emu.fuzz.planting import bug_named, crash, plant_emulator, plant_walker, sick
from tests.processes import children


@pytest.fixture
def walker_with_bug(monkeypatch):
    plant_walker(monkeypatch, bug_named("XD not inherited").predict)


def reduced(folder, plan, jobs=1, seconds=None):
    store = Store(folder, plan)
    try:
        found = Campaign(plan, store)
        alone = reduce_findings(found, store, jobs, seconds=seconds)
    finally:
        store.close()
    return found, alone


def test_findings_become_small_and_keep_their_note(tmp_path, walker_with_bug):
    found = real_campaign(tmp_path, 2, 20)
    before = {path.stem: load_case(path) for path in tmp_path.glob("findings/*")}
    assert len(before) > 2
    again, alone = reduced(tmp_path, found.plan, jobs=2)
    assert {} == alone
    for path in tmp_path.glob("findings/*"):
        case = load_case(path)
        assert (1, before[path.stem].note, 0) == (len(case.probes), case.note, case.seed)
        assert len(case.entries) <= 5
        assert isinstance(case.probes[0].observed, PageFault)
        assert digest(path.read_bytes()) == again.state.findings[path.stem].reduced


@pytest.mark.slow
def test_one_after_the_other_or_several_at_once_come_to_the_same(tmp_path, walker_with_bug):
    for jobs in (1, 3):
        found = real_campaign(tmp_path / str(jobs), 2, 3)
        reduced(tmp_path / str(jobs), found.plan, jobs)
    assert corpus(tmp_path / "1") == corpus(tmp_path / "3")


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "writes", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 4))]
)
def test_whichever_write_it_is_killed_at_the_next_run_comes_to_the_same(
    tmp_path, walker_with_bug, monkeypatch, writes
):
    for name in ("whole", "killed"):
        found = real_campaign(tmp_path / name, 2, 3)
    assert len(found.state.findings) > 1
    reduced(tmp_path / "whole", found.plan)
    write, left = Store._write, [writes]

    def until_killed(self, path, data):
        left[0] -= 1
        if not left[0]:
            raise Killed
        write(self, path, data)

    monkeypatch.setattr(Store, "_write", until_killed)
    with pytest.raises(Killed):
        reduced(tmp_path / "killed", found.plan)
    monkeypatch.setattr(Store, "_write", write)
    assert corpus(tmp_path / "whole") != corpus(tmp_path / "killed")
    reduced(tmp_path / "killed", found.plan)
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "killed")


def test_what_is_reduced_is_not_reduced_again(tmp_path, walker_with_bug, monkeypatch):
    found = real_campaign(tmp_path, 2, 3)
    reduced(tmp_path, found.plan)
    monkeypatch.setattr(Trial, "findings", None)
    assert {} == reduced(tmp_path, found.plan)[1]


def test_a_finding_that_its_case_alone_does_not_show_stays_and_is_said(tmp_path):
    searched(tmp_path, 35)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("findings/*")}
    _, alone = reduced(tmp_path, PLAN)
    assert sorted(path.removesuffix(".json") for path in before) == sorted(alone)
    words = "its case alone doesn't show it, and is left as it was found"
    assert {words} == set(alone.values())
    after = {path.name: path.read_bytes() for path in tmp_path.glob("findings/*")}
    assert before.items() <= after.items()
    assert {} == reduced(tmp_path, PLAN)[1]
    assert after == {path.name: path.read_bytes() for path in tmp_path.glob("findings/*")}


def test_a_case_that_does_not_show_its_finding_is_a_finding_with_that_case(tmp_path):
    searched(tmp_path, 35)
    found, alone = reduced(tmp_path, PLAN)
    ours = {
        each.signature: (slug, each)
        for slug, each in found.state.findings.items()
        if each.witness == "crosswalk"
    }
    assert len(alone) == len(ours) == 3
    rule = "rule 0: walker says ok, it is #PF"
    slug, each = ours[f"{SHOWN} is due: crosswalk: {rule}"]
    assert ("reduce", True, 9) == (each.again, each.case, each.layout)
    original = finding("rule 0").signature.slug
    names = (tmp_path / "findings" / f"{name}.json" for name in (slug, original))
    assert 1 == len({path.read_bytes() for path in names})


def test_what_a_walker_under_test_does_not_show_alone_is_said_and_no_other_finding(tmp_path):
    def of_walker(findings):
        return tuple(
            replace(each, signature=replace(each.signature, witness="peer:translate"))
            for each in findings
        )

    plan = replace(PLAN, walker="translate")
    searched(tmp_path, 35, work=lambda task: told(task, of_walker), plan=plan)
    before = corpus(tmp_path)
    found, alone = reduced(tmp_path, plan)
    assert {UNSTEADY} == set(alone.values())
    assert 3 == len(alone)
    assert set(alone) == set(found.state.findings)
    assert not any(each.alone for each in found.state.findings.values())
    assert set(before) == set(corpus(tmp_path))
    assert {} == reduced(tmp_path, plan)[1]


def test_a_reduction_that_raises_is_a_finding_and_the_others_are_reduced(
    tmp_path, walker_with_bug, monkeypatch
):
    found = real_campaign(tmp_path, 2, 12)
    chosen = max(found.state.findings)

    def failing(trial, case, signature):
        if signature.slug == chosen:
            raise ZeroDivisionError("of entry 0x1000")
        return reduced_to(trial, case, signature)

    monkeypatch.setattr("crosswalk.emu.fuzz.campaign.reduce_findings.reduced_to", failing)
    again, alone = reduced(tmp_path, found.plan)
    assert {} == alone
    (slug,) = set(again.state.findings) - set(found.state.findings)
    each = again.state.findings[slug]
    assert each.signature == (f"{REDUCIBLE} is due: crosswalk: ZeroDivisionError: of entry N")
    assert store_case(tmp_path, slug) == store_case(tmp_path, chosen)
    for other in set(found.state.findings) - {chosen}:
        assert len(load_case(tmp_path / "findings" / f"{other}.json").entries) <= 5
    assert {} == reduced(tmp_path, found.plan)[1]


def test_a_finding_whose_process_is_killed_is_no_less_small(tmp_path, walker_with_bug, monkeypatch):
    for name in ("whole", "killed"):
        found = real_campaign(tmp_path / name, 2, 3)
    reduced(tmp_path / "whole", found.plan)
    act = Executor.findings

    def once(self, layout):
        if not (tmp_path / "mark").exists():
            (tmp_path / "mark").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return act(self, layout)

    monkeypatch.setattr(Executor, "findings", once)
    assert {} == reduced(tmp_path / "killed", found.plan)[1]
    assert (tmp_path / "mark").exists()
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "killed")


@pytest.mark.parametrize("killed", ["the process that tries cases", "the process that reduces it"])
def test_a_finding_whose_processes_others_go_on_to_kill_is_reduced_by_the_next_run(
    tmp_path, walker_with_bug, monkeypatch, killed
):
    for name in ("whole", "killed"):
        found = real_campaign(tmp_path / name, 2, 3)
    reduced(tmp_path / "whole", found.plan)
    before = corpus(tmp_path / "killed")
    with monkeypatch.context() as patch:
        kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        if killed == "the process that tries cases":
            patch.setattr(Executor, "findings", kill)
        else:
            patch.setattr("crosswalk.emu.fuzz.campaign.reduce_findings.reduced_to", kill)
        left = reduced(tmp_path / "killed", found.plan)[1]
    assert found.state.findings.keys() == left.keys()
    assert all(f"not reduced: {killed} was killed (SIGKILL)" in words for words in left.values())
    assert before == corpus(tmp_path / "killed")
    assert {} == reduced(tmp_path / "killed", found.plan)[1]
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "killed")


def store_case(folder, slug):
    return (folder / "findings" / f"{slug}.json").read_bytes()


@pytest.mark.slow
def test_a_crash_of_the_emulator_becomes_small_too(tmp_path, monkeypatch, walker_with_bug):
    plant_emulator(monkeypatch, sick, crash)
    found = real_campaign(tmp_path, 2, 12)
    found, alone = reduced(tmp_path, found.plan, 2)
    assert {} == alone
    (path,) = tmp_path.glob("findings/an-outcome-*")
    case = load_case(path)
    (probe,) = case.probes
    assert ("write", 3) == (probe.access, probe.cpl)
    assert len(case.entries) <= 2
    va = np.array([probe.va], np.uint64)
    accesses = Accesses.of([probe.asked])
    assert sick(path_of(case.memory(), case.context(), va), case.context(), accesses).all()


def test_an_interrupt_stops_the_processes_that_try(tmp_path, walker_with_bug, monkeypatch):
    found = real_campaign(tmp_path, 2, 12)
    before = children()

    def interrupted(_done, _all):
        raise KeyboardInterrupt

    store = Store(tmp_path, found.plan)
    try:
        with pytest.raises(KeyboardInterrupt):
            reduce_findings(Campaign(found.plan, store), store, 2, interrupted)
    finally:
        store.close()
    assert before == children()
    slug = min(found.state.findings)
    assert 1 == len(parse_case(store.case(slug), slug).probes)


def test_reduction_ends_after_its_time_and_the_next_one_goes_on(tmp_path, walker_with_bug):
    found = real_campaign(tmp_path, 2, 16)
    count = len(found.state.findings)
    assert count > 1
    part, _ = reduced(tmp_path, found.plan, seconds=0.0)
    assert 1 == sum(each.reduced is not None for each in part.state.findings.values())
    whole, _ = reduced(tmp_path, found.plan)
    assert count == sum(each.reduced is not None for each in whole.state.findings.values())
