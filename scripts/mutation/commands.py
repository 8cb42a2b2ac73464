"""Runs the product's commands with another source in the place of a module.

`python -m scripts.mutation.commands COMMANDS MODULE FILE FOLDER`: COMMANDS are JSON, each a status
that is due and the words; FILE is the source of MODULE; FOLDER is what the word FOLDER in a command
stands for. It ends with 1, and prints the command, where one ends with another status. With
`--lines` and a file before FOLDER, MODULE are names with commas: nothing is replaced, and the file
gets the lines that both sides run.

Nothing of the project may be imported here before that is done.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.mutation.lines import traced
from scripts.mutation.mutants import Planted

_CPU_SECONDS = 120  # Of each process: a mutant may never end, and a machine may be busy.


def _main(arguments: Sequence[str]) -> int:
    commands = json.loads(arguments[0])
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    if arguments[2] == "--lines":
        _, names, _, target, folder = arguments
        with traced(names.split(",")) as lines:
            status = _run_commands(commands, folder)
        rows = "".join(f"{name} {line}\n" for name, line in sorted(lines()))
        Path(target).write_text(rows, "utf-8")
        return status
    _, name, path, folder = arguments
    if name in sys.modules:
        raise AssertionError(f"{name} has been imported before the mutant could be")
    sys.meta_path.insert(0, Planted(name, Path(path).read_text("utf-8")))
    return _run_commands(commands, folder)


def _run_commands(commands: Sequence[tuple[int, Sequence[str]]], folder: str) -> int:
    """Run all commands in this process; print the first that ends as it should not."""
    main = importlib.import_module("crosswalk.emu.cli.main").main
    out = sys.stdout
    for number, (due, command) in enumerate(commands):
        corpus = ("--corpus", f"{folder}/{number}") if command[0] == "fuzz" else ()
        status: object = "it raised"
        try:
            with (
                Path(os.devnull).open("w") as silence,
                contextlib.redirect_stdout(silence),
                contextlib.redirect_stderr(silence),
            ):
                status = main([*(word.replace("FOLDER", folder) for word in command), *corpus])
        finally:
            if status != due:
                print(" ".join(command), file=out, flush=True)
        if status != due:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
