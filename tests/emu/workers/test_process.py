import os
import signal

import pytest

from crosswalk.emu.workers.process import Ending, how_ended, signal_name
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process


@pytest.mark.parametrize("number", range(1, signal.NSIG))
def test_any_signal_has_a_name(number):
    known = {each.value: each.name for each in signal.Signals}
    assert known.get(number, f"signal {number}") == signal_name(number)


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
