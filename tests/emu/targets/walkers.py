"""Walkers to put under test, and address spaces to ask them about."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from crosswalk.emu.targets.registry import open_target
from crosswalk.walker.columns import Accesses
from tests.tables import OPEN, PS, XD, P, PageTables, context

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "examples"
HEADER = ROOT / "emu" / "targets"

PAGE, READ_ONLY, LARGE, HOLE = 0x40_0000, 0x40_1000, 0x4000_0000, 0x80_0000


def space(levels=4):
    """A page, a read-only page, a 2-MiB page; `HOLE` isn't mapped."""
    return (
        PageTables(levels, ram=((0, 1 << 24),))
        .map(PAGE, 0x20_0000, OPEN)
        .map(READ_ONLY, 0x20_1000, P | XD)
        .map(LARGE, 0x60_0000, OPEN | PS, level=2)
    )


def reads(*addresses):
    """A read at CPL 0 of each address."""
    count = len(addresses)
    return every(*addresses).take(slice(0, 6 * count, 6))


def every(*addresses):
    """All six accesses of each address."""
    return Accesses.product(np.array(addresses, np.uint64), ac=False)


def python_walker(folder, body, name="its"):
    """`--walker` for a function `f` in a new file."""
    path = folder / f"{name}.py"
    path.write_text(body)
    return f"python:{path}:f"


def script(folder, body, name="process.py"):
    """`--walker` for a process that runs this Python."""
    path = folder / name
    path.write_text(body)
    return f"exec:{sys.executable} {path}"


def compiled(source, target, *options):
    """Compile C; a compiler that isn't there is a failure like another."""
    command = ["cc", "-Wall", "-Wextra", "-Werror", *options, f"-I{HEADER}", "-o", target, source]
    subprocess.run([str(part) for part in command], check=True)
    return target


def library(folder, body, name="its"):
    """`--walker` for a shared library of this C."""
    source = folder / f"{name}.c"
    source.write_text('#include "crosswalk.h"\n#include <stdlib.h>\n' + body)
    return f"c:{compiled(source, folder / f'{name}.so', '-shared', '-fPIC')}"


def failures(walker, accesses, **given):
    """How a walker fails to answer, and the accesses that show each failure."""
    return [
        (each.failure, each.accesses.va.tolist())
        for each in answers(walker, accesses, **given).failures
    ]


def answers(walker, accesses, *, levels=4, limits=None, claims=None, **switches):
    """What a walker says of accesses to `space`."""
    target = open_target(walker, limits, claims=claims)
    try:
        return target.answer(space(levels).memory, context(levels, **switches), accesses)
    finally:
        target.close()
