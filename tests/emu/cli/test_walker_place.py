"""Where a walker's source is, by its name alone."""

from pathlib import Path

import pytest

from crosswalk.emu.cli.walker_place import walker_place

SOURCE = '"""A walker."""\n\nraise SystemExit("run")\n\n\nclass Other: ...\n\n\ndef walk(): ...\n'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src" / "pack").mkdir(parents=True)
    for name in ("its.py", "src/its.py", "src/pack/__init__.py", "src/pack/inner.py"):
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "bad.py").write_text("def walk(:\n")
    (tmp_path / "run.sh").write_text("exec true\n")
    (tmp_path / "its.so").write_bytes(b"\x7fELF")
    return tmp_path


@pytest.mark.parametrize(
    ("walker", "expected"),
    [
        ("python:its.py:walk", ("its.py", 9)),
        ("python:src/its.py:Other", ("src/its.py", 6)),
        ("python:its.py:nowhere", ("its.py", 1)),
        ("python:bad.py:walk", ("bad.py", 1)),
        ("python:src.pack:walk", ("src/pack/__init__.py", 9)),
        ("python:src.pack.inner:walk", ("src/pack/inner.py", 9)),
        ("python:json:loads", None),
        ("python:gone.py:walk", None),
        ("python:", None),
        ("exec:bash ./run.sh --lines", ("run.sh", 1)),
        ("exec:python3 'its.py'", ("its.py", 1)),
        ("exec:./compiled --lines", None),
        ("exec:'", None),
        ("c:./its.so", None),
        ("volatility3", None),
    ],
)
def test_the_place_of_a_walker(walker, expected):
    assert expected == walker_place(walker)


def test_a_place_below_the_current_folder_is_told_relative_to_it(place):
    assert ("src/its.py", 9) == walker_place(f"python:{place}/src/its.py:walk")
    outside = Path(__file__).as_posix()
    assert outside == walker_place(f"python:{outside}:test_the_place_of_a_walker")[0]
