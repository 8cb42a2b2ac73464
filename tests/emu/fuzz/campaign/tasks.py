"""Work for pools: what a worker does is told from the number of its task."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from crosswalk.emu.fuzz.campaign.work import Failed, work
from crosswalk.walker.errors import BadInput
from tests.emu.fuzz.campaign.campaigns import told
from tests.emu.fuzz.planting import crash, hang


def named(task):
    """Say which process did it."""
    return replace(told(task), index=os.getpid())


def ailing(task):
    """Some tasks are bad for the process."""
    if task.index == 3:
        crash("SIGSEGV")
    elif task.index == 4:
        crash("SIGABRT")
    elif task.index == 5:
        hang()
    elif task.index == 6:
        os._exit(7)
    elif task.index == 7:
        return Failed("error", "no outcome")
    elif task.index == 8:
        raise BadInput("that can't be")
    return told(task)


def once(task):
    """The first process that does it dies, the next one doesn't."""
    mark = Path(task.plan.walker) / str(task.index)
    if task.index == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return told(task)


def slow(task):
    """Real work, slowly enough to be killed in the middle of it."""
    time.sleep(0.05)
    return work(task)
