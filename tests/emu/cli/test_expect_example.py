"""The worked example of a kernel's CI job: Linux, the built-in guest and a broken guest, judged."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from crosswalk.emu.cli.parser import parse
from crosswalk.guest.layout import span_of
from crosswalk.guest.memory_map import memory_map
from crosswalk.walker import mappings, walk
from crosswalk.walker.formats import dump_case, load_case
from tests.emu.case_files import LINUX_CASE
from tests.tables import RW, TOP

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "kernel-ci"
GUEST, LINUX = EXAMPLE / "guest.expect", EXAMPLE / "linux.expect"


@pytest.fixture
def job(tmp_path):
    """The example's script, run as a CI job does."""

    def job(*arguments, **variables):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        known = {name: text for name, text in os.environ.items() if name != "GITHUB_ACTIONS"}
        return subprocess.run(
            [EXAMPLE / "page-tables.sh", *map(str, arguments)],
            cwd=tmp_path,
            env=known | {"PATH": path} | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return job


@pytest.fixture
def counts(tmp_path):
    """How many sentences the JUnit report has, how many are broken, and how many unsaid."""

    def counts():
        suite = ET.parse(tmp_path / "page-tables.xml").getroot()  # noqa: S314  # Our own.
        return tuple(int(suite.get(name)) for name in ("tests", "failures", "errors"))

    return counts


def test_the_built_in_guest_keeps_its_expectations(job, counts):
    ran = job(GUEST, "guest:4level")
    assert (0, (10, 0, 0)) == (ran.returncode, counts())
    assert "verdict: 10 expectations hold" in ran.stdout


@pytest.fixture
def broken(run, tmp_path):
    """The guest with one entry changed, which makes a page of its text writable; its symbols."""
    path, symbols = tmp_path / "broken.json", tmp_path / "System.map"
    run("walk", "guest:4level", "--save-case", path, "--limit", "1")
    case = load_case(path)
    regions = memory_map(4).regions
    text = next(each for each in regions if each.name == "text")
    leaf = walk(case.memory(), case.context(), text.va).steps[-1]
    entries = {**case.entries, leaf.pa: leaf.entry | RW}
    path.write_bytes(dump_case(replace(case, entries=entries)))
    ends = {each.va + each.count * span_of(each.level): f"end of {each.name}" for each in regions}
    lines = {va: name for va, name in ends.items() if va < TOP}
    lines |= {each.va: each.name for each in regions}
    names = [f"{va:016x} T {name.replace(' ', '-')}\n" for va, name in lines.items()]
    symbols.write_text("".join(names))
    return path, "--symbols", symbols


def test_a_broken_guest_fails_and_names_the_mapping(job, counts, broken):
    ran = job(GUEST, *broken, GITHUB_ACTIONS="true")
    # A System.map names no address of the lower half.
    assert (1, (10, 3, 1)) == (ran.returncode, counts())
    lines = GUEST.read_text().splitlines()
    for text in "no wx in upper-half", "text, large-text is r-x":
        assert f"BROKEN         {text}: 1 mapping\n" in ran.stdout
        assert f"::error file={GUEST},line={lines.index(text) + 1},title=BROKEN" in ran.stderr
    assert "rwx ---  1 page" in ran.stdout
    assert "BROKEN         frames of text, large-text never writable: 1 frame" in ran.stdout


def test_of_linux_what_no_symbol_names_is_judged_and_the_rest_cannot_be_said(job, counts):
    ran = job(LINUX, LINUX_CASE)
    assert (2, (13, 0, 6)) == (ran.returncode, counts())
    for text in "no wx", "frames never wx", "guard 0x0-0x1000 unmapped":
        assert f"holds          {text}\n" in ran.stdout
    assert "can't be said  text is r-x: no region, section or symbol text is known" in ran.stdout


def test_a_linux_that_is_broken_is_found_out(job, counts, tmp_path):
    case = load_case(LINUX_CASE)
    path = tmp_path / "broken.json"
    code = next(
        it for it in mappings(case.memory(), case.context()) if it.rights.supervisor == "r-x"
    )
    leaf = walk(case.memory(), case.context(), code.va).steps[-1]
    path.write_bytes(dump_case(replace(case, entries={**case.entries, leaf.pa: leaf.entry | RW})))
    ran = job(LINUX, path)
    assert (1, (13, 2, 6)) == (ran.returncode, counts())
    assert "BROKEN         no wx: 1 mapping\n" in ran.stdout


def test_the_workflow_calls_the_script_as_it_is():
    lines = (EXAMPLE / "workflow.yml").read_text().splitlines()
    calls = [line.partition("run: ")[2] for line in lines if "page-tables.sh" in line]
    (words,) = map(shlex.split, calls)
    script, expectations, *rest = words
    assert "page-tables.sh" == Path(script).name
    options = parse(["walk", *rest, "--expect", expectations, "--junit", "page-tables.xml"])
    assert ("memory.elf", "kernel.elf") == (options.source, options.symbols)
