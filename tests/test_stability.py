"""docs/stability.md promises what there is, and all of it."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
PROMISED = (
    "crosswalk.walker",
    "crosswalk.walker.formats",
    "crosswalk.walker.nested",
    "crosswalk.walker.protection",
    "crosswalk.walker.tlb",
    "crosswalk.emu.testing.checking",
    "crosswalk.emu.testing.strategies",
)


def rows(text):
    """The rows of the tables of modules, as written: names by module."""
    return {
        module: re.findall(r"`(\w+)`", names)
        for module, names in re.findall(
            r"^\| `(crosswalk\.[\w.]+)` \| (.+) \|$", text, re.MULTILINE
        )
    }


def broken(promised, names_of):
    """What is promised and isn't there, and what is there and isn't promised."""
    return {
        f"{module}.{name}"
        for module, names in promised.items()
        for name in set(names) ^ set(names_of(module))
    }


def test_public_names_are_those_of_the_page():
    assert PROMISED == tuple(rows(PAGE))
    assert set() == broken(rows(PAGE), lambda module: import_module(module).__all__)
    for module, names in rows(PAGE).items():
        assert all(hasattr(import_module(module), name) for name in names)


def test_a_name_that_goes_or_comes_is_told():
    promised = rows("| `crosswalk.a` | `one`, `two` |\n| `crosswalk.a.b` | `three` |\n")
    assert {"crosswalk.a": ["one", "two"], "crosswalk.a.b": ["three"]} == promised
    now = {"crosswalk.a": ["two", "four"], "crosswalk.a.b": ["three"]}
    assert {"crosswalk.a.one", "crosswalk.a.four"} == broken(promised, now.get)


def test_formats_are_those_of_the_page():
    sources = [*(ROOT / "emu").rglob("*.py"), *(ROOT / "walker").rglob("*.py")]
    named = re.compile(r"crosswalk-[a-z]+/[0-9]+")
    written = {name for path in sources for name in named.findall(path.read_text("utf-8"))}
    assert written == set(named.findall(PAGE))


def test_the_versions_of_python_are_those_of_the_classifiers():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: 3."
    minor = [line.removeprefix(prefix) for line in settings["classifiers"] if prefix in line]
    *others, last = [f"3.{each}" for each in minor]
    assert f"Python {', '.join(others)} and {last}, on Linux" in PAGE
    assert settings["requires-python"] == f">={others[0]}"
    versions = re.search(
        r"versions=\(([\d. ]+)\)", (ROOT / "scripts" / "pythons").read_text("utf-8")
    )
    assert {*others[1:], last} <= set(versions[1].split())
