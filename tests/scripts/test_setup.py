"""What scripts/setup makes of a tree whose environment has all that the lock names."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("emu", "guest", "walker")
# Imports the modules that are named, and prints those that are there under two names.
IMPORT = """
import collections, importlib, os, sys
if sys.argv[1] == "pip's finder":
    sys.meta_path.sort(key=lambda finder: "editable" not in getattr(finder, "__module__", ""))
for name in sys.argv[2:]:
    importlib.import_module(name)
names = collections.defaultdict(list)
for name, module in sys.modules.items():
    if getattr(module, "__file__", None):
        names[os.path.realpath(module.__file__)].append(name)
print([each for each in names.values() if len(each) > 1 and "crosswalk" in each[0] + each[1]])
"""


@pytest.fixture
def tree(tmp_path):
    """A small tree, and an environment that is the right one by its stamps."""
    folder = tmp_path / "tree"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).write_text(name)
    for name in ("facade", *FOLDERS):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    (folder / "facade" / "py.typed").touch()
    (folder / "walker" / "old.py").touch()
    venv.create(folder / ".venv", with_pip=False, symlinks=True)
    for stamp, name in (("lock", "requirements.lock"), ("project", "pyproject.toml")):
        (folder / ".venv" / f"{stamp}.stamp").write_text(f"{os.path.realpath(folder)}\n{name}")
    return folder


def set_up(tree):
    subprocess.run([tree / "scripts" / "setup"], check=True)


def can_import(tree, name):
    command = [tree / ".venv" / "bin" / "python", "-I", "-c", f"import {name}"]
    return 0 == subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def test_the_package_is_imported_from_the_folders_at_the_root(tree):
    assert not can_import(tree, "crosswalk.walker.old")
    set_up(tree)
    assert can_import(tree, "crosswalk.walker.old")
    assert not can_import(tree, "walker")


def test_modules_that_are_new_or_gone_need_no_set_up(tree):
    set_up(tree)
    (tree / "walker" / "old.py").rename(tree / "walker" / "new.py")
    assert can_import(tree, "crosswalk.walker.new")
    assert not can_import(tree, "crosswalk.walker.old")


def test_links_that_were_deleted_are_made_again_and_those_to_nothing_go(tree):
    (tree / "facade" / "extra.py").touch()
    set_up(tree)
    assert can_import(tree, "crosswalk.extra")
    (tree / "facade" / "extra.py").unlink()
    (tree / ".venv" / "links" / "crosswalk" / "walker").unlink()
    set_up(tree)
    links = tree / ".venv" / "links" / "crosswalk"
    made = {path.name for path in links.iterdir() if path.name != "__pycache__"}
    assert {"__init__.py", "py.typed", *FOLDERS} == made
    shutil.rmtree(tree / ".venv" / "links")
    set_up(tree)
    assert can_import(tree, "crosswalk.walker.old")


@pytest.mark.parametrize("first", ["links", "pip's finder"])
def test_no_module_is_imported_twice_however_it_is_found(first):
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [
        ".".join(("crosswalk", *path.relative_to(ROOT).with_suffix("").parts)) for path in paths
    ]
    # Starters are copied by `walker new`, import what others install, and are imported by nobody.
    names = [name for name in names if ".targets.starters." not in name]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    command = [sys.executable, "-c", IMPORT, first, *names]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "[]\n" == done.stdout


def test_a_module_that_is_imported_by_its_folders_name_is_told():
    command = [sys.executable, "-c", IMPORT, "links", "crosswalk.walker.errors", "walker.errors"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "['crosswalk.walker.errors', 'walker.errors']" in done.stdout


def test_no_test_imports_the_folders_by_their_own_names():
    assert not {"emu", "guest", "walker"} & set(sys.modules)
