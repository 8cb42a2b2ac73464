"""Campaigns against a judge: faults planted in it are found unaided, and made small with it."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.check import departures
from crosswalk.emu.check.judged import Status, Verdicts
from crosswalk.emu.cli import main
from crosswalk.emu.findings.findings import CompositeFinding
from crosswalk.emu.fuzz import judged
from crosswalk.emu.fuzz.campaign import Campaign, Plan
from crosswalk.emu.fuzz.campaign.kept import ask_again
from crosswalk.emu.fuzz.campaign.reduce_findings import reduce_findings
from crosswalk.emu.fuzz.campaign.run import ROUND
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.campaign.work import work
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.judges import booted, x86isa
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case, parse_case
from crosswalk.walker.outcome import ErrorCode
from tests.emu.fuzz.planted_judges import PlantedJudge
from tests.emu.judges import planted as planted_judges

PLAN = Plan(accesses=512, choice=LayoutChoice(portable=True), judge="unicorn")
NO_P = "P in the error code at a present entry: judge:unicorn says clear, it is set"
DIED = "an outcome of an execute is due: judge:unicorn: died of SIGABRT"


@pytest.fixture
def planted(monkeypatch):
    """The faults of a judge; with `mended` it has none."""
    mended = []
    judged._executor.cache_clear()

    def opened(text):
        return UnicornJudge() if mended else PlantedJudge()

    monkeypatch.setattr(judged, "open_judge", opened)
    yield mended
    judged._executor.cache_clear()


def searched(folder, cases, jobs=1, plan=PLAN):
    store = Store(folder, plan)
    pool = Pool(work, jobs)
    try:
        search = Campaign(plan, store)
        search.run(pool, cases, None)
    finally:
        pool.close()
        store.close()
    return search


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("findings/*.json"))}


def test_a_lost_bit_and_a_death_are_found_and_made_small(planted, tmp_path, capsys):
    folder = tmp_path / "found"
    words = ["fuzz", "--judge", "unicorn", "--cases", "16", "--accesses", "512", "--jobs", "1"]
    words.append("--portable")
    assert 1 == main([*words, "--corpus", str(folder), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert "unicorn" == document["judge"]
    assert "Planted 1" == document["judge_version"]
    assert document["probes"] == document["judged"] > 1000
    found = {each["signature"]: each for each in document["findings"]}
    assert {NO_P, DIED} == found.keys()
    for signature, each in found.items():
        case = load_case(each["case"])
        assert 1 == len(case.probes)
        assert len(case.entries) <= 4
        assert case.note.startswith(signature)
        assert each["reproduce"].endswith("--with unicorn")
    assert 9 == load_case(found[NO_P]["case"]).probes[0].predicted.error_code
    assert (1 << 64) - 1 == load_case(found[DIED]["case"]).probes[0].va


def test_what_machines_leave_in_the_folder_of_temporary_files_is_removed(
    planted, tmp_path, monkeypatch
):
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    parent = os.getpid()

    def leaves(self, questions):
        if os.getpid() != parent:  # Which isn't killed.
            (tmp_path / "left").write_text(tempfile.mkdtemp())
        return [
            self._changed(*pair)
            for pair in zip(questions, self._true.accesses(questions), strict=True)
        ]

    monkeypatch.setattr(PlantedJudge, "accesses", leaves)
    words = ["fuzz", "--judge", "unicorn", "--cases", "2", "--accesses", "64", "--jobs", "1"]
    main([*words, "--no-reduce", "--corpus", str(tmp_path / "kept")])
    assert Path((tmp_path / "left").read_text()).is_relative_to(folder)
    assert [] == list(folder.iterdir())


def test_results_dont_depend_on_processes_or_on_what_is_asked_together(
    planted, tmp_path, monkeypatch
):
    searched(tmp_path / "one", 12)
    searched(tmp_path / "two", 12, jobs=2)
    searched(tmp_path / "parts", 5)
    searched(tmp_path / "parts", 12)
    monkeypatch.setattr(Plan, "at_once", 1)
    searched(tmp_path / "single", 12)
    one, *others = (files_of(tmp_path / name) for name in ("one", "two", "parts", "single"))
    assert len(one) >= 2
    for other in others:
        assert one == other


def test_many_layouts_are_asked_together(planted, tmp_path):
    asked = []

    class Watching:
        jobs = 1

        def submit(self, given):
            asked.append(given.count)
            return lambda: work(given)

    store = Store(tmp_path, PLAN)
    Campaign(PLAN, store).run(Watching(), ROUND + 5, None)
    store.close()
    assert [ROUND, 5] == asked


def test_what_a_mended_judge_doesnt_show_any_more_is_gone(planted, tmp_path):
    searched(tmp_path, 16)
    planted.append(True)
    judged._executor.cache_clear()
    store = Store(tmp_path, PLAN)
    campaign = Campaign(PLAN, store)
    before = set(campaign.state.findings)
    again = ask_again(campaign, store)
    store.close()
    assert ["judge"] == campaign.changed
    assert before
    assert before == set(again.gone) | set(again.dropped)
    assert {} == campaign.state.findings
    assert 0 == campaign.state.layouts


def test_the_emulated_cpu_as_a_judge_agrees_and_what_it_lacks_is_counted(tmp_path, capsys):
    words = ["fuzz", "--judge", "unicorn", "--cases", "16", "--accesses", "512", "--jobs", "1"]
    assert 0 == main([*words, "--corpus", str(tmp_path / "kept"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert 0 == document["divergences"]
    assert document["known"]["pdpte-ps-always-leaf"] > 0
    assert sum(document["not_shown"].values()) > 0
    assert "Unicorn" in document["judge_version"]


@pytest.mark.parametrize(
    ("judge", "rule"),
    [
        (planted_judges.WrongCr2, "CR2"),
        (planted_judges.LosesA, "A of a"),
        (planted_judges.GoesOn, "reserved in a PML4E: bit 8"),
        (planted_judges.Dies, "an outcome of a write is due"),
    ],
)
def test_each_fault_is_found_and_its_case_shows_it_alone(judge, rule, tmp_path, monkeypatch):
    monkeypatch.setattr(judged, "open_judge", lambda _: judge())
    judged._executor.cache_clear()
    plan = replace(PLAN, judge="exec:planted")
    campaign = searched(tmp_path, 8, plan=plan)
    store = Store(tmp_path, plan)
    assert {} == reduce_findings(Campaign(plan, store), store)
    store.close()
    judged._executor.cache_clear()
    # Composites are asked of the emulated CPU, whose departures aren't registered for this one.
    files = files_of(tmp_path)
    cases = [parse_case(each, name) for name, each in files.items() if b"composite" not in each]
    assert len(files) == len(campaign.state.findings)
    assert any(rule in case.note for case in cases)
    for case in cases:
        assert 1 == len(case.probes)
        assert len(case.entries) <= 4


class InComposites(PlantedJudge):
    """Has reserved-bit faults without P in composites, and in single accesses as well if `both`."""

    def __init__(self, *, both):
        super().__init__()
        self._both = both

    def _changed(self, question, answer):
        return super()._changed(question, answer) if self._both else answer

    def composites(self, questions):
        return [without_p(each) for each in super().composites(questions)]


def without_p(answer):
    code = answer.outcomes.error_code
    wrong = np.where(code & ErrorCode.RSVD, code & ~np.uint16(ErrorCode.P), code)
    return replace(answer, outcomes=replace(answer.outcomes, error_code=wrong.astype(code.dtype)))


@pytest.mark.parametrize("both", [False, True])
def test_composites_are_no_findings_where_single_accesses_show_the_same(both):
    executor = judged.JudgeExecutor(InComposites(both=both), "exec:planted")
    layouts = [PLAN.layout(index, CoverageMap().pack()) for index in range(6)]
    found = executor.run_many(layouts, cross=[True] * len(layouts))
    composites = [
        finding
        for each in found
        for finding in each.findings
        if isinstance(finding, CompositeFinding)
    ]
    lacking = [each for each in composites if "RSVD" in each.signature.said]
    assert bool(lacking) is not both
    assert both is any(
        NO_P.partition(":")[0] in str(f.signature) for e in found for f in e.findings
    )


@pytest.mark.parametrize("reason", [booted._ONCE, booted._MANY, x86isa._ONCE, x86isa._MANY])
def test_what_a_machine_never_answers_doesnt_keep_a_campaign_from_going_on(reason):
    lost = Verdicts(
        np.array([Status.AGREED, Status.LOST], np.uint8),
        np.array([0, 1]),
        ("", reason.text),
        np.zeros(2, np.bool_),
        ("", reason.text),
    )
    counts = judged.tallied(lost)
    assert (1, {reason.text: 1}) == (counts.agreements, dict(counts.not_shown))
    by_others = replace(lost, details=("", booted._LOST.text))
    with pytest.raises(ProcessLost, match="killed by somebody else"):
        judged.tallied(by_others)


def test_a_walker_and_a_judge_arent_put_under_test_at_once(capsys):
    assert 2 == main(["fuzz", "--judge", "unicorn", "--walker", "python:a:b"])
    assert "not both" in capsys.readouterr().err


def test_a_log_answers_one_image_alone():
    with pytest.raises(BadInput, match="one image alone"):
        judged.require_campaign_judge("log:FILE")


@pytest.mark.slow
def test_qemu_loses_a_bit_and_dies_of_a_fetch_and_both_are_found_and_made_small(
    qemu, tmp_path, monkeypatch, capsys
):
    known = [each for each in departures.DEPARTURES if each.id != "reserved-fault-without-p"]
    monkeypatch.setattr(departures, "DEPARTURES", tuple(known))
    judged._executor.cache_clear()
    words = ["fuzz", "--judge", qemu, "--cases", "16", "--accesses", "512", "--jobs", "1"]
    assert 1 == main([*words, "--corpus", str(tmp_path / "found"), "--json"])
    document = json.loads(capsys.readouterr().out)
    found = {each["signature"]: each for each in document["findings"]}
    assert NO_P.replace("unicorn", qemu) in found
    assert DIED.replace("unicorn: died", f"{qemu}: the machine died") in found
    for each in found.values():
        case = load_case(each["case"])
        assert 1 == len(case.probes)
        assert len(case.entries) <= 4
    unshown = sum(document["not_shown"].values()) + sum(document["not_exportable"].values())
    assert document["judged"] > 0.95 * (document["judged"] + unshown)
