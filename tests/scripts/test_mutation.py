import ast
from dataclasses import replace
from functools import cache

import pytest

from crosswalk.walker.outcome import GeneralProtection
from scripts.mutation import judge, main, pairs
from scripts.mutation.explained import Explanation, load_table, unexplained, unfounded
from scripts.mutation.judge import killed, samples
from scripts.mutation.mutants import ROOT, constants_of, mutants_of, path_of
from scripts.mutation.pairs import kept_pairs, killed_in_guest_mode
from scripts.mutation.shared import DATA
from scripts.mutation.suite import TESTED, fails_tests, files_for
from scripts.mutation.tally import Tally

SOURCE = '''
"""A module."""

def double(value: int = 2) -> int:
    """Return 2 times the value."""
    if value < 0:
        raise ValueError
    return value + value
'''


@cache
def all_of(module):
    return list(mutants_of(module, (ROOT / path_of(module)).read_text()))


def mutant_of(module, was, became):
    (found,) = [each for each in all_of(module) if (each.before, each.after) == (was, became)]
    return found


def test_each_rule_is_changed_once_and_signatures_and_docstrings_never():
    found = {(each.before, each.after) for each in mutants_of("double", SOURCE)}
    assert {
        ("if value < 0:", "if True:"),
        ("if value < 0:", "if False:"),
        ("if value < 0:", "if value >= 0:"),
        ("if value < 0:", "if value < 1:"),
        ("return value + value", "return value - value"),
    } == found


def test_the_numbers_of_a_module_and_of_its_classes_are_changed_once():
    source = "A = 1\nB = True\n\n\nclass D:\n    E = 4\n\n    def f(self):\n        return 5\n"
    found = {(each.function, each.before, each.after) for each in constants_of("double", source)}
    assert {("double", "A = 1", "A = 2"), ("D", "E = 4", "E = 5")} == found


def test_a_mutant_is_the_whole_module_with_one_change():
    for each in mutants_of("double", SOURCE):
        tree = ast.parse(each.source)
        assert ast.unparse(tree) != ast.unparse(ast.parse(SOURCE))
        assert "double" == each.function
        assert each.after in each.source
        assert "def double(value: int=2) -> int" in each.source


def test_the_changed_line_is_that_of_its_statement():
    lines = SOURCE.splitlines()
    for each in mutants_of("double", SOURCE):
        assert each.before in lines[each.line - 1]


ROW = Explanation("double", "double", "if value < 0:", "if value < 1:", "0 is 0 either way")


def test_a_survivor_that_is_not_in_the_table_is_told():
    mutants = list(mutants_of("double", SOURCE))
    meant = [each for each in mutants if ROW.fits(each)]
    assert 1 == len(meant)
    assert [] == unexplained(meant, [ROW])
    assert unexplained(mutants[:2], [ROW]) == mutants[:2]


def test_an_explanation_that_does_not_hold_is_told():
    mutants = list(mutants_of("double", SOURCE))
    meant = [each for each in mutants if ROW.fits(each)]
    assert [] == unfounded([ROW], mutants, meant)
    assert [(ROW, "it was noticed")] == unfounded([ROW], mutants, [])
    others = [each for each in mutants if each not in meant]
    assert [(ROW, "there is no such mutant")] == unfounded([ROW], others, others)


def test_either_of_the_two_makes_it_fail():
    mutants = list(mutants_of("double", SOURCE))
    assert Tally(mutants, [], [], [], [], [], 0.0).good
    assert not Tally(mutants, [], mutants[:1], mutants[:1], mutants[:1], [], 0.0).good
    assert not Tally(mutants, mutants[:1], [], mutants[:1], mutants[:1], [], 0.0).good
    assert not Tally(mutants, [], [], [], [], [(ROW, "it was noticed")], 0.0).good


@pytest.mark.parametrize(
    "text",
    [
        '[[mutant]]\nmodule = "entry"\n',
        '[[mutant]]\nmodule="a"\nfunction="b"\nwas="c"\nbecame="d"\nreason=""\n',
        '[[mutant]]\nmodule="a"\nfunction="b"\nwas="c"\nbecame="d"\nreason="e"\nmore="f"\n',
    ],
    ids=["lacking", "no reason", "more"],
)
def test_a_table_with_a_wrong_row_is_refused(tmp_path, text):
    path = tmp_path / "table.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"table\.toml"):
        load_table(path)


def test_each_explanation_of_the_project_is_about_one_mutant_at_least():
    table = load_table()
    mutants = []
    for module in sorted({row.module for row in table}):
        mutants += all_of(module)
        if module in DATA:
            mutants += constants_of(module, (ROOT / path_of(module)).read_text())
    assert [] == unfounded(table, mutants, mutants)


def test_a_modules_own_tests_come_first_and_all_exist():
    for module in ("translate", "bulk", "entry", "rights"):
        paths = files_for(module)
        assert paths[0].startswith(f"tests/walker/test_{module}")
        assert len(paths) == len(set(paths)) > 8
        assert all((ROOT / path).is_file() for path in paths)


def test_the_walk_in_two_dimensions_has_its_own_tests():
    paths = files_for("nested.translate")
    assert "tests/walker/nested/test_translate.py" == paths[0]
    assert len(paths) == len(set(paths)) > 3
    assert all((ROOT / path).is_file() for path in paths)


@pytest.mark.parametrize("module", TESTED)
def test_what_no_cpu_knows_has_its_tests(module):
    paths = files_for(module)
    assert paths
    assert all((ROOT / path).is_file() for path in paths)
    assert all_of(module)


def test_of_what_no_cpu_knows_tests_are_the_only_judges(monkeypatch):
    for asked in ("samples", "kept_pairs", "lines_of_both", "killed"):
        monkeypatch.delattr(main, asked)
    monkeypatch.setattr(main, "load_table", list)
    monkeypatch.setattr(main, "fails_tests", lambda mutant: mutant.after != "if True:")
    tally = main.judge_all(["mapped_tables"], seed=0, jobs=1)
    assert all_of("mapped_tables") == tally.mutants == tally.left
    survivors = [each for each in tally.mutants if each.after == "if True:"]
    assert survivors
    assert survivors == tally.survivors == tally.unexplained
    assert not main.judge_all(["mapped_tables"], seed=0, jobs=1, shared=True).mutants


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS", 4)
    return kept_pairs(1)


def test_the_cpus_answers_in_guest_mode_tell_a_mutant_from_the_walker(kept):
    was = "dirty = Entry.D if writes and step.kind is StepKind.LEAF else Entry(0)"
    assert not killed_in_guest_mode(mutant_of("nested.translate", was, f"{was[:-2]}1)"), kept)
    was = "if path.grant & needed == needed and (not (trapped and path.grant & Grant.USER)):"
    other = mutant_of("nested.translate", was, was.replace("==", "!="))
    assert killed_in_guest_mode(other, kept)
    raising = replace(other, write=lambda: "def nested_outcomes(*_): raise IndexError")
    assert killed_in_guest_mode(raising, kept)


def test_where_the_cpu_contradicts_the_walker_itself_no_mutant_is_judged(monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS", 1)
    monkeypatch.setattr("scripts.mutation.pairs.nested_outcomes", lambda *_: (GeneralProtection(),))
    with pytest.raises(RuntimeError, match="contradicts the walker"):
        kept_pairs(1)


def test_the_cpus_answers_tell_a_mutant_from_the_walker(monkeypatch):
    monkeypatch.setattr(judge, "CONTEXTS", 1)
    monkeypatch.setattr(judge, "ROWS", 300)
    taken = samples(0)
    same = mutant_of("entry", "if level > 1:", "if True:")
    assert not killed(same, taken)
    other = mutant_of("entry", "if level > 2:", "if level <= 2:")
    assert killed(other, taken)
    readable = mutant_of("translate", "if access.cpl == 3:", "if access.cpl != 3:")
    assert killed(readable, taken)


def test_the_walkers_tests_tell_a_mutant_from_the_walker():
    other = mutant_of("rights", "if writable or not wp:", "if writable and (not wp):")
    assert fails_tests(other)


def test_the_tests_of_what_no_cpu_knows_tell_a_mutant():
    was = "granted: NDArray[np.bool_] = self.rights & np.uint8(rights) != 0"
    assert fails_tests(mutant_of("mapped_tables", was, was.replace("!=", "==")))


def test_a_mutant_that_can_not_be_imported_is_told_from_the_walker():
    was = "return ADDRESS_FIELD & -(1 << shift)"
    assert fails_tests(mutant_of("entry", was, was.replace("&", "|")))


@pytest.mark.slow
def test_a_mutant_that_is_none_passes_the_walkers_tests():
    assert not fails_tests(mutant_of("entry", "if level > 1:", "if True:"))


def test_a_mutant_that_never_ends_is_told_from_the_walker(monkeypatch):
    monkeypatch.setattr(judge, "LIMIT", 1)
    endless = mutants_of("entry", "def f():\n    while 1 < 0:\n        pass\n\n\n")
    (loop,) = [each for each in endless if each.after == "while True:"]
    hung = replace(loop, write=lambda: f"{loop.source}\nf()\n")
    assert killed(hung, [])


@pytest.mark.parametrize("path", ["tests/none.py", "tests/test_tree.py"], ids=["none", "without"])
def test_tests_that_do_not_run_the_mutant_are_no_verdict(monkeypatch, path):
    monkeypatch.setattr("scripts.mutation.suite.files_for", lambda module: [path])
    with pytest.raises(RuntimeError, match="did not run"):
        fails_tests(
            replace(mutant_of("entry", "if level > 1:", "if True:"), module="imported_nowhere")
        )
