import errno
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
    assert None is contained(lambda: None)
    assert 1 << 24 == len(contained(lambda: np.zeros(1 << 24, np.uint8)))


def test_the_work_is_done_in_another_process():
    assert os.getpid() != contained(os.getpid)
    changed = []
    contained(lambda: changed.append(1))
    assert [] == changed


@pytest.mark.parametrize("kind", [BadInput, LimitExceeded, CrosswalkError, EmulatorCrash])
def test_an_error_of_the_projects_own_crosses_over_with_its_message(kind):
    def work():
        raise kind("this went wrong")

    with pytest.raises(kind, match="this went wrong") as caught:
        contained(work)
    assert kind is type(caught.value)


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGILL"])
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
    with pytest.raises(EmulatorCrash, match=r"^the emulator ended with status 0$"):
        contained(lambda: os._exit(0))


@pytest.mark.parametrize(
    ("again", "times"), [(False, "memory$"), (True, "memory, 5 times$")], ids=["once", "again"]
)
def test_who_is_killed_is_named_and_is_no_crash(again, times):
    killed = r"^the emulator was killed \(SIGKILL\), by another program or for want of "
    with pytest.raises(EmulatorCrash, match=killed + times):
        contained(lambda: os.kill(os.getpid(), signal.SIGKILL), again=again)


def test_work_whose_process_is_killed_once_is_done_again(tmp_path):
    def work():
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    assert 7 == contained(work, again=True)


def test_a_mistake_of_ours_is_raised():
    with pytest.raises(ZeroDivisionError, match="division"):
        contained(lambda: 1 // 0)


@pytest.mark.parametrize(
    "error", [MemoryError, lambda: OSError(errno.ENOMEM, "mmap")], ids=["python", "system"]
)
def test_for_want_of_memory_it_has_a_name(error):
    def work():
        raise error()

    with pytest.raises(EmulatorCrash, match=r"^the emulator ran out of memory$"):
        contained(work)


def test_nothing_is_printed_twice(capfd):
    sys.stdout.write("before ")
    contained(lambda: sys.stdout.write("inside "))
    sys.stdout.write("after")
    sys.stdout.flush()
    assert "before inside after" == capfd.readouterr().out
