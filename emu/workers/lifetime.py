"""A process that ends with the one that started it, whatever either is doing."""

import ctypes
import os
import signal
import sys

from crosswalk.walker.errors import CrosswalkError

__all__ = ["ProcessEnded", "death", "die_with_parent", "signal_name"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, is gone.

    A process that waits for work sees its pipe end; one that hangs would stay for ever. Only
    Linux does this, prctl(2); elsewhere such a process has to be ended by hand.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # It died before it could be noticed.
            os._exit(1)


class ProcessEnded(CrosswalkError):
    """A child process ended, or was killed for its deadline, before it had answered."""


def signal_name(number: int) -> str:
    """Return the name of a signal: "SIGSEGV", or "signal 40" for one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def death(exitcode: int) -> str:
    """Return in words how a process crashed; `exitcode` is negative for a signal."""
    return f"crash, {signal_name(-exitcode) if exitcode < 0 else f'status {exitcode}'}"
