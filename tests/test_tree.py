"""docs/architecture.md names every room, and pyproject.toml every package."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("emu", "guest", "walker")
ROOMS = (*PACKAGES, "tests", "scripts")

NAMED_PATH = re.compile(rf"`((?:{'|'.join(ROOMS)}|docs)/[^`\s]*)`")


def packages(root: Path) -> Iterator[str]:
    """Yield the packages under `root`: `emu`, `emu/probe`, ..."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("__init__.py")):
            yield path.parent.relative_to(root).as_posix()


def unnamed(root: Path, text: str) -> list[str]:
    """Return the rooms under `root`, packages at most two levels down, that `text` doesn't name."""
    named = set(NAMED_PATH.findall(text))
    rooms = [f"{package}/" for package in packages(root) if package.count("/") < 2]
    return [room for room in rooms if room not in named]


def invented(root: Path, text: str) -> list[str]:
    """Return the paths named in `text`, plain or as a glob, that aren't under `root`."""
    return [path for path in NAMED_PATH.findall(text) if not any(root.glob(path))]


@pytest.fixture
def architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    probe = tmp_path / "emu" / "probe"
    deep = probe / "deep"
    deep.mkdir(parents=True)
    for folder in (probe.parent, probe, deep):
        (folder / "__init__.py").touch()
    (probe / "batch.py").touch()
    return tmp_path


def test_architecture_names_every_room(architecture):
    assert [] == unnamed(ROOT, architecture)


def test_every_path_that_architecture_names_exists(architecture):
    assert [] == invented(ROOT, architecture)


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = [f"crosswalk.{package.replace('/', '.')}" for package in packages(ROOT)]
    assert ["crosswalk", *sorted(named)] == settings["tool"]["setuptools"]["packages"]


def test_a_room_left_out_of_the_text_is_found(small_tree):
    assert [] == unnamed(small_tree, "`emu/`, `emu/probe/`")
    assert ["emu/probe/"] == unnamed(small_tree, "`emu/`, emu/probe/")
    assert ["emu/"] == unnamed(small_tree, "`emu/probe/`")


def test_a_path_that_does_not_exist_is_found(small_tree):
    assert [] == invented(small_tree, "`emu/probe/batch.py` and `emu/probe/*.py`")
    text = "`emu/probe/gone.py` and `guest/asm/*.s`"
    assert ["emu/probe/gone.py", "guest/asm/*.s"] == invented(small_tree, text)
