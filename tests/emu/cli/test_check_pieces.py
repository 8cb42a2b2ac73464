"""A check by several processes: the same result whatever their number, and whatever ends them."""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crosswalk.emu.check import survey
from crosswalk.emu.check.crosscheck import Checker
from crosswalk.emu.cli import check_pieces as pieces
from crosswalk.emu.cli.check_pieces import check_in_pieces
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import BadInput
from tests.emu.check.planting import without_code
from tests.emu.check.wrong_walks import dropped
from tests.processes import alive, until
from tests.tables import KIB4, PageTables, context

VA = 0x40_0000
HERE = Path(__file__).resolve().parents[3]


@pytest.fixture
def memory():
    builder = PageTables()
    for at in range(60):
        builder.map(VA + at * 3 * KIB4, 0x8000 + at % 8 * KIB4)
    return builder.memory


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(survey, "PIECE", 40)


def same(verdict):
    """All of a verdict but the time it took."""
    return {
        name: getattr(verdict, name) for name in verdict.__dataclass_fields__ if name != "seconds"
    }


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("jobs", [2, 3])
def test_the_verdict_is_the_same_whatever_the_number_of_processes(memory, jobs, monkeypatch):
    assert 5 < len(list(survey.Survey(memory, context()).pieces()))
    alone = check_in_pieces(memory, context(), jobs=1)
    assert same(alone) == same(check_in_pieces(memory, context(), jobs=jobs))
    assert (0, 60, 60) == (alone.divergent, alone.mappings, alone.checked)

    def predict(memory, found, accesses):
        outcomes = translate_many(memory, found, accesses)
        outcomes.error_code[:] = without_code(4)(outcomes, accesses)["error_code"]
        return outcomes

    monkeypatch.setattr(pieces, "translate_many", predict)
    monkeypatch.setattr(pieces, "walk_leaves", dropped(VA + 30 * KIB4))
    wrong = check_in_pieces(memory, context(), jobs=1)
    assert wrong.divergences
    assert wrong.listing
    assert same(wrong) == same(check_in_pieces(memory, context(), jobs=jobs))


def test_the_pieces_find_what_a_check_in_one_finds(memory, monkeypatch):
    whole = check_in_pieces(memory, context())
    monkeypatch.setattr(survey, "PIECE", 7)
    assert same(whole) == same(check_in_pieces(memory, context()))


def fatal(monkeypatch, end, at):
    """Have the process of each piece that `at` holds for come to an end."""
    check = Checker.check

    def ends(self, piece, *given):
        if at(piece):
            faulthandler.disable()
            end()
        return check(self, piece, *given)

    monkeypatch.setattr(Checker, "check", ends)


def die(name):
    return lambda: os.kill(os.getpid(), signal.Signals[name])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("SIGABRT", "the emulator died of SIGABRT"),
        (
            "SIGKILL",
            "the emulator was killed (SIGKILL), by another program or for want of memory, 5 times",
        ),
    ],
)
def test_a_piece_that_is_lost_is_told_and_the_others_are_checked(memory, name, how, monkeypatch):
    whole = check_in_pieces(memory, context(), jobs=2)
    fatal(monkeypatch, die(name), lambda piece: VA in piece.va.tolist())
    verdict = check_in_pieces(memory, context(), jobs=2)
    (lost,) = verdict.lost
    assert (how, 40) == (lost.how, lost.targets)
    assert lost.first <= VA <= lost.last
    assert {f"pages, holes and entries: {how}": 40} == verdict.not_asked
    assert 0 < verdict.probes < whole.probes


@pytest.mark.usefixtures("small_pieces")
def test_a_piece_whose_process_is_killed_once_is_done_again(memory, tmp_path, monkeypatch):
    whole = check_in_pieces(memory, context())
    mark = tmp_path / "killed"

    def once():
        if not mark.exists():
            mark.touch()
            die("SIGKILL")()

    fatal(monkeypatch, once, lambda piece: VA in piece.va.tolist())
    assert same(whole) == same(check_in_pieces(memory, context(), jobs=2))
    assert mark.exists()


@pytest.mark.usefixtures("small_pieces")
def test_an_emulator_that_goes_on_dying_is_no_check(memory, monkeypatch):
    fatal(monkeypatch, die("SIGSEGV"), lambda piece: VA + 3 * KIB4 < int(piece.va.max()))
    with pytest.raises(EmulatorCrash, match="the emulator died of SIGSEGV, at 0x"):
        check_in_pieces(memory, context(), jobs=2)


def test_an_error_of_the_projects_own_is_raised(memory, monkeypatch):
    def bad():
        raise BadInput("this went wrong")

    fatal(monkeypatch, bad, lambda _: True)
    with pytest.raises(BadInput, match=r"^this went wrong$"):
        check_in_pieces(memory, context())


def test_a_mistake_of_ours_is_raised(memory, monkeypatch):
    fatal(monkeypatch, lambda: 1 // 0, lambda _: True)
    with pytest.raises(ZeroDivisionError):
        check_in_pieces(memory, context())


def test_a_piece_that_hangs_is_lost(memory, monkeypatch):
    monkeypatch.setattr(pieces, "TIME_LIMIT", 0.5)
    fatal(monkeypatch, lambda: time.sleep(60), lambda _: True)
    with pytest.raises(EmulatorCrash, match="the emulator hangs"):
        check_in_pieces(memory, context())


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may have had it ignored.
from crosswalk.emu.check.crosscheck import Checker
from crosswalk.emu.cli.main import main
def check(self, piece, *_):
    import os
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(60)
Checker.check = check
main(["check", sys.argv[1], "--jobs", "2"])
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_process_outlives_the_command(small_case, name):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(small_case)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=HERE,
    ) as command:
        worker = next(int(line) for line in command.stderr if line.strip().isdigit())
        assert alive(worker)
        command.send_signal(signal.Signals[name])
        command.wait(30)
    until(lambda: not alive(worker), 30)


@pytest.mark.usefixtures("small_pieces")
def test_the_command_says_the_same_whatever_the_number_of_processes(run, small_case):
    def told(jobs):
        document = run("check", small_case, "--jobs", jobs, "--json").document
        return json.dumps({**document, "seconds": 0, "reproduce": ""})

    assert told("1") == told("2") == told("5")
    ran = run("check", small_case, "--jobs", "0")
    assert 2 == ran.status
    assert "crosswalk check: error: argument --jobs: 0 is less than 1" in ran.err


def test_a_lost_piece_is_exit_status_2_and_names_the_part(run, monkeypatch):
    monkeypatch.setattr(survey, "PIECE", 512)
    fatal(monkeypatch, die("SIGABRT"), lambda piece: 0 in piece.va.tolist())
    ran = run("check", "guest:4level")
    assert 2 == ran.status
    assert "agreement" not in ran.out
    assert "verdict: not finished; " in ran.out
    assert "the emulator died of SIGABRT, at 512 pages, holes and entries from 0x0 to" in (ran.err)
