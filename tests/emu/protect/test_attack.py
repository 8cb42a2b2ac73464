"""The runner of attacks, with a subject that records what is asked of it."""

import faulthandler
import os
import sys

import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.protect.attack import (
    Attack,
    Attacked,
    Crash,
    DeliveryRefused,
    Intercepted,
    NestedFault,
    NotStopped,
    Other,
    emulator_crashes,
    exit_result,
    run_attacks,
)

FAULT = NestedFault(0x1000, 7)


class Recorder:
    """A subject whose programs are pairs: the results without protection, and with it."""

    def __init__(self):
        self.states = []

    def restore(self, *, protected=True, pinned=True):
        self.states.append((protected, pinned))

    def run(self, attack):
        protected, _ = self.states[-1]
        return attack.program[protected]


def attacked(attack, **options):
    subject = Recorder()
    (found,) = run_attacks(subject, [attack], **options)
    return found, subject.states


def test_an_attack_runs_without_protection_and_then_with_it():
    found, states = attacked(Attack("", (NotStopped(), FAULT), FAULT))
    assert Attacked(found.attack, FAULT, NotStopped()) == found
    assert [(False, False), (True, True), (True, True)] == states
    assert [] == found.wrong


def test_an_attack_on_registers_that_arent_pinned_runs_without_pins():
    _, states = attacked(Attack("", (NotStopped(), FAULT), FAULT, pinned=False))
    assert [(False, False), (True, False), (True, True)] == states


def test_an_attack_can_be_run_with_protection_alone():
    found, states = attacked(Attack("", (None, FAULT), FAULT), unprotected=lambda _: False)
    assert (None, True, []) == (found.unprotected, found.works_unprotected, found.wrong)
    assert [(True, True), (True, True)] == states


@pytest.mark.parametrize(
    ("results", "wrong"),
    [
        ((NotStopped(), NotStopped()), ["row: NOT STOPPED, not nested fault at 0x1000"]),
        ((NotStopped(), NestedFault(0x2000, 7)), ["row: nested fault at 0x2000"]),
        ((NotStopped(), NestedFault(0x1000, 0x15)), ["row: nested fault at 0x1000"]),
        ((FAULT, FAULT), ["row: where nothing is protected: nested fault at 0x1000"]),
        (
            (Other("idle"), Other("idle")),
            ["row: idle, not nested fault", "row: where nothing is protected: idle"],
        ),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_attack_is_said(results, wrong):
    found, _ = attacked(Attack("row", results, FAULT))
    assert len(wrong) == len(found.wrong)
    assert all(line.startswith(start) for line, start in zip(found.wrong, wrong, strict=True))


@pytest.mark.parametrize(
    ("died_of", "result"), [("SIGSEGV", Crash()), (None, Other("the emulator lives"))]
)
def test_an_expected_crash_runs_in_a_child(died_of, result):
    attack = Attack("", (NotStopped(), NotStopped()), Crash())
    done = []

    def crashes(work):
        done.append(work())
        return died_of

    found, states = attacked(attack, crashes=crashes)
    assert [NotStopped()] == done
    assert result == found.result
    assert (died_of is not None) is found.as_expected
    assert (True, True) == states[-1]


@pytest.fixture
def tells_of_crashes():
    """Have Python tell of crashes, where nothing does, or a test before ended that."""
    enabled = faulthandler.is_enabled()
    if not enabled:
        faulthandler.enable(sys.__stderr__)
    yield
    if not enabled:
        faulthandler.disable()


@pytest.mark.usefixtures("tells_of_crashes")
@pytest.mark.parametrize("died_of", ["SIGABRT", None])
def test_a_crash_of_a_child_is_told_and_leaves_no_trace(died_of):
    def work():
        if died_of and not faulthandler.is_enabled():
            os.abort()

    assert faulthandler.is_enabled()
    found = emulator_crashes(work)
    assert (died_of is None) is (found is None)
    assert died_of is None or died_of in found
    assert faulthandler.is_enabled()


def test_an_exit_is_a_result():
    assert FAULT == exit_result(Exit(ExitCode.NPF, 7, 0x1000))
    assert Intercepted(ExitCode.MSR) == exit_result(Exit(ExitCode.MSR, 1))
    assert "why" == exit_result(Exit(ExitCode.MSR, 1), "why").detail


def test_details_are_no_part_of_what_is_expected():
    assert FAULT == NestedFault(0x1000, 7, "in words")
    assert DeliveryRefused("in words") == DeliveryRefused()
    assert "delivery refused: in words" == str(DeliveryRefused("in words"))
