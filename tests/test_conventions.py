"""Rules that all tests keep: how asserts are written, and what tests don't import or patch."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@cache
def trees():
    """The syntax trees of all modules below tests, by name."""
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        found[path.relative_to(TESTS).as_posix()] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def is_constant(node):
    """Whether an expression has its value written out: a literal, or a name in capitals."""
    match node:
        case ast.Constant():
            parts = []
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name):
            return name.isupper()
        case ast.UnaryOp(operand=operand):
            parts = [operand]
        case ast.BinOp(left=left, right=right):
            parts = [left, right]
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            pass
        case ast.Dict(keys=keys, values=values):
            parts = [part for part in (*keys, *values) if part is not None]
        case _:
            return False
    return all(is_constant(part) for part in parts)


def turned_asserts(tree):
    """The lines of asserts of equality whose constant stands on the right-hand side alone."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare):
            continue
        compare = node.test
        if len(compare.ops) == 1 and isinstance(compare.ops[0], ast.Eq | ast.Is):
            left, right = compare.left, compare.comparators[0]
            if is_constant(right) and not is_constant(left):
                yield node.lineno


def imported_tests(tree):
    """The test modules that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests"):
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            yield from (name for name in names if name.rpartition(".")[2].startswith("test_"))


def private_patches(tree):
    """The dotted names of private parts that a test patches by a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="setattr" | "delattr"), args=[ast.Constant(str(name)), *_]
            ) if re.search(r"\.__?[a-z]", name, re.IGNORECASE):
                yield name


def test_asserts_state_the_expected_value_first():
    found = {name: list(turned_asserts(tree)) for name, tree in trees().items()}
    assert {} == {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("line", "turned"),
    [
        ("assert found == 3", True),
        ("assert found.pa == (0x1000, -1)", True),
        ("assert f(x) is None", True),
        ("assert found == [EXPECTED, Kind.OK]", True),
        ("assert 3 == found", False),
        ("assert found == expected", False),
        ("assert found == 3 == other", False),
        ("assert found != 3", False),
    ],
)
def test_a_turned_assert_is_found(line, turned):
    assert turned is bool(list(turned_asserts(ast.parse(line))))


def test_no_module_imports_a_test_module():
    found = {name: list(imported_tests(tree)) for name, tree in trees().items()}
    assert {} == {name: modules for name, modules in found.items() if modules}


@pytest.mark.parametrize(
    "line", ["from tests.emu.test_one import helper", "from tests.emu import test_one"]
)
def test_an_imported_test_module_is_found(line):
    assert ["tests.emu.test_one"] == list(imported_tests(ast.parse(line)))


def test_no_private_part_is_patched_by_a_string():
    found = {name: list(private_patches(tree)) for name, tree in trees().items()}
    assert {} == {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('monkeypatch.setattr("a.b._private", 1)', ["a.b._private"]),
        ('patch.setattr("a._b.c", 1)', ["a._b.c"]),
        ('monkeypatch.setattr("a.b.PUBLIC", 1)', []),
        ('monkeypatch.setattr(module, "_private", 1)', []),
    ],
)
def test_a_private_part_patched_by_a_string_is_found(line, names):
    assert names == list(private_patches(ast.parse(line)))
