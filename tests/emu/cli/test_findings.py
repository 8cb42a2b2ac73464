"""`findings`: what is kept is listed and reported, and no walker is run for it."""

import io
import json
import os
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import jsonschema
import pytest

from crosswalk.emu.cli import main
from crosswalk.emu.findings.note import note_of
from crosswalk.walker import PageFault, Translation
from crosswalk.walker.formats import Probe, dump_case, load_case
from tests.emu.cli.conftest import case_of
from tests.emu.cli.running import refused, written
from tests.emu.fuzz.planting import bug_named, plant_walker

WALKER = ["--walker", "python:its.py:f"]
ROOT = Path(__file__).parents[3]
KNOWN = ROOT / "tests" / "cases" / "known"
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "crosswalk-findings-1.json").read_text())
WRONG = """\
from dataclasses import replace
from crosswalk.walker import AccessType, translate


def f(memory, context, access):
    # A write is taken for a read.
    return translate(memory, context, replace(access, type=AccessType.READ))


f.claims = "rights"
"""


LISTER = """\
from crosswalk.walker import mappings


def f(memory, context, va, end):
    # Each page is as large as one of the last level.
    return [(each.va, each.pa, 4096) for each in mappings(memory, context, va, end)]


f.claims = "leaves"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A folder in which a campaign has found something: it, and what was printed."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "its.py").write_text(WRONG, "utf-8")
    reports = [word for end in ("md", "html", "sarif") for word in ("--report", f"fuzz.{end}")]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        status = main(
            ["fuzz", "--cases", "2", "--accesses", "96", "--jobs", "1", *WALKER, *reports]
        )
    assert 1 == status
    return folder, out.getvalue()


@pytest.fixture
def kept(campaign, place):
    """A copy of it, whose walker can't be run any more: the folder of the campaign, the text."""
    folder, text = campaign
    copytree(folder, place, dirs_exist_ok=True)
    Path("its.py").write_text("raise SystemExit('run')\n\n\ndef f(): ...\n")
    return Path("crosswalk-fuzz/python-its-py-f"), text


def shown(text):
    """The lines about findings of what `fuzz` or `findings` prints."""
    lines = text.splitlines()
    first = next(at for at, line in enumerate(lines) if " × " in line)
    return [line for line in lines[first:] if not line.startswith(("verdict:", "reproduce:"))]


def test_what_a_campaign_found_is_listed_as_the_campaign_did(run, kept):
    folder, fuzzed = kept
    ran = run("findings")
    assert (0, "") == (ran.status, ran.err)
    assert shown(fuzzed) == shown(ran.out)
    title = "Findings about python:its.py:f in crosswalk-fuzz/python-its-py-f: "
    assert ran.out.startswith(title)
    assert "  <-- R/W clear\n" in ran.out
    assert shown(ran.out) == shown(run("findings", folder).out)


def test_reports_are_those_of_the_campaign(run, kept):
    ran = run("findings", "--report", "a.md", "--report", "a.html", "--report", "a.sarif")
    assert 0 == ran.status
    for ending in ("md", "html", "sarif"):
        # The walker's file has changed, and with it the line of its function.
        text, before = Path(f"a.{ending}").read_text(), Path(f"fuzz.{ending}").read_text()
        assert text == before.replace('"startLine": 5', '"startLine": 4')
        assert "R/W clear" in text


def test_the_document_is_of_its_schema_and_has_all_of_it(run, kept):
    ran = run("findings", "--json")
    assert (0, "") == (ran.status, ran.err)
    jsonschema.Draft202012Validator(SCHEMA).validate(ran.document)
    (search,) = ran.document["searches"]
    assert "python:its.py:f" == search["walker"]
    assert search["about"][0].startswith("2 layouts of seed 0, ")
    for found in search["findings"]:
        assert ["its.py", 4] == found["location"]
        assert found["reproduce"].startswith(f"crosswalk replay {found['case']} --walker ")
        assert Path(found["case"]).read_text() == found["case_text"]
        assert {"manual", "answer", "predicted", "observed", "walk"} <= found.keys()
        assert any("blame" in entry for entry in found["walk"])


def test_campaigns_below_are_listed_one_after_the_other(run, kept, monkeypatch):
    with monkeypatch.context() as planted:
        plant_walker(planted, bug_named("SMAP ignored").predict)
        run("fuzz", "--cases", 2, "--accesses", 96, "--jobs", 1, "--seed", 4)
    own, peer = run("findings", "--json").document["searches"]
    assert (None, "crosswalk-fuzz", "python:its.py:f", "crosswalk-fuzz/python-its-py-f") == (
        own["walker"], own["folder"], peer["walker"], peer["folder"],
    )  # fmt: skip
    (found,) = own["findings"]
    assert ("walker", "SMAP: says ok, it is #PF, P") == (found["witness"], found["cause"])
    assert f"crosswalk replay {found['case']}" == found["reproduce"]
    assert "location" not in found or None is found["location"]
    text = run("findings").out
    assert [f"Findings about Crosswalk's own walker in {own['folder']}: 1 finding"] == [
        line for line in text.splitlines() if line.startswith("Findings about Crosswalk")
    ]


def test_what_a_list_answers_is_told_though_no_case_holds_it(run, place):
    Path("lister.py").write_text(LISTER, "utf-8")
    named = ["--walker", "python:lister.py:f"]
    ran = run("fuzz", "--cases", 2, "--accesses", 96, "--jobs", 1, *named, "--json")
    assert 1 == ran.status
    (search,) = run("findings", "--json").document["searches"]
    sizes = [each for each in search["findings"] if each["rule"].startswith("size of a ")]
    assert sizes
    for each in sizes:
        probe = load_case(each["case"]).probes[0]
        answer = f"mapped, pa {probe.predicted.pa:#x}, a page of 4 KiB; another size"
        assert answer == each["answer"]
        blamed = [entry["blame"] for entry in each["walk"] if "blame" in entry]
        assert blamed in (["maps 2 MiB"], ["maps 1 GiB"])


def test_findings_are_chosen_by_their_cause(run, kept):
    every = run("findings", "--json").document["searches"][0]["findings"]
    some = run("findings", "--json", "--cause", "r/w *").document["searches"][0]["findings"]
    assert [each["id"] for each in every if each["cause"].startswith("R/W")] == [
        each["id"] for each in some
    ]
    assert some
    ran = run("findings", "--cause", "no such cause")
    assert (0, f"none of {len(every)} findings matches 'no such cause'\n") == (ran.status, ran.out)


def test_without_findings_no_pattern_is_blamed(run, place):
    (place / "empty").mkdir()
    ran = run("findings", "empty", "--cause", "no such cause")
    assert (0, "nothing found in empty\n") == (ran.status, ran.out)


def test_annotations_go_to_standard_error(run, kept):
    ran = run("findings", "--github", "--json")
    count = len(ran.document["searches"][0]["findings"])
    lines = ran.err.splitlines()
    assert count == len(lines)
    assert all(line.startswith("::error file=its.py,line=4,title=") for line in lines)


def test_a_case_that_is_gone_or_broken_is_a_line_and_the_rest_is_told(run, kept):
    folder, _ = kept
    before = run("findings", "--json").document["searches"][0]["findings"]
    gone, *_ = sorted(folder.glob("findings/*.json"))
    gone.write_text("{")
    ran = run("findings", "--json")
    (line,) = ran.err.splitlines()
    assert (0, True) == (ran.status, f"findings/{gone.name}: not JSON: " in line)
    after = ran.document["searches"][0]["findings"]
    assert len(before) == len(after)
    gone.unlink()
    assert "no such file" in run("findings", "--json").err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "not the state of a campaign"),
        ("not JSON", "not the state of a campaign"),
        ('{"plan": {"seed": "x"}}', "its seed is 'x'"),
        ('{"plan": {"mode": "6level"}}', "mode '6level'"),
    ],
)
def test_a_state_that_no_campaign_wrote_is_status_2(run, place, text, why):
    (place / "other").mkdir()
    (place / "other" / "state.json").write_text(text)
    ran = run("findings", "other")
    assert (2, "nothing found in other\n") == (ran.status, ran.out)
    (line,) = ran.err.splitlines()
    assert line.startswith("other/state.json: ")
    assert why in line


def test_of_a_campaign_of_another_release_the_cases_are_read(run, kept):
    folder, _ = kept
    before = run("findings", "--json").document["searches"][0]["findings"]
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": "crosswalk-fuzz/9"}))
    ran = run("findings", "--json")
    (line,) = ran.err.splitlines()
    assert (0, True) == (ran.status, line.startswith(f"{folder}/state.json: not the state"))
    (search,) = ran.document["searches"]
    assert "python:its.py:f" == search["walker"]

    def cases(findings):
        variants = (variant for each in findings for variant in each["variants"])
        return sorted(variant["case"] for variant in variants)

    assert cases(before) == cases(search["findings"])
    assert len(before) == len(search["findings"])


def test_a_folder_that_is_none_is_bad_input(run, place):
    assert "no folder of a campaign, nor of cases" in refused(run("findings", "nowhere"))
    assert "no folder of a campaign, nor of cases" in refused(run("findings", Path(__file__)))
    (place / "empty").mkdir()
    ran = run("findings", "empty")
    assert (0, "nothing found in empty\n", "") == (ran.status, ran.out, ran.err)


@pytest.mark.parametrize("name", ["a.txt", "a", "nowhere/a.md"])
def test_a_report_of_another_kind_is_bad_usage(run, place, name):
    assert "--report" in refused(run("findings", "--report", name))


def differing(**others):
    """A case of which a write to a read-only page is said to be allowed."""
    fault = PageFault(3, 0x40_1000)
    probe = Probe(va=0x40_1000, access="write", predicted=Translation(0x9000), observed=fault)
    return replace(case_of(probe), **others)


def test_any_folder_of_cases_is_listed_by_note_or_by_outcomes(run, kept, place):
    folder, _ = kept
    cases = place / "cases"
    cases.mkdir()
    original = min(folder.glob("findings/*.json"))
    (cases / "noted.json").write_bytes(original.read_bytes())
    written(cases / "plain.json", differing())
    written(cases / "peer.json", differing(walker="c:./its.so", note="by hand"))
    written(cases / "agrees.json", case_of(Probe(va=0x40_1000, access="read")))
    (cases / "foreign.json").write_text('{"format": "other/1"}')
    ran = run("findings", "cases", "--json")
    assert 0 == ran.status
    lines = ran.err.splitlines()
    assert [True, True] == [
        line.startswith(f"cases/{name}.json: ")
        for line, name in zip(lines, ("agrees", "foreign"), strict=True)
    ]
    found = {each["walker"]: each["findings"] for each in ran.document["searches"]}
    assert {None, "c:./its.so", "python:its.py:f"} == found.keys()
    (own,), (peer,), (noted,) = (found[name] for name in (None, "c:./its.so", "python:its.py:f"))
    assert ("walker", "R/W of a PTE", "crosswalk replay cases/plain.json") == (
        own["witness"], own["rule"], own["reproduce"],
    )  # fmt: skip
    assert "crosswalk replay cases/peer.json --walker c:./its.so" == peer["reproduce"]
    case = load_case(original)
    assert noted["signature"] == str(note_of(case.note, case.walker).signature)


def test_a_case_that_is_no_file_is_not_waited_for(run, place):
    (place / "cases").mkdir()
    os.mkfifo(place / "cases" / "pipe.json")
    (place / "cases" / "folder.json").mkdir()
    ran = run("findings", "cases")
    assert (2, "nothing found in cases\n") == (ran.status, ran.out)
    assert [
        "cases/folder.json: is a directory",
        "cases/pipe.json: not a regular file",
    ] == ran.err.splitlines()


def test_known_divergences_of_the_emulator_are_no_findings(run):
    ran = run("findings", KNOWN)
    assert (2, f"nothing found in {KNOWN}\n") == (ran.status, ran.out)
    assert all(line.endswith("say what is wrong") for line in ran.err.splitlines())


def test_text_of_others_reaches_no_terminal(run, place):
    odd = "\x1b]0;title\x07"
    (place / "cases").mkdir()
    (place / "cases" / f"{odd}.json").write_bytes(
        dump_case(differing(walker=odd, note=f"{odd}: peer:{odd} says {odd}, it is {odd}"))
    )
    ran = run("findings", "cases", "--github")
    assert 0 == ran.status
    assert all(line.isprintable() for line in (ran.out + ran.err).splitlines())
    assert r"\x1b]0;title\x07" in ran.out
