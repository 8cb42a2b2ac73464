"""What scripts/chromium says of itself, and of what it can't do; nothing is fetched."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "chromium"


def chromium(*words):
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_its_usage_is_printed(word):
    ran = chromium(word)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert "scripts/chromium [-d FOLDER]" in ran.stdout
    assert "#" not in ran.stdout


@pytest.mark.parametrize("words", [["firefox"], ["-d"]])
def test_bad_usage_is_one_line_and_status_2(words):
    ran = chromium(*words)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert 1 == ran.stderr.count("\n")
    assert "see scripts/chromium --help" in ran.stderr


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "version").write_text("1.2\n")
    ran = chromium("-d", tmp_path)
    assert (0, f"chromium 1.2  {tmp_path}/chromium\n") == (ran.returncode, ran.stdout)
