"""Whether the product's own commands notice a mutant, each run as a user runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.mutation.core import write_core
from scripts.mutation.mutants import Mutant

__all__ = ["COMMANDS", "lines_of_both", "noticed_by"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_CASES = Path("tests/cases")
_SHARED = ("four-level", "root-above-4gib", "bit32", "pae", "recursive", "five-level")
_PATIENCE = 240  # Seconds of wall time for all commands together: a mutant may never end.

CORE = "FOLDER/segments.elf"
"""A core of several segments, none of which begins at 0; FOLDER is where it is written."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("check", f"{_CASES}/shared/{name}.json") for name in _SHARED),
    ("check", f"{_CASES}/shared/four-level-keys.json"),
    ("check", CORE),
    ("replay", f"{_CASES}/known/amd-pml4e-bit-8.json"),
    ("run",),
    ("run", "--paging", "5level"),
    ("check", f"{_CASES}/linux-6.1-4level.json"),
    ("nested", "--pairs", "3", "--accesses", "60", "--jobs", "1"),
    ("matrix", "--select", "section=tlb-control", "--jobs", "1"),
    ("fuzz", "--cases", "6", "--accesses", "600", "--jobs", "1", "--no-reduce", "--seed", "1"),
)
"""What is run, in this order, until a command doesn't end with status 0."""


def noticed_by(mutant: Mutant, commands: Sequence[Sequence[str]] = COMMANDS) -> str | None:
    """Return the command that notices a mutant, None if none does.

    A command that raises, or doesn't end, has noticed it as well: it doesn't say "agreement".
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.py"
        path.write_text(mutant.source, "utf-8")
        write_core(Path(folder) / "segments.elf")
        ended = _run(commands, [f"walker.{mutant.module}", str(path), folder])
    if ended is None:
        return "time"
    status, said = ended
    if status == 0:
        return None
    return said.strip().splitlines()[-1] if said.strip() else "import"


def lines_of_both(
    modules: Sequence[str], commands: Sequence[Sequence[str]] = COMMANDS
) -> set[tuple[str, int]]:
    """Return the lines of these modules, (module, line), that both sides run in the commands.

    `RuntimeError` if a command doesn't end with 0: then nothing can be said of mutants.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        write_core(Path(folder) / "segments.elf")
        ended = _run(commands, [",".join(modules), "--lines", str(path), folder])
        if ended is None or ended[0] != 0:
            said = "it didn't end" if ended is None else ended[1].strip()
            raise RuntimeError(f"the product isn't content with itself: {said}")
        rows = [line.split() for line in path.read_text("utf-8").splitlines()]
    return {(module, int(line)) for module, line in rows}


def _run(commands: Sequence[Sequence[str]], arguments: Sequence[str]) -> tuple[int, str] | None:
    """Return the status of the program, and what it printed; None if it had to be killed."""
    command = [sys.executable, "-m", "scripts.mutation.commands", json.dumps(commands), *arguments]
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            said = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Whoever it has left behind goes with it.
    return None if said is None else (process.returncode, said)
