import os
import signal

import pytest

from crosswalk.emu.workers.process import Ending, fork, how_ended, is_killed, signal_name
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process


@pytest.mark.parametrize("number", range(1, signal.NSIG))
def test_any_signal_has_a_name(number):
    known = {each.value: each.name for each in signal.Signals}
    assert known.get(number, f"signal {number}") == signal_name(number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_whom_a_signal_ends_is_killed_from_then_on(number):
    child = fork(signal.pause)
    try:
        os.kill(child, signal.SIGSTOP)
        assert not is_killed(child)
        os.kill(child, number)
        assert is_killed(child)
        os.kill(child, signal.SIGCONT)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert is_killed(child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not is_killed(child)


@pytest.mark.parametrize(
    ("code", "ending", "words"),
    [
        (0, Ending.CRASH, "ended with status 0"),
        (7, Ending.CRASH, "ended with status 7"),
        (-11, Ending.CRASH, "died of SIGSEGV"),
        (-40, Ending.CRASH, "died of signal 40"),
        (-9, Ending.KILLED, "was killed (SIGKILL), by another program or for want of memory"),
        (-15, Ending.KILLED, "was killed (SIGTERM), by another program or for want of memory"),
    ],
)
def test_an_end_is_said_in_words(code, ending, words):
    ended = how_ended(code)
    assert (ending, words) == (ended.ending, str(ended))


def test_a_walker_that_dies_of_a_signal_without_a_name_is_a_crash():
    process = Process(Limits(), lambda: os.kill(os.getpid(), 40))
    with pytest.raises(NoAnswer) as caught:
        process.talk(b"", lambda _: True, 100)
    assert (Failure.CRASH, "died of signal 40") == (caught.value.failure, caught.value.kind)
