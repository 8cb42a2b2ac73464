import faulthandler
import os
import signal
import sys

import numpy as np
import pytest

from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded


def test_what_the_work_returns_comes_back():
    outcomes = Outcomes.empty(3)
    outcomes.pa[1] = 7
    assert [0, 7, 0] == contained(lambda: outcomes).pa.tolist()
    assert contained(lambda: None) is None
    assert 1 << 24 == len(contained(lambda: np.zeros(1 << 24, np.uint8)))


def test_the_work_is_done_in_another_process():
    assert os.getpid() != contained(os.getpid)
    changed = []
    contained(lambda: changed.append(1))
    assert changed == []


@pytest.mark.parametrize("kind", [BadInput, LimitExceeded, CrosswalkError, EmulatorCrash])
def test_an_error_of_the_projects_own_crosses_over_with_its_message(kind):
    def work():
        raise kind("this went wrong")

    with pytest.raises(kind, match="this went wrong") as caught:
        contained(work)
    assert kind is type(caught.value)


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_a_crash_is_an_error_that_names_the_signal(name):
    def crash():
        faulthandler.disable()
        os.kill(os.getpid(), signal.Signals[name])

    with pytest.raises(EmulatorCrash, match=f"the emulator died of {name}"):
        contained(crash)


def test_an_abort_is_a_crash():
    def crash():
        faulthandler.disable()
        os.abort()

    with pytest.raises(EmulatorCrash, match="SIGABRT"):
        contained(crash)


def test_a_child_that_ends_without_an_answer_is_a_crash():
    with pytest.raises(EmulatorCrash, match="ended early, status"):
        contained(lambda: os._exit(0))


def test_a_mistake_of_ours_is_shown_and_is_no_answer(capfd):
    with pytest.raises(EmulatorCrash, match="ended early"):
        contained(lambda: 1 // 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_nothing_is_printed_twice(capfd):
    sys.stdout.write("before ")
    contained(lambda: sys.stdout.write("inside "))
    sys.stdout.write("after")
    sys.stdout.flush()
    assert "before inside after" == capfd.readouterr().out
