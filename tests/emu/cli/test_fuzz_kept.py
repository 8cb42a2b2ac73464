"""Campaigns from day to day: a mended walker, what is accepted, and where a campaign is kept."""

import json

import pytest

from crosswalk.emu.cli import fuzz as command
from crosswalk.emu.cli.campaign_findings import kept_findings, report_of
from crosswalk.emu.report.finding import UNSTEADY, dump_findings
from crosswalk.walker.formats import load_case
from tests.emu.cli.running import crosswalk
from tests.emu.fuzz.planting import bug_named, plant_walker

WALKER = """\
from dataclasses import replace

from crosswalk.walker import AccessType, Translation, translate
{imports}

def mine(memory, context, access):
    if access.type is AccessType.{confused}:
        access = replace(access, type=AccessType.READ)
    {more}
    outcome = translate(memory, context, access)
    return outcome.pa if isinstance(outcome, Translation) else None


mine.claims = "translation,rights"
"""
BROKEN, MENDED, OTHERWISE = "WRITE", "READ", "EXECUTE"
NAME = "python:mine.py:mine"
FOLDER = "crosswalk-fuzz/python-mine-py-mine"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def walker(here):
    def write(confused=MENDED, name="mine.py", imports="", more="pass"):
        (here / name).write_text(WALKER.format(confused=confused, imports=imports, more=more))

    write(BROKEN)
    return write


@pytest.fixture
def fuzz(capfd):
    def search(*more, walker=NAME, cases=3, reduce=False):
        how = ("--cases", cases, "--accesses", 96, "--jobs", 1, "--seed", 4)
        left = () if reduce else ("--no-reduce",)
        return crosswalk(capfd, "fuzz", "--walker", walker, *how, *left, *more)

    return search


def crosswalk_findings(folder):
    """What the campaign's folder keeps, as `findings --json` has it."""
    document = report_of([kept_findings(folder / FOLDER, [])])
    return json.loads(dump_findings(document))["searches"][0]["findings"]


def causes(ran):
    return [each["cause"] for each in ran.document["findings"]]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))


MOODY = """\
from crosswalk.walker import Translation, translate
asked = 0

def mine(memory, context, access):
    # One answer in 37 is wrong, once it has answered 60.
    global asked
    asked += 1
    outcome = translate(memory, context, access)
    if not isinstance(outcome, Translation):
        return None
    return outcome.pa ^ (0x1000 if asked > 60 and asked % 37 == 0 else 0)


mine.claims = "rights"
"""


def test_a_walker_with_a_state_gives_each_finding_once_with_a_line_that_says_so(fuzz, here):
    (here / "mine.py").write_text(MOODY)
    ran = fuzz(cases=2, reduce=True)
    assert 1 == ran.status
    assert "crosswalk: " not in ran.out.replace("crosswalk fuzz", "")
    found = ran.out.count(" × ")
    assert found
    assert found == ran.out.splitlines().count(f"  {UNSTEADY}")
    kept = crosswalk_findings(here)
    assert all(each["unsteady"] for each in kept)
    assert all(each["reproduce"].startswith("crosswalk fuzz --seed 4 ") for each in kept)


def test_a_mended_walker_passes_and_one_that_is_broken_otherwise_has_another_finding(
    fuzz, walker, here
):
    broken = fuzz("--json")
    assert 1 == broken.status
    assert all(cause.startswith("R/W ") for cause in causes(broken))
    found = [each["id"] for finding in broken.document["findings"] for each in finding["variants"]]
    walker(MENDED)
    mended = fuzz("--json")
    assert (0, []) == (mended.status, mended.document["findings"])
    assert sorted(found) == sorted(each["id"] for each in mended.document["gone"])
    assert "the walker has changed: findings are asked again, and layouts begin anew" in mended.err
    assert broken.document["layouts"] == mended.document["layouts"]
    assert {f"gone/{slug}.json" for slug in found} | {"state.json"} == set(files(here / FOLDER))
    again = fuzz("--json")
    assert (0, [], False) == (again.status, again.document["gone"], "changed" in again.err)
    walker(OTHERWISE)
    other = fuzz("--json")
    assert 1 == other.status
    assert causes(other)
    assert not {*causes(other)} & {*causes(broken)}
    assert [] == other.document["gone"]


def test_what_is_gone_is_said_to_people_in_a_line_a_cause_with_its_cases(fuzz, walker, here):
    fuzz()
    walker(MENDED)
    out = fuzz("--report", "gone.md", "--report", "gone.html").out
    lines = [line for line in out.splitlines() if line.startswith("gone: ")]
    for page in ("gone.md", "gone.html"):
        text = (here / page).read_text()
        assert (len(lines), 1) == (text.count("gone: R/W "), text.count("wrong answers: 0"))
    assert lines
    assert all(line.startswith("gone: R/W ") for line in lines)
    assert all(line.endswith(f" in {FOLDER}/gone") for line in lines)


def test_a_bug_that_comes_back_is_found_again_and_isnt_gone_any_more(fuzz, walker, here):
    first = fuzz("--json").document["findings"]
    walker(MENDED)
    fuzz()
    walker(BROKEN)
    back = fuzz("--json").document["findings"]
    assert [each["id"] for each in first] == [each["id"] for each in back]
    assert [] == [name for name in files(here / FOLDER) if name.startswith("gone/")]
    assert {} == json.loads((here / FOLDER / "state.json").read_bytes())["gone"]


def test_a_finding_that_a_changed_walker_still_shows_stays_until_the_layouts_meet_it_again(
    fuzz, walker
):
    first = fuzz("--json").document["findings"]
    walker(BROKEN, more="assert memory")
    kept = fuzz("--json", cases=0)
    assert 1 == kept.status
    assert [(each["id"], None, len(each["variants"])) for each in first] == [
        (each["id"], each["layout"], each["count"]) for each in kept.document["findings"]
    ]
    assert 0 == kept.document["layouts"]
    assert first == fuzz("--json").document["findings"]


@pytest.mark.parametrize("reduce", [False, True])
def test_a_module_that_the_walker_imports_may_have_been_mended(fuzz, walker, here, reduce):
    rules = here / "rules.py"
    rules.write_text("READS = {'WRITE'}\n")
    walker(
        imports="import rules\n",
        more="access = replace(access, type=AccessType.READ) "
        "if access.type.name in rules.READS else access",
    )
    assert 1 == fuzz("--json", reduce=reduce).status
    assert "going on after 3 layouts" in fuzz().err
    rules.write_text("READS = set()\n")
    mended = fuzz("--json")
    assert (0, [], 3) == (
        mended.status, mended.document["findings"], mended.document["layouts"],
    )  # fmt: skip
    assert mended.document["gone"]
    assert "findings are gone, so that something has changed: layouts begin anew" in mended.err
    assert "going on after 3 layouts" in fuzz().err


def test_a_finding_that_its_case_alone_does_not_show_is_found_again_and_is_not_gone(
    fuzz, walker, here
):
    # Wrong from the 50th access of a process on.
    walker(
        imports="from itertools import count\n\ncounted = count()\n",
        more="access = replace(access, type=AccessType.READ) if next(counted) > 50 else access",
    )
    first = fuzz("--json")
    assert 1 == first.status
    again = fuzz("--json")
    assert (1, []) == (again.status, again.document["gone"])
    assert [each["id"] for each in first.document["findings"]] == [
        each["id"] for each in again.document["findings"]
    ]


def test_findings_of_crosswalk_itself_are_asked_again_as_well(run, tmp_path, monkeypatch):
    how = ("--cases", 4, "--accesses", 96, "--jobs", 2, "--seed", 4, "--json")
    plant_walker(monkeypatch, bug_named("SMAP ignored").predict)
    assert 1 == run("fuzz", *how).status
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    clean = run("fuzz", *how)
    assert (0, []) == (clean.status, clean.document["findings"])
    assert ["SMAP: walker says ok, it is #PF, P"] == [
        each["signature"] for each in clean.document["gone"]
    ]


def test_each_walker_has_a_folder_of_its_own(fuzz, walker, here):
    walker(OTHERWISE, "other.py")
    fuzz(cases=1)
    assert "going on" not in fuzz(walker="python:other.py:mine", cases=1).err
    assert "going on after 1 layout" in fuzz(cases=1).err
    assert ["python-mine-py-mine", "python-other-py-mine"] == sorted(
        path.name for path in (here / "crosswalk-fuzz").iterdir()
    )


def test_fresh_begins_anew_and_leaves_other_peoples_files_alone(fuzz, walker, here):
    fuzz()
    walker(MENDED)
    fuzz()
    folder = here / FOLDER
    mine = [folder / "notes.txt", folder / "findings" / "mine.json", folder / "gone" / "x.json"]
    for path in mine:
        path.write_text("mine")
    walker(BROKEN)
    fresh = fuzz("--fresh", "--json", cases=1)
    assert 1 == fresh.document["layouts"]
    assert ([], False) == (fresh.document["gone"], "going on" in fresh.err)
    assert all(path.read_text() == "mine" for path in mine)
    assert {"gone/x.json"} == {name for name in files(folder) if name.startswith("gone/")}
    assert 2 == fuzz("--seed", 5, cases=1).status
    assert 1 == fuzz("--seed", 5, "--fresh", "--json", cases=1).document["layouts"]


@pytest.mark.parametrize("text", ["{", '{"format": "mine/1"}', '{"other": 1}'])
def test_fresh_removes_nothing_of_a_folder_that_is_no_campaigns(fuzz, walker, here, text):
    (here / FOLDER / "findings").mkdir(parents=True)
    mine = [here / FOLDER / "state.json", here / FOLDER / "findings" / "a-b.json"]
    for path in mine:
        path.write_text(text)
    ran = fuzz("--fresh")
    assert (2, "") == (ran.status, ran.out)
    assert f"{FOLDER}/state.json: not the state of a campaign; choose another" in ran.err
    assert all(path.read_text() == text for path in mine)


def test_the_cases_of_one_walkers_campaign_start_anothers_as_they_are(
    fuzz, walker, here, small_case
):
    first = fuzz("--json").document["findings"]
    (here / FOLDER / "findings" / "notes.json").write_text("{}")
    walker(BROKEN, "other.py")
    count = sum(len(each["variants"]) for each in first)  # As many cases.
    how = {"walker": "python:other.py:mine", "cases": count}
    ran = fuzz("--from", FOLDER, "--json", **how)
    assert 1 == ran.status
    assert f"not taken: {FOLDER}/findings/notes.json: " in ran.err
    assert sorted(each["cause"] for each in first) == sorted(causes(ran))
    # One access each, of which some break the same rule.
    assert count == ran.document["probes"]
    assert count == sum(each["count"] for each in ran.document["findings"])
    again = fuzz("--from", FOLDER, "--json", "--corpus", "again", **how).document
    assert ran.document["divergences"] == again["divergences"]
    assert "going on" in fuzz("--from", FOLDER, **how).err
    small_case.rename(here / FOLDER / "findings" / "small.json")
    refused = fuzz("--from", FOLDER, **how)
    assert (2, "") == (refused.status, refused.out)
    assert "of another campaign (tables " in refused.err


def test_a_folder_of_case_files_starts_a_campaign_and_layouts_are_made_behind_them(
    fuzz, walker, here, small_case
):
    walker(MENDED)
    (here / "cases").mkdir()
    small_case.rename(here / "cases" / "small.json")
    alone = fuzz("--from", "cases", "--json", cases=1)
    assert (0, 4) == (alone.status, alone.document["probes"])
    assert fuzz("--from", "cases", "--json", cases=2).document["probes"] > 50


@pytest.mark.parametrize(
    ("folder", "message"),
    [("empty", "--from: empty: no case files"), (FOLDER, "the folder of this very campaign")],
)
def test_a_folder_that_cannot_start_a_campaign_is_one_line(fuzz, walker, here, folder, message):
    (here / "empty").mkdir()
    fuzz(cases=2)
    ran = fuzz("--from", folder, "--fresh")
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert message in ran.err


def test_ignored_findings_do_not_fail_and_are_named(fuzz, walker):
    assert 1 == fuzz("--ignore", "XD*").status
    ran = fuzz("--ignore", "xd*", "--ignore", "R/W *")
    assert 0 == ran.status
    nothing, line = (line for line in ran.out.splitlines() if line.startswith("ignored by "))
    assert ("ignored by 'xd*': nothing", True) == (nothing, line.startswith("ignored by 'R/W *': "))
    assert ": R/W " in line
    assert "accepted" in ran.out.splitlines()[-2]
    document = fuzz("--ignore", "R/W *", "--json").document
    assert [] == document["findings"]
    assert document["accepted"]["ignored"]["R/W *"]


def test_known_findings_of_a_baseline_do_not_fail_new_ones_do_and_vanished_ones_are_told(
    fuzz, walker, here
):
    written = fuzz("--write-baseline", "known.json")
    assert 0 == written.status
    assert "known.json: a baseline of " in written.err
    text = (here / "known.json").read_text()
    assert "mine" not in text
    assert str(here) not in text
    known = [each["cause"] for each in json.loads(text)["causes"]]
    assert known == sorted(known)
    assert 0 == fuzz("--baseline", "known.json").status
    assert "known from the baseline: " in fuzz("--baseline", "known.json").out
    walker(OTHERWISE)
    other = fuzz("--baseline", "known.json", "--json")
    assert 1 == other.status
    assert causes(other)
    assert known == other.document["accepted"]["vanished"]
    rewritten = fuzz("--baseline", "known.json", "--write-baseline")
    assert 0 == rewritten.status
    assert not {*known} & {
        each["cause"] for each in json.loads((here / "known.json").read_bytes())["causes"]
    }


def test_the_project_may_say_what_is_accepted(fuzz, walker, here):
    (here / "pyproject.toml").write_text(
        '[tool.crosswalk.fuzz]\nignore = ["XD *", "R/W *"]\nmode = ["4level", "5level"]\n'
    )
    ran = fuzz("--json")
    assert (0, []) == (ran.status, ran.document["findings"])
    assert "'--ignore=XD *' '--ignore=R/W *' --mode=4level,5level" in ran.err


def test_a_setting_of_the_project_is_taken_back_and_a_missing_baseline_says_what_writes_it(
    fuzz, walker, here
):
    (here / "pyproject.toml").write_text(
        '[tool.crosswalk.fuzz]\nignore = "R/W *"\nbaseline = "known.json"\n'
    )
    missing = fuzz()
    assert (2, "") == (missing.status, missing.out)
    line = "crosswalk: error: known.json: no such file; --write-baseline writes it"
    assert line == missing.err.splitlines()[-1]
    assert 0 == fuzz("--baseline", "").status
    assert 1 == fuzz("--baseline", "", "--ignore", "").status
    assert 0 == fuzz("--ignore", "", "--write-baseline").status
    assert 0 == fuzz("--ignore", "").status


def test_the_projects_walker_and_files_are_found_from_a_folder_below(
    capfd, walker, here, monkeypatch
):
    (here / "pyproject.toml").write_text(
        f'[tool.crosswalk.fuzz]\nwalker = "{NAME}"\nbaseline = "known.json"\ncases = 3\n'
        "accesses = 96\njobs = 1\nseed = 4\nno-reduce = true\n"
    )
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert 0 == crosswalk(capfd, "fuzz", "--write-baseline").status
    assert (here / "known.json").is_file()
    assert 0 == crosswalk(capfd, "fuzz").status
    monkeypatch.chdir(here)
    assert 0 == crosswalk(capfd, "fuzz").status
    assert 1 == crosswalk(capfd, "fuzz", "--baseline", "").status


@pytest.mark.parametrize("reduce", [False, True])
def test_the_first_words_of_a_failure_are_kept_with_its_case(fuzz, walker, here, reduce):
    walker(more="1 // access.cpl")
    ran = fuzz("--report", "report.md", cases=1, reduce=reduce)
    words = "crash: raised ZeroDivisionError: integer division or modulo by zero"
    assert f"  walker:    {words}\n" in ran.out
    (path,) = (here / FOLDER / "findings").iterdir()
    assert f": {words}" in load_case(path).note
    assert words in (here / "report.md").read_text()
    assert "raised ZeroDivisionError (layout 0)" in load_case(path).note


def test_a_walker_that_declines_everything_is_judged_of_nothing(fuzz, walker, here):
    (here / "mine.py").write_text(
        "def mine(memory, context, access):\n    return NotImplemented\n"
        'mine.claims = "translation,rights"\n'
    )
    ran = fuzz("--json", cases=3)
    assert 2 == ran.status
    assert "verdict: nothing judged of: translation, rights" in ran.err
    document = ran.document
    assert document["asked"] == document["declined"]
    assert {0} == {*document["answered"].values()}
    assert "nothing judged of: translation, rights" in fuzz(cases=3).out


def test_a_mode_that_is_declined_is_listed_and_no_fault(fuzz, walker, here):
    walker(MENDED, more="if context.levels == 5: return NotImplemented")
    ran = fuzz("--json")
    assert 0 == ran.status
    document = ran.document
    assert (document["asked"]["5level"], 0) == (
        document["declined"]["5level"], document["answered"]["5level"],
    )  # fmt: skip
    assert 0 == document["declined"]["4level"]
    assert document["claims"]["rights"]["answered"] == document["answered"]["4level"]
    assert "    5level: asked for " in fuzz().out
    assert ", declined" in fuzz().out


def test_interrupted_while_reducing_findings_are_still_printed(fuzz, walker, monkeypatch):
    with monkeypatch.context() as patched:

        def interrupted(*_):
            raise KeyboardInterrupt

        patched.setattr(command, "reduce_findings", interrupted)
        ran = fuzz("--json", reduce=True)
    assert 130 == ran.status
    document = ran.document
    assert document["interrupted"]
    assert document["findings"]
    assert document["unreduced"] == sum(len(each["variants"]) for each in document["findings"])
    with monkeypatch.context() as patched:
        patched.setattr(command, "reduce_findings", interrupted)
        text = fuzz(reduce=True)
    assert (130, True) == (text.status, "not made small yet: the same command goes on" in text.out)
    assert "what was found is kept; the same command goes on\n" in text.err
    assert "verdict: FAILED; interrupted\n" in text.out
    whole = fuzz("--json", reduce=True).document
    assert (0, False) == (whole["unreduced"], whole["interrupted"])
    assert [each["id"] for each in document["findings"]] == [
        each["id"] for each in whole["findings"]
    ]


@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_a_folder_with_other_files_and_no_campaign_is_left_as_it_is(fuzz, walker, here, fresh):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("of mine")
    refused = fuzz("--corpus", "mine", *fresh)
    line = "mine: holds other files, and no campaign: choose another folder with --corpus"
    assert (2, f"crosswalk: error: {line}\n") == (refused.status, refused.err)
    assert ["thesis.txt"] == [path.name for path in (here / "mine").iterdir()]


def test_a_folder_that_is_empty_or_left_without_a_state_or_holds_campaigns_is_taken(
    fuzz, walker, here
):
    (here / "empty").mkdir()
    (here / "killed" / "findings").mkdir(parents=True)
    for name in ("lock", "findings/a.json.partial", "findings/a.json"):
        (here / "killed" / name).touch()
    for folder in ("empty", "killed"):
        assert 1 == fuzz("--corpus", folder, cases=1).status
    (here / "empty" / "notes.txt").write_text("of mine")
    assert 1 == fuzz("--corpus", "empty", "--fresh", cases=1).status
    assert "of mine" == (here / "empty" / "notes.txt").read_text()
    assert 1 == fuzz(cases=1).status
    assert 1 == fuzz("--corpus", "crosswalk-fuzz", cases=1).status


def test_the_search_of_a_junit_report_is_of_one_layout(fuzz, walker, here):
    fuzz("--junit", "junit.xml", cases=1)
    assert 'name="1 layout"' in (here / "junit.xml").read_text()


def test_an_empty_selection_is_an_error_as_an_empty_mode_is(fuzz):
    for option in ("--select", "--mode"):
        assert (2, "") == ((ran := fuzz(f"{option}=")).status, ran.out)
        assert f"argument {option}: " in ran.err
