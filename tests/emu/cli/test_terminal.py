"""What people see on a terminal: headings and colours; and that nothing else sees them."""

import os
import pty
import subprocess
import sys

import pytest

from tests.emu.case_files import LINUX_CASE
from tests.emu.cli.conftest import small

COMMAND = [sys.executable, "-m", "crosswalk"]


@pytest.fixture
def open_case(case):
    """A case with one page that is writable and executable, and one that isn't."""
    return case(small())


def on_terminal(*arguments, **environment):
    """Return the status of a command and the lines that it shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    named = {name: text for name, text in os.environ.items() if name not in {"NO_COLOR", "TERM"}}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**named, "TERM": "xterm", **environment},
    ) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        os.close(ours)
        return process.wait(60), shown.decode().split("\r\n")


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Nobody has the terminal open any more.
        return b""


def test_columns_have_headings_and_what_is_writable_and_executable_is_red(open_case):
    status, lines = on_terminal("walk", open_case)
    assert 0 == status
    assert "\x1b[1mVA               PA               SIZE SUP USR  FLAGS\x1b[0m" == lines[0]
    red = [line for line in lines if line.startswith("\x1b[31m") and line.endswith("\x1b[0m")]
    assert ["0000000000800000"] == [line[5:21] for line in red]
    assert ["0000000000400000", "0000000000401000"] == [line[:16] for line in lines[1:3]]


@pytest.mark.parametrize(
    ("arguments", "heading"),
    [
        (("walk", "--coalesce"), f"{'VA':<33} {'PA':<13} {'SIZE':>12} SUP USR  PAGES"),
        (("frames",), f"{'PA':<27} {'SIZE':>12} SUP USR"),
    ],
)
def test_each_listing_has_a_heading_of_its_own(open_case, arguments, heading):
    _, lines = on_terminal(arguments[0], open_case, *arguments[1:], TERM="dumb")
    assert heading == lines[0]


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
def test_no_colour_where_it_is_not_wanted_or_not_shown(open_case, environment):
    _, lines = on_terminal("frames", open_case, **environment)
    assert "\x1b[3" not in "\n".join(lines)
    assert "SIZE SUP USR" in lines[0]


def test_a_verdict_is_green_where_it_is_agreement(open_case):
    status, lines = on_terminal("check", open_case)
    assert 0 == status
    (verdict,) = (line for line in lines if "verdict: " in line)
    assert verdict.startswith("\x1b[32mverdict: agreement")


def test_a_terminal_takes_nothing_from_machines(open_case):
    piped = subprocess.run(
        [*COMMAND, "walk", "--json", open_case], capture_output=True, check=True, timeout=60
    )
    _, lines = on_terminal("walk", "--json", open_case)
    assert piped.stdout.decode().splitlines() == lines[:-1]


def test_there_is_no_heading_without_a_terminal():
    done = subprocess.run(
        [*COMMAND, "walk", LINUX_CASE, "--limit", "1"], capture_output=True, check=True, timeout=60
    )
    assert 1 == len(done.stdout.splitlines())
    assert b"\x1b" not in done.stdout


def test_bytes_are_nothing_for_a_terminal(open_case, tmp_path):
    status, lines = on_terminal("walk", open_case, "--format", "parquet")
    assert (2, [""]) == (status, lines)
    path = tmp_path / "list"
    assert (0, [""]) == on_terminal("walk", open_case, "--format", "parquet", "-o", path)
    assert b"PAR1" == path.read_bytes()[:4]


def test_a_file_has_no_colours(open_case, tmp_path):
    path = tmp_path / "list"
    assert (0, [""]) == on_terminal("walk", open_case, "-o", path)
    assert "\x1b" not in path.read_text()
