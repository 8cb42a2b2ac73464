"""`--map` of `fuzz`, `findings` and `matrix`: pages of what was found and covered."""

import base64
import json
import re
from pathlib import Path

import numpy as np

from crosswalk.emu.cli import charts
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap
from crosswalk.emu.matrix.summary import Group, SequenceGroup, Summary

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "docs" / "examples" / "broken_walker.py"
CASES = ROOT / "tests" / "cases" / "findings"


def document(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search('id="document">(.*?)</script>', text, re.DOTALL)[1])


def reached(chart):
    packed = np.frombuffer(base64.b64decode(chart["seen"]), np.uint8)
    return int(np.unpackbits(packed).sum())


def test_a_campaign_is_drawn_by_itself_and_from_its_folder(run, tmp_path):
    path, again, corpus = tmp_path / "page.html", tmp_path / "again.html", tmp_path / "corpus"
    options = ("--cases", 2, "--accesses", 256, "--jobs", 1, "--no-reduce", "--corpus", corpus)
    walker = f"python:{BROKEN}:translate"
    ran = run("fuzz", "--walker", walker, *options, "--map", path, "--json")
    assert 1 == ran.status
    made = document(path)
    walks = [each for each in made["charts"] if each["kind"] == "walk"]
    assert any(step["blame"] for chart in walks for step in chart["steps"])
    grids = {each["title"]: each for each in made["charts"] if each["kind"] == "grid"}
    coverage = ran.document["coverage"]
    assert {f"coverage: {name}" for name in coverage} == grids.keys()
    for name, counts in coverage.items():
        assert counts["seen"] == reached(grids[f"coverage: {name}"])
    assert 0 == run("findings", corpus, "--map", again).status
    assert made["charts"][len(walks) :] == document(again)["charts"][len(walks) :]


def test_cases_without_a_campaign_are_drawn_without_coverage(run, tmp_path):
    path = tmp_path / "page.html"
    assert 0 == run("findings", CASES, "--map", path).status
    assert {"walk"} == {each["kind"] for each in document(path)["charts"]}


def test_every_possible_cell_is_in_a_grid(tmp_path):
    every = CoverageMap(np.ones(CELLS.count, np.bool_))
    grids = [*charts._coverage(every)]
    assert CELLS.reachable == sum(int((each.seen & each.possible).sum()) for each in grids)


def test_the_matrix_is_drawn_with_its_sections(run, tmp_path):
    path = tmp_path / "page.html"
    options = ("--select", "section=pae-pdpte", "--jobs", 1)
    ran = run("matrix", *options, "--map", path, "--json")
    (chart,) = [each for each in document(path)["charts"] if each["noun"] == "section"]
    assert ran.document["sections"] == {each["name"]: each["counts"][0] for each in chart["rows"]}
    for each in chart["rows"]:
        assert each["counts"][0] >= sum(each["counts"][1:]) > 0


def test_groups_of_divergences_are_counted_and_drawn(tmp_path):
    case = min(CASES.glob("*.json")).read_text(encoding="utf-8")
    summary = Summary("", divergent=7, combinations={"s": 9}, outcomes={"s": [1, 1, 0]})
    summary.groups = {"a": Group("sig a", 4, case), "b": Group("sig b", 3, "")}
    summary.tlb.sections["tlb-x"] = [2, 1, 1, 0, 0, 1]
    summary.tlb.groups["c"] = SequenceGroup("cause c", 1, "x", "{}")
    summary.known["known-one"] = 5
    path = tmp_path / "page.html"
    charts.write_matrix_map(path, summary)
    made = {each["title"]: each for each in document(path)["charts"]}
    groups = made["Groups of divergences"]
    assert [("sig a", 4), ("sig b", 3), ("cause c", 1)] == [
        (each["name"], each["counts"][0]) for each in groups["rows"]
    ]
    assert [5] == made["Known divergences"]["rows"][0]["counts"]
    assert ["violations"] == made["Sequences"]["serious"]
    assert 1 == sum(each["kind"] == "walk" for each in made.values())
    assert "8 divergences in 3 groups" in document(path)["about"]
