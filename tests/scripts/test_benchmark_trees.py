import pytest

from scripts.benchmarks.trees import Tree

MAIN = """
import json
from {emu}.cli.words import WORDS

def main(arguments):
    print(json.dumps([WORDS, *arguments]))
    return 3
"""
ROOMS = {"before the package crosswalk": "emu", "with it": "crosswalk.emu"}


@pytest.fixture(params=ROOMS.values(), ids=ROOMS)
def tree(request, tmp_path):
    folder = tmp_path / "emu" / "cli"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "main.py").write_text(MAIN.format(emu=request.param))
    (folder / "words.py").write_text("WORDS = 'of that tree'")
    if request.param != "emu":
        (tmp_path / "facade").mkdir()
        (tmp_path / "facade" / "__init__.py").touch()
    return Tree(tmp_path, "there")


def test_a_trees_own_command_is_run_whatever_its_modules_are_called(tree):
    found = tree.run("check", "--json")
    assert ["of that tree", "check", "--json"] == found["summary"]
    assert 3 == found["used"]["status"]
    assert found["used"]["parent"]["peak_mib"] > 1


def test_code_is_run_in_a_tree(tree):
    name = tree.module("emu.cli.words")
    assert "of that tree\n" == tree.python(f"from {name} import WORDS; print(WORDS)")


def test_a_tree_that_lacks_what_it_requires_is_named_in_one_line(tree):
    with pytest.raises(
        ValueError, match=r"^/.* can't be run: ModuleNotFoundError: .*nothing_like_it"
    ):
        tree.python("import nothing_like_it")


def test_a_folder_that_holds_no_tree_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no tree of this project"):
        Tree(tmp_path, "there")
