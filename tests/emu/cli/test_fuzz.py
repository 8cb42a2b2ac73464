import json
import shlex
from xml.etree import ElementTree as ET

import pytest

from crosswalk.emu.fuzz.campaign import cluster
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import load_composite
from crosswalk.walker.formats import load_case
from tests.emu.fuzz.campaign.running import corpus
from tests.emu.fuzz.planting import bug_named, crash, hang, plant_emulator, plant_walker, sick

BUG = "SMAP ignored"


@pytest.fixture
def fuzz(run, tmp_path):
    def search(*more, cases=4, folder="corpus"):
        return run(
            *("fuzz", "--cases", cases, "--accesses", 96, "--jobs", 2),
            *("--corpus", tmp_path / folder, "--seed", 4, *more),
        )

    return search


@pytest.fixture
def bug(monkeypatch):
    plant_walker(monkeypatch, bug_named(BUG).predict)


def test_without_a_bug_nothing_is_found(fuzz):
    ran = fuzz("--json")
    document = ran.document
    assert (0, "") == (ran.status, ran.err)
    assert ([], 0, 4, 0) == (
        document["findings"], document["divergences"], document["layouts"], document["lost"],
    )  # fmt: skip
    assert document["probes"] == document["agreements"] + document["known_divergences"]
    assert document["probes"] > 4 * 80
    assert document["seconds"] > 0


def test_a_finding_is_counted_kept_and_shown_again_by_its_command(fuzz, run, bug, tmp_path):
    ran = fuzz("--json")
    document = ran.document
    assert 1 == ran.status
    assert document["divergences"] > 0
    assert document["probes"] == (
        document["agreements"] + document["known_divergences"] + document["divergences"]
    )
    (found,) = document["findings"]
    assert "SMAP: walker says ok, it is #PF, P" == found["signature"]
    assert found["count"] == document["divergences"]
    assert found["case"] == str(tmp_path / "corpus" / "findings" / f"{found['id']}.json")
    program, *arguments = shlex.split(found["reproduce"])
    assert "crosswalk" == program
    again = run(*arguments)
    assert 1 == again.status
    assert "probes 1, divergences 1" in again.out
    case = load_case(found["case"])
    assert (4, f"{found['signature']} (layout {found['layout']})") == (case.seed, case.note)
    assert len(case.entries) <= 4


def test_people_read_the_same(fuzz, bug):
    ran = fuzz()
    lines = ran.out.splitlines()
    assert lines[0].startswith("4 layouts, ")
    (found,) = [line for line in lines if "SMAP: walker says" in line]
    shown = lines[lines.index(found) + 1 : -2]
    begins = (
        "  access:    ",
        '  manual:    Intel SDM vol. 3A, "Determination of Access Rights"; ',
        "  predicted: ok, pa ",
        "  observed:  #PF, error code 0x1 (P), CR2 ",
    )
    assert all(line.startswith(words) for line, words in zip(shown, begins, strict=False))
    marked = "<-- U/S set at every level: SMAP bars the supervisor"
    assert 1 == sum(line.endswith(marked) for line in shown)
    assert " probe, first in layout " in shown[-1]
    assert ": crosswalk replay " in shown[-1]
    assert "verdict: FAILED" == lines[-2]
    assert lines[-1].startswith("reproduce: crosswalk fuzz --cases 4 ")


def test_junit_has_a_failure_with_its_command_for_each_finding(fuzz, bug, tmp_path):
    path = tmp_path / "report.xml"
    document = fuzz("--json", "--junit", path).document
    suite = ET.fromstring(path.read_bytes())  # noqa: S314  # Our own.
    assert "testsuite" == suite.tag
    assert ("2", "1", "0", "0") == tuple(
        suite.get(name) for name in ("tests", "failures", "errors", "skipped")
    )
    whole, failed = suite.findall("testcase")
    assert ("4 layouts", []) == (whole.get("name"), list(whole))
    (failure,) = failed
    (found,) = document["findings"]
    assert (found["id"], found["signature"]) == (failed.get("name"), failure.get("message"))
    lines = failure.text.splitlines()
    assert lines[0].startswith(
        f"{found['count']} times, first in layout {found['layout']}; a case of "
    )
    assert f"reproduce: {found['reproduce']}" == lines[-1]
    for words in (
        "  access:    ",
        "  rule:      SMAP: walker says ok",
        "  observed:  #PF",
        "  PML",
    ):
        assert any(line.startswith(words) for line in lines)
    assert 1 == sum("<-- U/S set at every level: SMAP" in line for line in lines)
    assert {"crosswalk.fuzz"} == {case.get("classname") for case in (whole, failed)}


def test_junit_of_nothing_found_has_no_failure(fuzz, tmp_path):
    fuzz("--junit", tmp_path / "report.xml", cases=2)
    suite = ET.fromstring((tmp_path / "report.xml").read_bytes())  # noqa: S314  # Our own.
    assert ("1", "0", []) == (
        suite.get("tests"), suite.get("failures"), list(suite.iter("failure")),
    )  # fmt: skip


def test_reports_say_what_a_run_ignored_and_that_it_is_no_result(fuzz, bug, tmp_path):
    def about(name):
        (run,) = json.loads((tmp_path / name).read_text())["runs"]
        return run["properties"]["about"], run["results"]

    ran = fuzz("--ignore", "smap", "--report", tmp_path / "a.sarif")
    assert 0 == ran.status
    lines, results = about("a.sarif")
    assert ("ignored by 'smap': 1: SMAP: walker says ok, it is #PF, P", []) == (lines[-1], results)
    (tmp_path / "silent.py").write_text("def f(*_): return NotImplemented\n")
    walker = ["--walker", f"python:{tmp_path / 'silent.py'}:f", "--ignore", "*"]
    reports = ["--report", tmp_path / "b.sarif", "--junit", tmp_path / "b.xml"]
    ran = fuzz(*walker, *reports, folder="silent")
    assert 2 == ran.status
    said = "verdict: nothing judged of: translation"
    assert (True, []) == (about("b.sarif")[0][-1].startswith(said), about("b.sarif")[1])
    error = ET.parse(tmp_path / "b.xml").find("testcase/error")  # noqa: S314  # Our own.
    assert f"verdict: {error.get('message')}" in ran.out.splitlines()


def test_what_is_done_is_said_and_not_done_again(fuzz, bug, tmp_path):
    first = fuzz("--json").document
    before = corpus(tmp_path / "corpus")
    ran = fuzz("--json")
    assert f"going on after 4 layouts in {tmp_path / 'corpus'}\n" in ran.err
    assert "all layouts are done" in ran.err
    assert (first["findings"], before) == (ran.document["findings"], corpus(tmp_path / "corpus"))


def test_an_access_across_pages_is_a_finding_that_is_made_small_and_replays(
    fuzz, run, tmp_path, monkeypatch
):
    plant_walker(monkeypatch, bug_named("XD not inherited").predict)
    how = ("--accesses", 4096, "--seed", 6, "--json")
    document = fuzz(*how, cases=1).document
    found, *_ = [each for each in document["findings"] if each["id"].startswith("cross-")]
    assert found["signature"].startswith("cross:execute: walker says ")
    assert found["entries"] <= 6
    case = load_composite(found["case"])
    assert found["entries"] == len(case.case.entries)
    assert case.case.note.startswith(found["signature"])
    _, *arguments = shlex.split(found["reproduce"])
    assert 1 == run(*arguments).status
    assert ", 1 composite, first in layout " in fuzz(*how[:-1], cases=1).out
    assert document["parts"]["cross"] > 0
    monkeypatch.undo()
    assert 0 == run(*arguments).status


def test_more_cases_go_on_and_come_to_the_same_as_at_once(fuzz, bug, tmp_path):
    fuzz(cases=2)
    fuzz(cases=4)
    fuzz(cases=4, folder="whole")
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "corpus")


def test_without_reduction_findings_stay_as_found_and_can_be_reduced_later(fuzz, bug, tmp_path):
    fuzz("--no-reduce")
    (path,) = (tmp_path / "corpus" / "findings").iterdir()
    found = path.read_bytes()
    fuzz()
    fuzz(folder="whole")
    assert found != path.read_bytes()
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (crash, "died of SIGSEGV"),
        pytest.param(hang, "hangs: no end", marks=pytest.mark.slow),
    ],
)
def test_a_crash_or_hang_of_the_emulator_is_shown_again_by_replay(
    fuzz, run, monkeypatch, act, said
):
    plant_emulator(monkeypatch, sick, act)
    if act is hang:
        monkeypatch.setattr(cluster, "TIME_LIMIT", 2.0)
        monkeypatch.setattr(Trial.__init__, "__defaults__", (None, None, 1.0))
    ran = fuzz("--json", cases=12)
    assert 1 == ran.status
    document = ran.document
    assert document["lost"] > 0
    (found,) = document["findings"]
    assert found["count"] == document["lost"]
    assert 1 == len(load_case(found["case"]).probes)
    again = run(*shlex.split(found["reproduce"])[1:], "--time-limit", 2)
    assert (2, "") == (again.status, again.out)
    assert said in again.err
    assert "reproduce: crosswalk replay " in again.err
    assert 1 == len(again.err.splitlines())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", 0], "--jobs: 0 is less than 1"),
        (["--accesses", 3], "--accesses: 3 is less than 16"),
        (["--seed", "x"], "--seed: 'x' is not a number"),
        (["--time", "soon"], "--time: 'soon' is not a number"),
        (["--walker", "nobody"], "--walker nobody: "),
        (["--scheduler", "tcp://x:1", "--jobs", 2], "--scheduler: the cluster says how many"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, tmp_path, more, message):
    ran = run("fuzz", "--cases", 1, "--corpus", tmp_path / "corpus", *more)
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert f"error: {message}" in ran.err.replace("argument ", "")


def test_another_campaigns_folder_is_refused_and_it_is_said_how_to_go_on(fuzz):
    fuzz(cases=1)
    ran = fuzz("--seed", 1)
    assert (2, "") == (ran.status, ran.out)
    assert (
        "of another campaign (seed 4 there, 1 here); --fresh begins anew there, --corpus names"
        in ran.err
    )


def test_help_tells_defaults_how_to_go_on_and_statuses(run):
    text = run("fuzz", "--help").out
    for part in ("(256, unless", "./crosswalk-fuzz", "command goes on", "exit status: 0", "130"):
        assert part in text


def test_the_command_can_be_told_of_json(fuzz):
    ran = fuzz("--json", "--coverage", cases=1)
    assert "reproduce" in json.loads(ran.out)
    assert "cells" in ran.err or "seen" in ran.err
