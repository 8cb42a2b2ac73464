"""The example repository and the plugin, run as their users run them."""

import json
import shutil
import subprocess
import sys

import pytest

from crosswalk.walker.formats import load_case
from tests.emu.testing.running import EXAMPLES, run_pytest

PROFILE = """\
from hypothesis import settings
settings.register_profile("short", derandomize=True, database=None)
settings.load_profile("short")
"""


@pytest.fixture
def yours(tmp_path):
    """A copy of the example repository, with fewer examples drawn."""
    folder = tmp_path / "yours"
    shutil.copytree(EXAMPLES / "your-tests", folder)
    (folder / "conftest.py").write_text(PROFILE)
    test = (folder / "test_walker.py").read_text()
    (folder / "test_walker.py").write_text(test.replace("max_examples=300", "max_examples=120"))
    return folder


def only_cases(folder):
    """Leave one test: that of the cases."""
    text = (folder / "test_walker.py").read_text()
    start, end = text.index("@settings"), text.index("def test_the_walker_is_right")
    (folder / "test_walker.py").write_text(text[:start] + text[end:])


def test_the_example_passes_with_its_walker(yours):
    done = run_pytest(yours)
    assert (0, True) == (done.returncode, "2 passed" in done.stdout), done.stdout


def test_the_example_fails_with_a_broken_walker_and_says_where(yours):
    shutil.copy(EXAMPLES / "broken_walker.py", yours / "tiny_walker.py")
    done = run_pytest(yours, "--crosswalk-keep", "kept")
    assert (1, True) == (done.returncode, "2 failed" in done.stdout), done.stdout
    for line in (
        "translate is wrong about 2 of 6 accesses; the first:",
        "  access:    write of 0x0 at CPL 0",
        "  rule:      R/W of a PML4E: says allowed, it is refused",
        "  walker:    allowed, pa 0x0",
        "  observed:  #PF, error code 0x3 (P W/R), CR2 0x0",
        "0x0000000000002005  table  US  <-- R/W clear",
        "layout=<Layout: 4 levels, 2 tables, 2 entries, 6 accesses>",
    ):
        assert line in done.stdout
    assert "Explanation:" not in done.stdout
    (path,) = (yours / "kept").glob("r-w-of-a-pml4e-*.json")
    kept = load_case(path)
    assert (2, 1) == (len(kept.entries), len(kept.probes))
    # What is kept fails as a case, too.
    only_cases(yours)
    again = run_pytest(yours, "--crosswalk-cases", "kept")
    assert 1 == again.returncode
    assert "test_the_walker_is_right_where_it_was_wrong_once[r-w-of-a-pml4e-" in again.stdout


def test_a_folder_without_cases_fails_the_test_that_asks_for_them(yours):
    only_cases(yours)
    (yours / "empty").mkdir()
    done = run_pytest(yours, "--crosswalk-cases", "empty")
    assert 1 == done.returncode
    first = (
        f"crosswalk_case: no case files in {yours / 'empty'}: pytest --crosswalk-keep empty writes"
    )
    assert first in done.stdout
    # What it says leads to a case.
    shutil.copytree(yours / "cases", yours / "known")
    shutil.copy(EXAMPLES / "broken_walker.py", yours / "tiny_walker.py")
    done = run_pytest(yours, "--crosswalk-cases", "known", "--crosswalk-keep", "empty")
    assert 1 == len(list((yours / "empty").glob("*.json"))), done.stdout


def test_a_folder_not_set_fails_the_test_that_asks_for_it(yours):
    only_cases(yours)
    (yours / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    done = run_pytest(yours)
    assert 1 == done.returncode
    assert "crosswalk_case: crosswalk_cases = DIR is not set" in done.stdout


def test_settings_may_stand_beside_those_of_the_commands(yours):
    shutil.copy(EXAMPLES / "broken_walker.py", yours / "tiny_walker.py")
    only_cases(yours)
    (yours / "pyproject.toml").write_text(
        '[tool.crosswalk.pytest]\ncases = "cases"\nkeep = "kept"\n'
    )
    done = run_pytest(yours)
    assert (1, True) == (done.returncode, "1 failed" in done.stdout), done.stdout
    (kept,) = (yours / "kept").iterdir()
    assert 1 == len(load_case(kept).probes)


def test_settings_of_a_folder_above_are_about_files_there(yours):
    shutil.copy(EXAMPLES / "broken_walker.py", yours / "tiny_walker.py")
    only_cases(yours)
    below = yours / "below"
    below.mkdir()
    (yours / "test_walker.py").rename(below / "test_walker.py")
    (below / "pytest.ini").write_text("[pytest]\npythonpath = ..\n")
    (yours / "pyproject.toml").write_text(
        '[tool.crosswalk.pytest]\ncases = "cases"\nkeep = "kept"\n'
    )
    done = run_pytest(below)
    assert (1, True) == (done.returncode, "1 failed" in done.stdout), done.stdout
    assert 1 == len(list((yours / "kept").iterdir()))
    (yours / "pyproject.toml").write_text(
        '[tool.crosswalk.pytest]\ncases = "cases"\nbaseline = "known.json"\n'
    )
    cause = "R/W above the leaf: says allowed, it is refused"
    known = {"format": "crosswalk-baseline/1", "causes": [{"cause": cause}]}
    (yours / "known.json").write_text(json.dumps(known))
    done = run_pytest(below)
    assert (0, True) == (done.returncode, "1 passed" in done.stdout), done.stdout


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[tool.crosswalk.pytest]\ncase = "x"\n', "case is none of cases, keep, ignore, baseline"),
        ("[tool.crosswalk.pytest]\nkeep = 1\n", "keep is no text"),
        ("[tool.crosswalk.pytests]\n", "[tool.crosswalk] has no table 'pytests' (fuzz, pytest)"),
    ],
    ids=["key", "value", "table"],
)
def test_a_setting_that_is_none_is_an_error_in_one_line(yours, table, message):
    only_cases(yours)
    (yours / "pyproject.toml").write_text(table)
    done = run_pytest(yours)
    assert 2 == done.returncode
    assert "Traceback" not in done.stdout
    lines = [line.replace("[tool.crosswalk.pytest]: ", "") for line in done.stdout.splitlines()]
    assert f"{yours / 'pyproject.toml'}: {message}" in lines


def test_the_plugin_alone_imports_nothing_heavy():
    heavy = "{'numpy', 'unicorn', 'hypothesis', 'msgspec', 'crosswalk.walker', 'crosswalk.guest'}"
    code = f"import crosswalk.emu.testing.plugin, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


def test_pytest_finds_the_plugin_where_hypothesis_is_absent(tmp_path):
    (tmp_path / "hypothesis.py").write_text("raise ImportError('absent')\n")
    (tmp_path / "test_one.py").write_text(
        "from crosswalk.walker.outcome import PageFault\n"
        "from crosswalk.emu.testing.paths import ROOT, Path, layout_of\n"
        "from crosswalk.walker import Access, AccessType, Accesses, PagingContext\n\n"
        "def test_one(check_walker):\n"
        "    accesses = Accesses.of([Access(0, AccessType.READ)])\n"
        "    path = Path((0, 0, 0, 0, 0), 1)\n"
        "    layout = layout_of(PagingContext(cr3=ROOT), [path], accesses)\n"
        "    check_walker(lambda *_: 0x100000, layout)\n"
    )
    done = run_pytest(tmp_path, "-p", "no:hypothesispytest")
    assert (0, True) == (done.returncode, "1 passed" in done.stdout), done.stdout + done.stderr


def test_what_the_page_shows_is_the_example():
    page = (EXAMPLES.parent / "testing.md").read_text()
    for name in ("test_walker.py", "pyproject.toml"):
        assert (EXAMPLES / "your-tests" / name).read_text() in page
