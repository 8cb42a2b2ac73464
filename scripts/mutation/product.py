"""Judges mutants by the product's own commands, each run as a user runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.mutation.core import SOURCES, write_sources
from scripts.mutation.mutants import ROOT, Mutant, import_name

__all__ = ["COMMANDS", "lines_of_both", "noticed_by"]

_CASES = Path("tests/cases")
_SHARED = (
    "four-level",
    "root-above-4gib",
    "bit32",
    "pae",
    "recursive",
    "five-level",
    "four-level-keys",
)
_PLACED = ("apart.elf", "split.elf")
_ABSENT = ("below.elf", "half.elf")
_PATIENCE = 1800  # Seconds for all commands together; long before, a process has used up its own.

Command = tuple[int, Sequence[str]]
"""The status that is due, and the words of a command."""

COMMANDS: tuple[Command, ...] = (
    *((0, ("check", f"{_CASES}/shared/{name}.json")) for name in _SHARED),
    *((due, ("check", f"FOLDER/{name}")) for name, due in SOURCES.items()),
    *((0, ("translate", f"FOLDER/{name}", "0x12c000", "--observe")) for name in _PLACED),
    *((0, ("translate", f"FOLDER/{name}", "0x200000", "--observe")) for name in _ABSENT),
    # An entry that is absent, in a word that a case file doesn't have.
    (0, ("translate", f"{_CASES}/shared/four-level.json", "0x38000000000")),
    (0, ("replay", f"{_CASES}/known/amd-pml4e-bit-8.json")),
    (0, ("run",)),
    (0, ("run", "--paging", "5level")),
    (0, ("check", f"{_CASES}/linux-6.1-4level.json")),
    (0, ("nested", "--pairs", "3", "--accesses", "60", "--jobs", "1")),
    (0, ("matrix", "--select", "section=tlb-control", "--jobs", "1")),
    (0, ("fuzz", "--cases", "6", "--accesses", "600", "--jobs", "1", "--no-reduce")),
)
"""What is run, in this order, until a command ends with another status than is due.

FOLDER is where those sources are that are made for it.
"""


def noticed_by(mutant: Mutant, commands: Sequence[Command] = COMMANDS) -> str | None:
    """Return the command that notices a mutant, None if none does.

    A command that raises, or doesn't end, has noticed it as well: it doesn't say "agreement".
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.py"
        path.write_text(mutant.source, "utf-8")
        write_sources(Path(folder))
        ended = _run(commands, [import_name(mutant.module), str(path), folder])
    if ended is None:
        return "time"
    status, printed = ended
    if status == 0:
        return None
    return printed.strip().splitlines()[-1] if printed.strip() else "import"


def lines_of_both(
    modules: Sequence[str], commands: Sequence[Command] = COMMANDS
) -> set[tuple[str, int]]:
    """Return the lines of these modules, (module, line), that both sides run in the commands.

    `RuntimeError` if a command ends with another status than is due: then mutants
    can't be judged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        write_sources(Path(folder))
        ended = _run(commands, [",".join(modules), "--lines", str(path), folder])
        if ended is None or ended[0] != 0:
            reason = "it didn't end" if ended is None else ended[1].strip()
            raise RuntimeError(f"the product fails without any mutant: {reason}")
        rows = [line.split() for line in path.read_text("utf-8").splitlines()]
    return {(module, int(line)) for module, line in rows}


def _run(commands: Sequence[Command], arguments: Sequence[str]) -> tuple[int, str] | None:
    """Return the status of the program, and what it printed; None if it had to be killed."""
    command = [sys.executable, "-m", "scripts.mutation.commands", json.dumps(commands), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            printed = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Its own children, too.
    return None if printed is None else (process.returncode, printed)
