import sys

import pytest

from crosswalk.emu.targets.origin import origin_digest


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package" / "inner").mkdir(parents=True)
    for name in (
        "mine.py",
        "lib.so",
        "package/__init__.py",
        "package/rules.py",
        "package/inner/x.py",
    ):
        (tmp_path / name).write_text("raise SystemExit('it is imported')\n")
    (tmp_path / "data.txt").write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("walker", "file"),
    [
        ("python:mine.py:f", "mine.py"),
        ("python:mine:f", "mine.py"),
        ("python:package:f", "package/__init__.py"),
        ("python:package.rules:f", "package/rules.py"),
        ("python:package.rules:f", "package/inner/x.py"),
        ("c:lib.so", "lib.so"),
        ("c:./lib.so", "lib.so"),
        (f"exec:{sys.executable} mine.py --fast", "mine.py"),
        ("exec:./mine.py data.txt", "data.txt"),
    ],
)
def test_a_file_that_a_walker_is_made_of_changes_its_digest_and_no_other_file_does(
    here, walker, file
):
    before = origin_digest(walker)
    (here / "other.py").write_text("1")
    (here / "package" / "notes.md").write_text("1")
    assert before == origin_digest(walker)
    path = here / file
    content = path.read_bytes()
    path.write_text("changed")
    assert before != origin_digest(walker)
    path.write_bytes(content)
    assert before == origin_digest(walker)
    path.unlink()
    assert before != origin_digest(walker)


def test_a_new_module_of_its_package_changes_it(here):
    before = origin_digest("python:package.rules:f")
    (here / "package" / "more.py").write_text("1")
    assert before != origin_digest("python:package.rules:f")


def test_walkers_differ_by_their_names_though_their_files_are_equal():
    walkers = ["python:mine.py:f", "python:mine.py:g", "c:lib.so", "translate", "bulk", "nobody"]
    assert len(walkers) == len({origin_digest(each) for each in walkers})


@pytest.mark.parametrize("walker", ["exec:'", "exec:", "python:", "c:", "python:none:f", "c:none"])
def test_what_can_not_be_opened_has_a_digest_and_opening_it_says_why(walker):
    assert 16 == len(origin_digest(walker))
