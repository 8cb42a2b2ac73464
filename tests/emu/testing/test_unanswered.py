"""A walker that never answers what it claims fails the test run, and no single test."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.testing.checking import Checker, WrongWalker
from crosswalk.emu.testing.tallies import complaints, dump, load
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats import Probe
from tests.emu.cli.conftest import case_of
from tests.emu.testing.running import run_pytest

TESTS = """
import pytest
from crosswalk.emu.testing.checking import WrongWalker
from crosswalk.walker import PagingMode, translate
from crosswalk.walker.formats import Case, Cpu, Probe

def walker(memory, context, access):
    return BODY

def layout(cr4):
    probes = (Probe(va=0, access="write"),)
    return Case(cpu=Cpu(cr3=0x1000, cr4=cr4), ram=((0, 0x10000),), entries={}, probes=probes)

def test_four(check_walker):
    check_walker(walker, layout(0x20))

def test_five(check_walker):
    check_walker(walker, layout(0x1020))

def test_another():
    pass
"""
LINE = "walker: nothing judged of: translation (2 questions)"


def ran(folder, body, *arguments, settings=""):
    (folder / "test_it.py").write_text(TESTS.replace("BODY", body))
    if settings:
        (folder / "pyproject.toml").write_text(f"[tool.crosswalk.pytest]\n{settings}\n")
    return run_pytest(folder, *arguments)


def test_a_walker_that_answers_nothing_fails_the_run(tmp_path):
    done = ran(tmp_path, "NotImplemented", "--junit-xml", "junit.xml")
    assert (1, True) == (done.returncode, "3 passed, 1 error" in done.stdout), done.stdout
    assert LINE in done.stdout
    suite = ET.parse(tmp_path / "junit.xml").getroot()[0]  # noqa: S314  # Our own.
    assert "1" == suite.get("errors")
    assert any(LINE in (error.text or "") for error in suite.iter("error"))


def test_another_mode_that_is_declined_is_no_fault(tmp_path):
    body = "None if context.mode is PagingMode.LEVEL4 else NotImplemented"
    done = ran(tmp_path, body)
    assert (0, True) == (done.returncode, "3 passed" in done.stdout), done.stdout
    # What is said is about the tests that were run.
    done = ran(tmp_path, body, "-k", "five or another")
    assert (1, True) == (done.returncode, "2 passed, 1 deselected, 1 error" in done.stdout)


def test_a_run_that_asks_no_walker_has_nothing_to_say(tmp_path):
    done = ran(tmp_path, "NotImplemented", "-k", "another")
    assert (0, False) == (done.returncode, "nothing judged" in done.stdout)


def test_it_is_said_as_well_where_the_first_failure_ends_the_run(tmp_path):
    (tmp_path / "test_first.py").write_text(
        "def test_wrong(check_walker):\n"
        "    from test_it import layout\n"
        "    check_walker(lambda *_: NotImplemented, layout(0x20))\n"
        "    assert False\n"
    )
    done = ran(tmp_path, "NotImplemented", "-x")
    assert (1, True) == (done.returncode, "1 failed, 1 error" in done.stdout), done.stdout
    assert "<lambda>: nothing judged of: translation (1 question)" in done.stdout


def test_workers_are_judged_together(tmp_path):
    body = "None if context.mode is PagingMode.LEVEL4 else NotImplemented"
    assert 0 == ran(tmp_path, body, "-n2", "--dist", "each").returncode
    done = ran(tmp_path, "NotImplemented", "-n2")
    assert (1, True) == (done.returncode, LINE in done.stdout)


def test_wrong_answers_that_are_known_do_not_fail(tmp_path):
    assert 1 == ran(tmp_path, "0x5000").returncode
    assert 0 == ran(tmp_path, "0x5000", settings="ignore = 'p of an entry*'").returncode
    assert 0 == ran(tmp_path, "0x5000", settings="ignore = ['x', 'P of a PML*']").returncode
    cause = "P of an entry: says mapped, it is not mapped"
    known = {"format": "crosswalk-baseline/1", "causes": [{"cause": cause}]}
    (tmp_path / "known.json").write_text(json.dumps(known))
    assert 0 == ran(tmp_path, "0x5000", settings="baseline = 'known.json'").returncode
    known["causes"] = []
    (tmp_path / "known.json").write_text(json.dumps(known))
    assert 1 == ran(tmp_path, "0x5000", settings="baseline = 'known.json'").returncode


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("ignore = 7", "[tool.crosswalk.pytest]: ignore is no text"),
        ("ignore = ['x', 7]", "[tool.crosswalk.pytest]: ignore is no text"),
        ("baseline = 'missing.json'", "[tool.crosswalk.pytest]: baseline: "),
    ],
)
def test_settings_that_can_not_be_used_are_one_line(tmp_path, settings, message):
    done = ran(tmp_path, "None", settings=settings)
    assert (1, True) == (done.returncode, message in done.stdout), done.stdout


def test_a_checker_by_itself_says_on_demand_what_was_never_answered():
    checker = Checker()
    case = case_of(Probe(va=0x40_0000, access="read"))
    checker(lambda *_: NotImplemented, case)
    with pytest.raises(WrongWalker, match="<lambda>: nothing judged of: translation"):
        checker.require_answers()
    checker.close()


def test_tallies_go_from_process_to_process():
    tally = Tally()
    tally.add(PagingMode.PAE, None, 3, 4)
    tally.add(PagingMode.PAE, Capability.FLAGS, 0, 7)
    rows = json.loads(json.dumps(dump({"mine": tally})))
    again = load([*rows, *rows])
    assert (14, 6, 8) == again["mine"].total
    assert ["mine: nothing judged of: flags (14 questions)"] == complaints(again)


def test_the_plugin_imports_nothing_of_it_until_a_test_asks():
    code = "import crosswalk.emu.testing.plugin, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"crosswalk.emu.testing.tallies", "numpy"}.isdisjoint(done.stdout.split())
