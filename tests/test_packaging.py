"""The sdist and the wheel: built without a warning, and what the wheel alone gives elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.emu.testing.running import EXAMPLES

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "crosswalk": "facade",
    **{f"crosswalk/{name}": name for name in ("emu", "guest", "walker")},
}
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
TESTS = ["pytest", "hypothesis"]
ENGINES = ["unicorn", "capstone", "keystone-engine"]
CASES = ROOT / "tests" / "cases"
NAMED = {
    "CASE": CASES / "shared" / "four-level.json",
    "SEQUENCE": CASES / "known-sequences" / "fault-keeps-tlb.json",
}


def clean_environment():
    """What a user's shell has: nothing of pytest's, nor of where this project lies."""
    dropped = ("PYTEST", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def words(command):
    return [NAMED.get(word, word) for word in command.split()]


def run(*command, cwd):
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, and what the build had to say."""
    source = tmp_path_factory.mktemp("source")
    for name in ("facade", "emu", "guest", "walker", "tests"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = run(sys.executable, "-W", "error", "-c", BUILD, cwd=source)
    assert 0 == done.returncode, done.stderr
    return source / "dist", done.stdout + done.stderr


def lend(site, names, without=()):
    """Link distributions of this environment, and all that they require, into another's."""
    done, rest = set(without), list(names)
    while rest:
        name = rest.pop().lower()
        if name in done:
            continue
        done.add(name)
        found = distribution(name)
        for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        needed = [Requirement(text) for text in found.requires or ()]
        rest += [each.name for each in needed if not each.marker or each.marker.evaluate()]


def environment(folder, wheel, extra=(), without=()):
    """An environment with the wheel and what it requires; return the folder of its commands."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        meta = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(meta).decode().splitlines()
    needed = [Requirement(line.partition(": ")[2]) for line in lines if "Requires-Dist: " in line]
    required = [each.name for each in needed if not each.marker or each.marker.evaluate()]
    lend(site, [*required, *extra], without)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    options = ("--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile", "-q")
    done = run(*pip, "install", *options, wheel, cwd=folder)
    assert 0 == done.returncode, done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built[0].glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("all"), wheel, extra=TESTS)


@pytest.fixture(scope="module")
def readers(wheel, tmp_path_factory):
    """The commands where nothing is installed that runs, assembles or shows machine code."""
    return environment(tmp_path_factory.mktemp("readers"), wheel, without=ENGINES)


def test_both_are_built_without_a_warning(built):
    assert [] == [line for line in built[1].splitlines() if "warning" in line.lower()]


def test_the_wheel_has_all_of_the_package_and_nothing_else(built, wheel):
    source = built[0].parent
    wanted = set()
    for package, folder in FOLDERS.items():
        for path in (source / folder).rglob("*"):
            if path.suffix in {
                ".py",
                ".s",
                ".c",
                ".h",
                ".lisp",
                ".typed",
                ".json",
                ".js",
                ".css",
                ".html",
            }:
                wanted.add(f"{package}/{path.relative_to(source / folder).as_posix()}")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert wanted == names


def test_the_sdist_has_what_it_takes_to_build_the_wheel_and_nothing_else(built, wheel, tmp_path):
    (path,) = built[0].glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    kept = {"facade", "emu", "guest", "walker", "pyproject.toml", "README.md", "LICENSE"}
    made = {"MANIFEST.in", "PKG-INFO", "setup.cfg", "crosswalk_x86.egg-info"}
    assert kept | made == {each.name for each in source.iterdir()}
    done = run(sys.executable, "-W", "error", "-c", BUILD, cwd=source)
    assert 0 == done.returncode, done.stderr
    (again,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_the_wheel_is_installed_under_one_name(commands):
    (site,) = (commands.parent / "lib").glob("python*/site-packages")
    assert (site / "crosswalk" / "emu").is_dir()
    assert not [name for name in ("emu", "guest", "walker", "facade") if (site / name).exists()]


def test_the_demo_runs_from_the_wheel(commands, tmp_path):
    done = run(commands / "crosswalk", "run", cwd=tmp_path)
    assert (0, True) == (done.returncode, "verdict: agreement" in done.stdout), done.stderr
    done = run(commands / "python", "-m", "crosswalk", "check", NAMED["CASE"], cwd=tmp_path)
    assert (0, True) == (done.returncode, "verdict: agreement" in done.stdout), done.stderr


def test_a_campaign_runs_from_the_wheel(commands, tmp_path):
    command = ("fuzz", "--cases", "2", "--accesses", "64", "--jobs", "2", "--corpus", "corpus")
    done = run(commands / "crosswalk", *command, cwd=tmp_path)
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize(
    ("kind", "walker"),
    [("python", "python:mywalker.py:translate"), ("exec", "exec:python3 mywalker_exec.py")],
)
def test_a_starter_is_written_and_tried_from_the_wheel(commands, tmp_path, kind, walker):
    done = run(commands / "crosswalk", "walker", "new", kind, cwd=tmp_path)
    assert (0, True) == (done.returncode, walker in done.stdout), done.stderr
    done = run(commands / "crosswalk", "walker", "try", walker, cwd=tmp_path)
    assert (0, True) == (done.returncode, "right, 0 declined" in done.stdout), done.stderr


def test_an_adapter_is_written_from_the_wheel_with_what_it_imports(commands, tmp_path):
    done = run(commands / "crosswalk", "walker", "new", "qemu", cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert {"qemu_walker.py", "protocol.py"} == {path.name for path in tmp_path.iterdir()}
    done = run(commands / "python", "-c", "import protocol", cwd=tmp_path)
    assert 0 == done.returncode, done.stderr


def test_the_plugin_runs_from_the_wheel(commands, tmp_path):
    shutil.copytree(EXAMPLES / "your-tests", tmp_path / "yours")
    test = tmp_path / "yours" / "test_walker.py"
    test.write_text(test.read_text().replace("max_examples=300", "max_examples=20"))
    done = run(commands / "python", "-m", "pytest", "-q", cwd=tmp_path / "yours")
    assert (0, True) == (done.returncode, "2 passed" in done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "walk CASE",
        "frames CASE",
        "translate CASE 0x1000",
        "info CASE",
        "protect CASE",
        "map CASE --output /dev/stdout",
        "--help",
        "help check",
        "--version",
    ],
)
def test_commands_that_read_need_no_engine(readers, commands, tmp_path, command):
    done = run(readers / "crosswalk", *words(command), cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert done.stdout == run(commands / "crosswalk", *words(command), cwd=tmp_path).stdout != ""


@pytest.mark.parametrize(
    "command",
    [
        "check CASE",
        "run",
        "replay CASE",
        "walk guest:4level",
        "translate CASE 0x1000 --observe",
        "fuzz --cases 1 --corpus corpus",
        "reduce CASE",
        "matrix --select section=accessed",
        "sequence SEQUENCE",
        "nested --pairs 1",
        "protect",
    ],
)
def test_commands_that_run_say_in_one_line_what_is_missing(readers, tmp_path, command):
    done = run(readers / "crosswalk", *words(command), cwd=tmp_path)
    assert (2, "") == (done.returncode, done.stdout), done.stderr
    *remarks, error = done.stderr.splitlines()
    assert re.search("this needs (unicorn|capstone), which is not installed: pip install", error)
    assert "Traceback" not in done.stderr
    assert len(remarks) <= 1  # What the source is.


def test_what_is_installed_counts_and_nothing_of_this_environment(readers, tmp_path):
    done = run(
        readers / "python", "-c", "import crosswalk, sys; print(crosswalk.__file__)", cwd="/"
    )
    assert done.stdout.startswith(str(readers.parent))
    done = run(readers / "python", "-c", "import unicorn", cwd=tmp_path)
    assert "ModuleNotFoundError" in done.stderr
