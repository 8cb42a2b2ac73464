"""What scripts/judges says of itself, and of what it can't do; nothing is fetched."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "judges"


def judges(*words):
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_its_usage_is_printed(word):
    ran = judges(word)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert "scripts/judges [-d FOLDER] --list" in ran.stdout
    assert "#" not in ran.stdout


@pytest.mark.parametrize("words", [[], ["nobody"], ["--nothing"], ["-d"], ["grub", "nobody"]])
def test_bad_usage_is_one_line_and_status_2(tmp_path, words):
    ran = judges(*(["-d", str(tmp_path)] if words and words != ["-d"] else []), *words)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert 1 == ran.stderr.count("\n")
    assert "see scripts/judges --help" in ran.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_list_has_each_name_that_is_not_there(tmp_path):
    ran = judges("-d", str(tmp_path), "--list")
    assert (0, 9) == (ran.returncode, ran.stdout.count("not fetched"))
