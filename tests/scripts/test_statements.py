import pytest

from scripts.upkeep.statements import long_modules, main, statements_by_room

SOURCE = """'Says what it is.'

def double(x):  # No statement.
    return (
        2 * x
    )
"""


@pytest.fixture
def tree(tmp_path):
    for path in ("emu/cli/walk.py", "emu/cli/deep/walk.py", "emu/__init__.py", "guest/asm.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SOURCE)
    (tmp_path / "guest" / "empty.py").touch()
    return tmp_path


def test_statements_are_counted_by_room_however_they_are_broken_into_lines(tree):
    assert {"emu": 3, "emu/cli": 6, "guest": 3} == dict(statements_by_room(tree))


def test_a_long_module_is_named_and_one_of_just_that_length_is_not(tree):
    (tree / "guest" / "long.py").write_text("x = 1\n" * 9)
    (tree / "guest" / "short.py").write_text("x = 1\n" * 8)
    assert [("guest/long.py", 9)] == long_modules(tree, 8)


def test_another_tree_is_set_beside_this_one(tree, capsys):
    assert 0 == main(["--against", str(tree)])
    first, *rows, last = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["room", "there", "here", "change"] == first
    assert {"walker", "guest", "emu/cli"} <= {row[0] for row in rows}
    assert ["all", "12"] == last[:2]


def test_a_folder_that_holds_no_rooms_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--against", str(tmp_path)])
    assert "is no tree of this project" in capsys.readouterr().err
