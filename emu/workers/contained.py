"""What may crash the process runs in a child, and its crash is a result."""

import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from crosswalk.emu.workers.lifetime import die_with_parent
from crosswalk.walker.errors import CrosswalkError

__all__ = ["EmulatorCrash", "contained"]

Result = TypeVar("Result")


class EmulatorCrash(CrosswalkError):
    """The emulator took its process down, or doesn't come back."""


def contained(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Return what `work` returns, or raise the `CrosswalkError` it raises, from a child process.

    `EmulatorCrash` if the child dies of a signal, or takes longer than `seconds`. What `work`
    returns has to be picklable.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        os.close(reading)
        _work(work, writing)
    os.close(writing)
    answer = _answer(reading, seconds)
    if answer is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise EmulatorCrash(f"the emulator hangs: no end after {seconds:g} s")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise EmulatorCrash(f"the emulator died of {name}; a case for its authors")
    if not answer:
        raise EmulatorCrash(f"the emulator's process ended early, status {status}")
    failed, value = pickle.loads(answer)  # noqa: S301  # from our own child
    if failed:
        raise value
    result: Result = value
    return result


def _answer(reading: int, seconds: float | None) -> bytes | None:
    """Return all that comes, None if its end doesn't in so many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        answer = bytearray()
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                return None
            part = pipe.read(1 << 20)
            if not part:
                return bytes(answer)
            answer += part


def _work(work: Callable[[], Result], writing: int) -> None:
    """Run in the child, which never returns into what the parent was doing."""
    status = 1
    try:
        try:
            answer = pickle.dumps((False, work()))
        except CrosswalkError as error:
            answer = pickle.dumps((True, error))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
