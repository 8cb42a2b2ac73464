"""No command overwrites what it reads, or writes two things to one file."""

import os
import shutil
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest

from crosswalk.emu.cli import export
from crosswalk.emu.cli.commands import COMMANDS
from crosswalk.emu.cli.options import OUTPUTS, PATHS, options_of, output_file
from crosswalk.emu.cli.parser import parse
from crosswalk.emu.cli.sources import require_unread
from crosswalk.walker.errors import BadInput
from tests.emu.cli.running import crosswalk, refused

CASES = Path(__file__).parents[2] / "cases" / "judges"
CASE, OTHER = CASES / "pae-pdpte-accessed.json", CASES / "keys-by-privilege.json"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a case under several names, the current one."""
    (tmp_path / "cases").mkdir()
    for name in ("in.json", "in.md", "cases/in.json"):
        shutil.copy(CASE, tmp_path / name)
    (tmp_path / "link").symlink_to("in.json")
    os.link(tmp_path / "in.json", tmp_path / "hard")
    (tmp_path / "to").symlink_to("new")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OVER_THE_CASE = (
    "export in.json -o in.json",
    "export in.json --output=./in.json",
    "export in.json -o link",
    "export link -o in.json",
    "export in.json -o hard",
    "export in.json -o new --iso in.json",
    "export in.json cases -o cases/in.json",
    "judge in.md --with unicorn --report in.md",
    "judge in.json --with log:in.md --report in.md",
    "fuzz --walker bulk --baseline in.json --junit in.json --cases 1",
    "reduce in.json -o in.json",
    "fuzz --from in.json --junit in.json --cases 1",
    "fuzz --walker python:in.json:f --junit in.json --cases 1",
    "walk in.json --save-case in.json",
    "frames in.json --summary in.json",
    "check in.json --walker bulk --write-baseline in.json",
    "protect in.json --format json --output in.json",
    "run --kernel in.json --save in.json",
)


@pytest.mark.parametrize("command", OVER_THE_CASE)
def test_what_is_read_is_not_overwritten(capfd, folder, command):
    line = refused(crosswalk(capfd, *command.split()))
    assert ": is read, and --" in line
    assert "would overwrite it" in line
    assert not (folder / "new").exists()
    for name in ("in.json", "in.md", "cases/in.json"):
        assert CASE.read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        "export in.json -o new --iso new",
        "export in.json -o new --iso ./to",
        "fuzz --cases 1 --junit new.md --report new.md",
        "fuzz --cases 1 --report new.md --report ./new.md",
    ],
)
def test_two_outputs_are_two_files(capfd, folder, command):
    assert ": of --" in refused(crosswalk(capfd, *command.split()))
    assert not {"new", "new.md"} & {each.name for each in folder.iterdir()}


def test_what_is_not_read_may_be_overwritten(capfd, folder):
    for _ in range(2):  # The second time over what the first has written.
        ran = crosswalk(capfd, "export", "cases", "-o", "cases/out.img")
        assert 0 == ran.status
    assert CASE.read_bytes() == (folder / "cases/in.json").read_bytes()


def test_a_baseline_may_be_brought_up_to_date(folder):
    given = ["fuzz", "--walker", "bulk", "--baseline", "in.json", "--write-baseline", "in.json"]
    assert parse(given).baseline == parse(given).write_baseline == Path("in.json")


def test_a_further_image_does_not_overwrite_either(folder):
    options = Namespace(cases=["in.json"], output=Path("out"), iso=Path("in.img"))
    export.require_apart(options, 2)
    (folder / "out-2").symlink_to("in.json")
    with pytest.raises(BadInput, match="out-2"):
        export.require_apart(options, 2)
    with pytest.raises(BadInput, match="in-2"):
        export.require_apart(Namespace(**{**vars(options), "output": Path("in-2.img")}), 2)


def test_cases_are_not_written_over_their_source(folder):
    require_unread(folder / "divergence-0000.json", "in.json")
    require_unread(folder / "divergence-0000.json", "guest:4level")
    with pytest.raises(BadInput, match="--cases would overwrite it"):
        require_unread(folder / "link", "in.json")


def test_standard_output_is_no_file():
    with pytest.raises(ArgumentTypeError, match="/dev/stdout"):
        output_file("-")


def test_every_option_that_names_a_file_is_read_or_written():
    kept = {"output_folder"}  # Its files have names of the command's own.
    for command in COMMANDS.values():
        for each in options_of(command):
            kind = each.settings.get("type")
            if kind in PATHS and kind.__name__ not in kept:
                assert each.reads != (kind in OUTPUTS), (command.name, each.names)
            if each.settings.get("metavar") in {"SOURCE", "CASE", "SEQUENCE", "W", "J"}:
                assert each.reads, (command.name, each.names)
