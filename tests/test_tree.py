import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("emu", "guest", "walker")
ROOMS = (*PACKAGES, "tests", "scripts")
MAX_LINES = 300

NAMED_PATH = re.compile(rf"`((?:{'|'.join(ROOMS)}|docs)/[^`\s]*)`")


def parts(root: Path) -> Iterator[str]:
    """Yield the packages (`emu/probe/`) and modules (`emu/probe/batch.py`) under `root`."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name == "__init__.py":
                yield f"{path.parent.relative_to(root).as_posix()}/"
            else:
                yield path.relative_to(root).as_posix()


def unnamed(root: Path, text: str) -> list[str]:
    """Return the packages and modules under `root` that `text` doesn't name."""
    named = set(NAMED_PATH.findall(text))
    return [part for part in parts(root) if part not in named]


def invented(root: Path, text: str) -> list[str]:
    """Return the paths named in `text`, plain or as a glob, that aren't under `root`."""
    return [path for path in NAMED_PATH.findall(text) if not any(root.glob(path))]


def too_long(root: Path) -> dict[str, int]:
    """Return the Python modules under `root` that are over the limit, and their lines."""
    lines = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for room in ROOMS
        for path in (root / room).rglob("*.py")
    }
    return {path: count for path, count in lines.items() if count > MAX_LINES}


@pytest.fixture
def architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    probe = tmp_path / "emu" / "probe"
    probe.mkdir(parents=True)
    (probe.parent / "__init__.py").touch()
    (probe / "__init__.py").touch()
    (probe / "batch.py").write_text("x = 1\n" * MAX_LINES)
    return tmp_path


def test_architecture_names_every_package_and_module(architecture):
    assert unnamed(ROOT, architecture) == []


def test_every_path_that_architecture_names_exists(architecture):
    assert invented(ROOT, architecture) == []


def test_no_module_is_too_long():
    assert too_long(ROOT) == {}


def test_a_part_left_out_of_the_text_is_found(small_tree):
    assert unnamed(small_tree, "`emu/`, `emu/probe/`, `emu/probe/batch.py`") == []
    assert unnamed(small_tree, "`emu/`, emu/probe/, `emu/probe/`") == ["emu/probe/batch.py"]
    assert unnamed(small_tree, "`emu/probe/batch.py`") == ["emu/", "emu/probe/"]


def test_a_path_that_does_not_exist_is_found(small_tree):
    assert invented(small_tree, "`emu/probe/batch.py` and `emu/probe/*.py`") == []
    assert invented(small_tree, "`emu/probe/gone.py` and `guest/asm/*.s`") == [
        "emu/probe/gone.py",
        "guest/asm/*.s",
    ]


def test_a_module_over_the_limit_is_found(small_tree):
    assert too_long(small_tree) == {}
    with (small_tree / "emu" / "probe" / "batch.py").open("a") as module:
        module.write("x = 1\n")
    assert too_long(small_tree) == {"emu/probe/batch.py": MAX_LINES + 1}
