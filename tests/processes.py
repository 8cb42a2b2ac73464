"""Processes that tests start and kill: which are running, and waiting for them."""

import os
import time
from pathlib import Path


def until(happened, seconds=60):
    """Wait until something has happened; fails after some seconds."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def session_processes(session):
    """The running processes of a session, zombies aside."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def children():
    """The children of this process, zombies too."""
    mine = os.getpid()
    return set(map(int, Path(f"/proc/{mine}/task/{mine}/children").read_text().split()))


def alive(pid):
    """Whether a process is running, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
