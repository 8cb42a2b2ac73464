"""A tree of this project, this one or an older one, whose command is measured from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["HERE", "Row", "Tree"]

HERE = Path(__file__).resolve().parents[2]
"""The root of this tree."""

_FOLDERS = ("emu", "guest", "walker")
# Runs the command, and prints what the process and its children took.
_WRAPPER = """
import contextlib, importlib, io, json, resource, sys, time
main = importlib.import_module(sys.argv[1]).main
began, out = time.perf_counter(), io.StringIO()
with contextlib.redirect_stdout(out):
    status = main(sys.argv[2:])
used = {"wall": time.perf_counter() - began, "status": status}
for name, who in ("parent", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN):
    usage = resource.getrusage(who)
    used[name] = {"cpu": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
print(json.dumps({"used": used, "summary": json.loads(out.getvalue())}))
"""

Row = dict[str, Any]


class Tree:
    """A tree: its folder, and its name in the results; `ValueError` where the folder holds none.

    In trees older than the package `crosswalk` the folders were imported by their own names.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder.resolve()
        if not (self._folder / "emu" / "cli" / "main.py").is_file():
            raise ValueError(f"{folder} is no tree of this project")
        self._facade = self._folder / "facade"

    def run(self, *arguments: str) -> Row:
        """Return what a command prints with --json, and what it used, as `summary` and `used`.

        `used` has seconds of wall time, the status, and for the `parent` and its `workers` seconds
        of CPU time and the peak of memory in MiB.
        """
        found: Row = json.loads(self.python(_WRAPPER, self.module("emu.cli.main"), *arguments))
        return found

    def module(self, name: str) -> str:
        """Return the name that a module of the folders is imported by in this tree."""
        return f"crosswalk.{name}" if self._facade.is_dir() else name

    def python(self, code: str, *arguments: str) -> str:
        """Return what Python prints that runs this code in the tree: its own, if it has one.

        `ValueError` where that fails.
        """
        own = self._folder / ".venv" / "bin" / "python"
        with TemporaryDirectory() as links:
            # As scripts/setup makes it: one folder that has all parts of the package.
            path = str(self._folder)
            if self._facade.is_dir():
                path = links
                package = Path(links) / "crosswalk"
                package.mkdir()
                for part in (*self._facade.glob("*.py"), *map(self._folder.joinpath, _FOLDERS)):
                    (package / part.name).symlink_to(part)
            done = subprocess.run(
                [str(own) if own.exists() else sys.executable, "-c", code, *arguments],
                check=False,
                capture_output=True,
                text=True,
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": path},
            )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise ValueError(
                f"{self._folder} can't be run: {' '.join(last)} (scripts/setup there?)"
            )
        return done.stdout
