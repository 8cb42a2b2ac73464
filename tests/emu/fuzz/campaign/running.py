"""Campaigns in tests: what a folder holds, and the command as a process."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
CLOCKS = ("seconds", "parts")


def corpus(folder):
    """Everything in a campaign's folder by name, but for what a clock says."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    state = json.loads(found["state.json"])
    for name in CLOCKS:
        del state[name]
    found["state.json"] = json.dumps(state, sort_keys=True)
    return found


def command(plant, *arguments, **more):
    """Begin a planted `crosswalk` in a process that leads a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.emu.fuzz.campaign.command", plant, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def finished(process, seconds=120):
    """Wait for a process; its status, standard output and standard error."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
