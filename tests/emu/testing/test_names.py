"""Repositories whose own modules are called walker, emu and guest, as Crosswalk's folders are."""

import json
import subprocess
import sys

import pytest

from tests.emu.testing.running import EXAMPLES, run_pytest

CASE = EXAMPLES / "your-tests" / "cases" / "r-w-of-a-pml4e-47d7a7a2.json"
TESTS = """\
import emu
import guest
from hypothesis import given, settings
from walker import translate

from crosswalk.emu.testing.strategies import layouts


def test_the_modules_are_those_of_this_repository():
    assert (emu.OWN, guest.OWN) == ("emu", "guest")


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(layout=layouts())
def test_the_walker_does_what_the_cpu_does(check_walker, layout):
    check_walker(translate, layout)
"""


@pytest.fixture(params=["files", "packages"])
def repository(request, tmp_path):
    """A repository with the walker of the example, or another; `translate` is in `walker`."""
    good = (EXAMPLES / "your-tests" / "tiny_walker.py").read_text()
    for name, text in {"walker": good, "emu": "", "guest": ""}.items():
        source = f"{text}\n\nOWN = {name!r}\n"
        if request.param == "files":
            (tmp_path / f"{name}.py").write_text(source)
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(f"from {name}.parts import *\n")
            (tmp_path / name / "parts.py").write_text(source)
    (tmp_path / "test_walker.py").write_text(TESTS)
    return tmp_path


def break_walker(repository):
    """Let its walker forget that a page may be read-only."""
    (path,) = (*repository.glob("walker.py"), *repository.glob("walker/parts.py"))
    text = path.read_text()
    assert 1 == text.count("rights &= entry\n")
    path.write_text(text.replace("rights &= entry\n", "pass\n"))
    return path


def replay(repository, walker):
    """The status of `replay`, and what the walker was found to say of the first probe."""
    command = [sys.executable, "-m", "crosswalk", "replay", "--walker", walker, "--json", CASE]
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    document = json.loads(ran.stdout)
    return ran.returncode, document["walker"], [p["predicted"] for p in document["probes"]]


def test_the_plugin_works_and_tests_their_walker(repository):
    done = run_pytest(repository)
    assert (0, True) == (done.returncode, "2 passed" in done.stdout), done.stdout
    break_walker(repository)
    done = run_pytest(repository)
    assert (1, True) == (done.returncode, "1 failed, 1 passed" in done.stdout), done.stdout
    assert "WrongWalker: translate is wrong about" in done.stdout


def test_a_module_under_test_is_theirs(repository):
    good = replay(repository, "python:walker:translate")
    assert (0, "python:walker:translate") == good[:2]
    path = break_walker(repository)
    bad = replay(repository, "python:walker:translate")
    assert 1 == bad[0]
    assert good[2] != bad[2]
    assert (1, f"python:{path}:translate", bad[2]) == replay(repository, f"python:{path}:translate")


def test_a_file_under_test_imports_its_neighbours(repository):
    (repository / "mine.py").write_text(
        "import emu\nimport guest\nimport walker\n\n"
        "assert (emu.OWN, guest.OWN, walker.OWN) == ('emu', 'guest', 'walker')\n"
        "translate = walker.translate\n"
    )
    assert 0 == replay(repository, "python:mine.py:translate")[0]
