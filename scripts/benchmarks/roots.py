"""The search for roots in memories of growing size: a tenth of each is written, the rest a hole."""

import sys
import tempfile
import tracemalloc
from pathlib import Path
from statistics import median
from subprocess import run
from time import process_time
from typing import Any

import numpy as np

from crosswalk.walker.formats import open_contents
from crosswalk.walker.roots import find_roots
from scripts.benchmarks.spaces import address_spaces

__all__ = ["SIZES", "judge_roots", "measured_roots", "show_roots"]

SIZES = (128, 512, 1_024, 2_048, 4_096, 8_192)
"""In MiB."""
_PROCESSES = 100
_AT = 16 << 20
_ADDRESS, _PAGES = 0x000F_FFFF_FFFF_F000, 1 << 32
_EVERY, _PIECE = 40, 1
"""Every 40 MiB there are 4 pieces of 1 MiB: code, text, random bytes, and pointers."""
_TEXT = b"In the beginning there was a page, and the page was not present. "
_GOAL = 20.0
"""Seconds of CPU time for 4 GiB, at most."""

Row = dict[str, Any]


def write_memory(path: Path, mebibytes: int) -> set[int]:
    """Write a raw image of so many MiB, and return the roots in it."""
    memory, contexts = address_spaces(_PROCESSES)
    tables = np.frombuffer(memory.read(*memory.ranges[0]), np.uint64).copy()
    # No system has tables in the first frames of memory; the pages lie far above them.
    tables[(tables != 0) & (tables & np.uint64(_ADDRESS) < _PAGES)] += np.uint64(_AT)
    random = np.random.default_rng(7)
    size = _PIECE << 20
    code = Path(sys.executable).resolve().read_bytes()
    pointers = random.integers(0, mebibytes << 17, size // 8).astype(np.uint64) * np.uint64(8)
    pieces = (
        (code * (size // len(code) + 1))[:size],
        (_TEXT * (size // len(_TEXT) + 1))[:size],
        random.bytes(size),
        (pointers | np.uint64(0xFFFF_8880_0000_0000)).tobytes(),
    )
    with path.open("wb") as file:
        file.seek(_AT)
        file.write(tables.tobytes())
        for first in range(24, mebibytes - len(pieces), _EVERY):
            file.seek(first << 20)
            file.writelines(pieces)
        file.truncate(mebibytes << 20)
    return {context.root + _AT for context in contexts}


def measured_roots(turns: int, sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Return for each size of memory CPU seconds and peak memory of a search.

    `AssertionError` where other roots are found than were made.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mebibytes in sizes:
            path = Path(folder) / "memory"
            made = write_memory(path, mebibytes)
            taken = []
            for _ in range(turns):
                start = process_time()
                found = find_roots(open_contents(path))
                taken.append(process_time() - start)
                if made != {each.context.root for each in found}:
                    raise AssertionError(f"{mebibytes} MiB: other roots are found than were made")
            rows.append({"mebibytes": mebibytes, "seconds": median(taken), "bytes": _peak(path)})
            path.unlink()
    return rows


def _peak(path: Path) -> int:
    """Return the peak of what a search in a fresh process allocates, in bytes."""
    command = [sys.executable, "-m", "scripts.benchmarks.roots", str(path)]
    return int(run(command, check=True, capture_output=True, text=True).stdout)


def show_roots(rows: list[Row]) -> None:
    """Print times and memory."""
    print(f"the search for {_PROCESSES} roots in a raw image, CPU time, and peak memory\n")
    print("".join(f"{head:>12}" for head in ("MiB", "seconds", "MiB/s", "memory")))
    for row in rows:
        cells = (
            f"{row['mebibytes']:,}",
            f"{row['seconds']:,.2f} s",
            f"{row['mebibytes'] / row['seconds']:,.0f}",
            f"{row['bytes'] / (1 << 20):,.1f} MiB",
        )
        print("".join(f"{cell:>12}" for cell in cells))
    print()


def judge_roots(rows: list[Row]) -> list[Row]:
    """Return the goal of the search: what, found, meant."""
    seconds = {row["mebibytes"]: row["seconds"] for row in rows}
    if 4_096 not in seconds:
        return []
    return [{"goal": "roots in 4 GiB, s", "found": seconds[4_096], "most": _GOAL}]


if __name__ == "__main__":
    contents = open_contents(sys.argv[1])
    tracemalloc.start()
    find_roots(contents)
    print(tracemalloc.get_traced_memory()[1])
