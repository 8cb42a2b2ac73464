"""Every file that a command opens is asked what it is, and none is waited for."""

import os

import pytest

from crosswalk.walker.formats import files
from tests.emu.load.linux.kernels import talking, vmlinux

FILES = [
    ["info", "FILE"],
    ["walk", "FILE"],
    ["frames", "FILE"],
    ["translate", "FILE", "0"],
    ["check", "FILE"],
    ["protect", "FILE"],
    ["replay", "FILE"],
    ["reduce", "FILE"],
    ["sequence", "FILE"],
    ["fuzz", "--corpus", "corpus", "--cases", "1", "--from", "FILE"],
    ["run", "--kernel", "FILE"],
    ["run", "--kernel", "KERNEL", "--initrd", "FILE"],
    ["run", "--kernel", "KERNEL", "--system-map", "FILE"],
    ["protect", "--kernel", "FILE"],
    ["protect", "--kernel", "KERNEL", "--initrd", "FILE"],
    ["matrix", "--select", "access=write,section=rights-4k", "--state", "FILE"],
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "KERNEL").write_bytes(vmlinux(talking("hang: jmp hang")))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    return tmp_path


def refused(run, command, name):
    ran = run(*(name if each == "FILE" else each for each in command))
    assert (2, "") == (ran.status, ran.out)
    return ran.err.splitlines()[-1]


@pytest.mark.parametrize("command", FILES, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pipe", "not a regular file"),
        ("link", "not a regular file"),
        ("folder", "is a directory"),
        ("/dev/zero", "not a regular file"),
        ("gone", "no such file or directory"),
        ("a\0b", "embedded null"),
    ],
    ids=["pipe", "link", "folder", "device", "gone", "NUL"],
)
def test_what_is_no_file_is_refused_at_once(run, place, command, name, why):
    if name == "gone" and "--state" in command:
        return  # A state that isn't there yet is made.
    if name == "folder" and "--from" in command:
        why = "no case files"  # Of those that a campaign may start from.
    line = refused(run, command, name)
    assert " error: " in line
    if "\0" not in name:
        assert f"{name}: {why}" in line


@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero"])
def test_a_state_of_a_campaign_that_is_no_file_is_refused(run, place, name):
    given = ("fuzz", "--cases", "1", "--accesses", "16", "--jobs", "1", "--corpus", "corpus")
    assert 0 == run(*given).status
    (place / "corpus/state.json").unlink()
    (place / "corpus/state.json").symlink_to(place / name)
    assert "corpus/state.json: " in refused(run, given, name)


def test_a_file_that_is_too_large_is_refused_by_its_size(run, place, monkeypatch):
    with (place / "large").open("wb") as file:
        file.truncate((1 << 30) + 1)
    line = refused(run, ["run", "--kernel", "FILE"], "large")
    assert "crosswalk: error: large: more than 1,073,741,824 bytes" == line


def test_a_file_without_an_end_is_read_no_further_than_allowed(place):
    path = place / "file"
    path.write_bytes(b"0123456789")
    assert b"0123456789" == files.read_file(path, 10)
    with pytest.raises(files.BadInput, match="file: more than 9 bytes"):
        files.read_file(path, 9)


@pytest.mark.parametrize(
    "command",
    [
        ["walk", "KERNEL", "--save-case"],
        ["walk", "KERNEL", "--summary"],
        ["frames", "KERNEL", "--summary"],
        ["run", "--save"],
        ["fuzz", "--junit"],
        ["reduce", "KERNEL", "-o"],
        ["protect", "KERNEL", "--format", "pages", "--output"],
        ["matrix", "--state"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["", "folder", "none/file", "KERNEL/file", "a\0b"])
def test_a_file_that_can_not_be_written_is_refused_before_anything_is_done(
    run, place, command, name
):
    before = sorted(place.iterdir())
    line = refused(run, [*command, "FILE"], name)
    assert f": error: argument {command[-1]}" in line.replace("-o/--output", "-o")
    assert before == sorted(place.iterdir())


@pytest.mark.parametrize("command", [["check", "KERNEL"], ["run"], ["matrix"]], ids=" ".join)
def test_a_folder_that_can_not_be_made_is_refused_before_anything_is_done(run, place, command):
    for name in ("", "KERNEL", "KERNEL/folder"):
        line = refused(run, [*command, "--cases", "FILE"], name)
        assert ": error: argument --cases: " in line
