"""A process that ends with the one that started it, whatever either is doing."""

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

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
