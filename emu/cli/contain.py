"""What may crash the process runs in a child, and its crash is a result."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from walker.errors import CrosswalkError

__all__ = ["EmulatorCrash", "contained"]

Result = TypeVar("Result")


class EmulatorCrash(CrosswalkError):
    """The emulator took its process down."""


def contained(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, or raise the `CrosswalkError` it raises, from a child process.

    `EmulatorCrash` if the child dies of a signal. What `work` returns has to be picklable.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
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
