"""Text of others reaches a terminal escaped, whichever way it comes in."""

import shlex
import sys

import pytest

from crosswalk.walker.formats import Probe, dump_case
from tests.emu.cli.conftest import case_of
from tests.emu.load.linux.kernels import bzimage, talking, vmlinux
from tests.packing import gzipped

TITLE = "\x1b]0;title\x07"
SHOWN = r"\x1b]0;title\x07"


def clean(ran, shown=SHOWN):
    """Hold that the text was shown, and that nothing in it acts on a terminal."""
    for text in (ran.out, ran.err):
        assert all(line.isprintable() for line in text.split("\n"))
    assert shown in ran.out + ran.err


@pytest.fixture
def named(tmp_path, monkeypatch, small_case):
    """A case under a name that a terminal would act on."""
    monkeypatch.chdir(tmp_path)
    small_case.rename(tmp_path / f"{TITLE}.json")
    return f"{TITLE}.json"


@pytest.mark.parametrize(
    "command",
    [
        ["info", "NAME"],
        ["walk", "NAME"],
        ["walk", "NAME", "--cr3", "0xff000000"],
        ["frames", "NAME"],
        ["check", "NAME"],
        ["check", "NAME", "--json"],
        ["replay", "NAME"],
        ["replay", "NAME", "--walker", "walk"],
        ["translate", "NAME", "0x400000"],
        ["protect", "NAME"],
        ["reduce", "NAME"],
        ["findings", "NAME"],
        ["findings", "--report", "NAME"],
        ["sequence", "NAME"],
        ["protect", "--kernel", "NAME"],
        ["run", "--kernel", "NAME"],
        ["walk", "x", "--bogus", "NAME"],
        ["walk", "x", "--vendor", "NAME"],
        ["walk", "x", "--limit", "NAME"],
        ["fuzz", "--cases", "1", "--from", "NAME", "--scheduler", "x", "--jobs", "1"],
        ["matrix", "--select", "NAME"],
        ["run", "--kernel", "NAME", "--until", "NAME"],
        ["translate", "x", "0", "--ncr3", "NAME"],
        ["help", "NAME"],
        ["completion", "NAME"],
        ["NAME"],
    ],
    ids=" ".join,
)
def test_a_name_given_on_the_command_line(run, named, command):
    ran = run(*(named if each == "NAME" else each for each in command))
    clean(ran, "" if command[0] in {"fuzz", "reduce"} else SHOWN)  # They don't mention it.


def test_the_name_of_a_file_that_is_not_there(run):
    for command in ("walk", "check", "replay", "sequence", "reduce"):
        clean(run(command, f"/none/{TITLE}"))


def test_the_release_of_a_kernel(run, tmp_path):
    path = tmp_path / "vmlinuz"
    release = f"6.1{TITLE}".encode()
    path.write_bytes(bzimage(gzipped(vmlinux(talking("hang: jmp hang"))), release=release))
    ran = run("run", "--kernel", path, "--until", "console:tiny kernel", "--ram", "32")
    assert 0 == ran.status
    clean(ran, f"6.1{SHOWN}, entry 0x")


@pytest.mark.parametrize("option", [["--console"], []], ids=["console", "failure"])
def test_the_console_of_a_guest(run, tmp_path, option):
    path = tmp_path / "vmlinuz"
    path.write_bytes(vmlinux(talking("hang: jmp hang", text="\\033[31mred")))
    ran = run("run", "--kernel", path, "--ram", "32", "--timeout", "1", *option)
    assert 2 == ran.status
    clean(ran, r"\x1b[31mred")


def walker(tmp_path, body):
    path = tmp_path / "walker.py"
    path.write_text(body)
    return path


def test_what_a_command_under_test_prints_on_its_standard_error(run, small_case, tmp_path):
    body = f"import sys\nprint({TITLE!r}, file=sys.stderr)\nsys.exit(3)\n"
    command = shlex.join([sys.executable, str(walker(tmp_path, body))])
    clean(run("replay", small_case, "--walker", f"exec:{command}"))


@pytest.mark.parametrize(
    "body",
    [
        f"raise ValueError({TITLE!r})\n",
        f"raise type({TITLE!r}, (Exception,), {{}})()\n",
        f"def walk(*_):\n    raise ValueError({TITLE!r})\n",
        f"def walk(*_):\n    raise type({TITLE!r}, (Exception,), {{}})()\n",
    ],
    ids=["import", "type at import", "answer", "type of the answer"],
)
def test_what_a_function_under_test_raises(run, small_case, tmp_path, body):
    path = walker(tmp_path, body)
    clean(run("replay", small_case, "--walker", f"python:{path}:walk"))


@pytest.mark.parametrize("command", ["replay", "reduce"])
def test_the_walker_that_a_case_names(run, tmp_path, command):
    case = case_of(Probe(va=0x40_0123, access="write", cpl=0, ac=False))
    path = tmp_path / "case.json"
    content = dump_case(case).replace(b'"probes"', b'"walker": "exec:\\u001b[31m", "probes"')
    path.write_bytes(content)
    clean(run(command, path), r"$'exec:\x1b[31m'")


def test_the_folder_of_a_campaign(run, tmp_path):
    given = ("fuzz", "--cases", "1", "--accesses", "16", "--jobs", "1")
    folder = tmp_path / TITLE
    ran = run(*given, "--corpus", folder)
    assert 0 == ran.status
    clean(ran)
    clean(run(*given, "--corpus", folder), f"going on after 1 layout in {tmp_path}/{SHOWN}")
