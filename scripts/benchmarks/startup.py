"""How long commands take to start, as multiples of a Python that imports numpy."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["judge_startup", "measured_startup", "show_startup"]

_CASE = Path(__file__).parents[2] / "tests" / "cases" / "known" / "amd-pml4e-bit-8.json"
_BASE = "import numpy"
_COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "a bad option": ["walk", "x", "--none"],
    "a missing file": ["walk", "/no/file"],
    "walk of a small case": ["walk", str(_CASE), "--allow-empty"],
}
_GOALS = {
    "--help": 1.5,
    "--version": 1.5,
    "a bad option": 2.5,
    "a missing file": 2.5,
    "walk of a small case": 3.0,
}


def measured_startup(turns: int) -> dict[str, float]:
    """Return the median wall time in seconds of each command, all of them by turns."""
    commands = {name: ["-m", "crosswalk", *given] for name, given in _COMMANDS.items()}
    commands[_BASE] = ["-c", _BASE]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, given in commands.items():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, *given],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
                check=False,
            )
            if turn:  # The first one compiles, and reads from the disk.
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def show_startup(document: dict[str, float]) -> None:
    """Print the times and their ratios."""
    print("start-up, wall time\n")
    for name, seconds in document.items():
        print(f"{name:<24} {1000 * seconds:>6.0f} ms  {seconds / document[_BASE]:>5.2f} ×")
    print()


def judge_startup(document: dict[str, float]) -> list[dict[str, Any]]:
    """Return the goals of starting up: what, found, meant."""
    return [
        {"goal": f"{name}, × numpy", "found": document[name] / document[_BASE], "most": goal}
        for name, goal in _GOALS.items()
    ]
