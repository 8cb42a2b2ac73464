"""Whatever goes wrong is one line and the right status; standard output has only the answer."""

import os
import subprocess
import sys

import pytest

from crosswalk.emu.cli import walk as walking
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.errors import BadInput
from tests.emu.case_files import KNOWN_CASES, LINUX_CASE

COMMAND = [sys.executable, "-m", "crosswalk"]
CASE = KNOWN_CASES / "amd-pml4e-bit-8.json"


def raising(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(walking, "run_walk", fail)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BadInput("no such thing"), 2, "error: no such thing"),
        (BadInput("a\x1b[31m\nb"), 2, r"error: a\x1b[31m\nb"),
        (EmulatorCrash("died"), 2, "error: died; reproduce: crosswalk walk 'a file'"),
        (MemoryError(), 2, "error: out of memory"),
        (OSError(28, "No space left on device", "x"), 2, "error: x: No space left"),
        (BlockingIOError(11, "Resource temporarily unavailable"), 2, "error: Resource temp"),
        (ModuleNotFoundError("No", name="unicorn"), 2, "error: this needs unicorn, which is not"),
        (ModuleNotFoundError("No", name="keystone.x"), 2, "error: this needs keystone, which"),
        (ImportError("ERROR: fail to load the dynamic library."), 2, "error: ERROR: fail to load"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_a_status(run, monkeypatch, error, status, line):
    raising(monkeypatch, error)
    ran = run("walk", "a file")
    assert (status, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert ran.err.startswith(f"crosswalk: {line}")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd\x1b[31m"),
        RecursionError("too deep"),
        AssertionError(),
        ModuleNotFoundError("No", name="crosswalk.emu.lost"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_of_the_programs_own_is_reported_as_one(run, monkeypatch, error):
    raising(monkeypatch, error)
    ran = run("walk", "a\x1bfile")
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert ran.err.startswith(f"crosswalk: internal error: {type(error).__name__}: ")
    assert "please report this line: crosswalk 0." in ran.err
    assert r"crosswalk walk $'a\x1bfile' (CROSSWALK_TRACEBACK=1" in ran.err
    assert ran.err.rstrip("\n").isprintable()


def test_the_traceback_is_there_for_who_asks(run, monkeypatch):
    raising(monkeypatch, ValueError("odd"))
    monkeypatch.setenv("CROSSWALK_TRACEBACK", "1")
    lines = run("walk", "file").err.splitlines()
    assert "Traceback (most recent call last):" == lines[0]
    assert lines[-1].startswith("crosswalk: internal error: ValueError: odd; ")


def shell(text, *arguments, **environment):
    """Run a command as a shell does that redirects it; returns status, output and errors."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {text}', "sh", *COMMAND, *map(str, arguments)],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("help", "walk"),
        ("--version",),
        ("walk", LINUX_CASE),
        ("walk", LINUX_CASE, "--json"),
        ("replay", CASE),
        ("replay", "--json", CASE),
    ],
    ids=lambda arguments: " ".join(each for each in map(str, arguments) if "/" not in each),
)
@pytest.mark.parametrize(
    ("where", "line"),
    [
        (">/dev/full", b"crosswalk: error: standard output: No space left on device"),
        (">&-", b"crosswalk: error: standard output: closed"),
    ],
    ids=["full", "closed"],
)
def test_an_answer_that_can_not_be_written_is_an_error(arguments, where, line):
    status, out, err = shell(where, *arguments)
    assert (2, b"") == (status, out)
    assert line == err.splitlines()[-1]
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


def test_remarks_to_a_closed_standard_error_land_nowhere():
    whole = shell("", "walk", LINUX_CASE, "--json")
    closed = shell("2>&-", "walk", LINUX_CASE, "--json")
    assert (0, whole[1], b"") == closed
    assert b"mappings" in whole[2]


def test_an_error_that_nobody_can_read_still_has_its_status():
    assert (2, b"", b"") == shell("2>&-", "walk", "/none")
    assert (2, b"", b"") == shell("2>/dev/full", "walk", "/none")
    assert (2, b"", b"") == shell("2>&- >&-", "walk", "/none")


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    path = tmp_path / "case.json"
    status, _, _ = shell("<&- 2>&-", "walk", CASE, "--allow-empty", "--save-case", path)
    assert 0 == status
    assert path.read_bytes().startswith(b"{")


def test_what_an_encoding_lacks_is_escaped():
    case = LINUX_CASE
    plain = shell("", "translate", case, "0x400000")[1].decode()
    status, out, err = shell("", "help", "matrix", PYTHONIOENCODING="ascii")
    assert (0, b"") == (status, err)
    assert b"NAME=VALUE,\\u2026" in out
    assert plain == shell("", "translate", case, "0x400000", PYTHONIOENCODING="ascii")[1].decode()


@pytest.mark.parametrize("kibibytes", [300_000, 1_000_000])
def test_a_small_address_space_is_enough_or_named(kibibytes):
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -v {kibibytes}; exec "$@"', "sh", *COMMAND, "walk", LINUX_CASE],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in {0, 2}
    assert b"Traceback" not in done.stderr


def test_a_file_that_becomes_shorter_while_it_is_read_is_one_line(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    script = f"""
import os, sys
from crosswalk.emu.cli import sources
from crosswalk.emu.cli.main import main
opened = sources.open_contents
def then_truncated(*args, **named):
    contents = opened(*args, **named)
    os.truncate({str(path)!r}, 4096)
    return contents
sources.open_contents = then_truncated
sys.exit(main(["walk", {str(path)!r}, "--cr3", "0x80000"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=60
    )
    assert (2, b"") == (done.returncode, done.stdout)
    line = f"crosswalk: error: {path}: became shorter while it was read\n"
    assert line == done.stderr.decode()


@pytest.mark.parametrize(
    ("planted", "command"),
    [
        ("crosswalk.emu.check.crosscheck.Checker.check", ("check", CASE, "--allow-empty")),
        ("crosswalk.emu.probe.many.ManyProber.probe", ("replay", CASE)),
        ("crosswalk.emu.probe.Prober.probe", ("translate", CASE, "0", "--observe")),
        ("crosswalk.emu.fuzz.nested.campaign.make_pair", ("nested", "--pairs", "1")),
        ("crosswalk.emu.probe.sequences.Runner.run", ("sequence", "section=tlb-random,number=1")),
    ],
    ids=["check", "replay", "translate", "nested", "sequence"],
)
def test_a_mistake_in_a_child_process_is_reported_by_its_parent(run, monkeypatch, planted, command):
    def fail(*_, **__):
        raise ValueError("planted")

    monkeypatch.setattr(planted, fail)
    ran = run(*command)
    assert (2, "") == (ran.status, ran.out)
    assert "Traceback" not in ran.err
    assert ran.err.splitlines()[-1].startswith("crosswalk: internal error: ValueError: planted; ")
    assert 1 == ran.err.count("planted; ")


SIGNALLED = """
import os, signal, sys
from crosswalk.emu.cli import walk
from crosswalk.emu.cli.main import main
walk.run_walk = lambda _: os.kill(os.getpid(), signal.Signals[sys.argv[1]]) or 0
ignored = sys.argv[2] == "ignored"
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may have had it ignored.
if ignored:
    signal.signal(signal.Signals[sys.argv[1]], signal.SIG_IGN)
sys.exit(main(["walk", "a file"]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_interrupts_every_command(name):
    command = [sys.executable, "-c", SIGNALLED, name, "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (130, "", "crosswalk: interrupted\n") == (done.returncode, done.stdout, done.stderr)


def test_a_signal_that_is_ignored_stays_so():
    command = [sys.executable, "-c", SIGNALLED, "SIGHUP", "ignored"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
