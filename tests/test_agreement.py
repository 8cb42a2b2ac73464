"""docs/agreement.md lists every place where the word can be printed: held to the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "agreement.md"
WORD = re.compile(r"\bagree(?:s|d|ments?)?\b", re.IGNORECASE)
ROW = re.compile(r"\| `((?:emu|guest|walker)/[\w/]+\.py)` \| (.*?) \|")


def said(source):
    """The texts of a module that have the word: not its docstrings, nor names in `__all__`."""
    tree = ast.parse(source)
    unsaid = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            unsaid |= {id(each.value) for each in node.body if isinstance(each, ast.Expr)}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            unsaid |= {id(each) for each in ast.walk(node)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in unsaid
        and WORD.search(node.value)
    ]


def places():
    """The modules of the project that can print the word."""
    paths = [path for room in ("emu", "guest", "walker") for path in (ROOT / room).rglob("*.py")]
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if said(path.read_text(encoding="utf-8"))
    }


def listed():
    """The modules that the page lists, and what it says of each."""
    return dict(ROW.findall(PAGE.read_text(encoding="utf-8")))


def test_the_page_lists_every_module_that_can_print_the_word():
    assert sorted(places()) == sorted(listed())


def test_each_place_says_what_the_word_rests_on():
    for module, text in listed().items():
        assert len(text) > 20, module


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('print("verdict: agreement")', ["verdict: agreement"]),
        ('print(f"{count} agree, {other} diverge")', [" agree, "]),
        ('"""Says agreement."""\ndef f():\n    """Agrees."""\n', []),
        ('__all__ = ["agrees"]', []),
        ("agreements = 1", []),
        ('x = {"agreements": 1}', ["agreements"]),
    ],
)
def test_a_place_is_found(source, expected):
    assert expected == said(source)
