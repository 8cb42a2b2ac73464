"""Many address spaces that share a kernel's half: all together, beside a loop over them."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from statistics import median
from time import thread_time
from typing import Any

import numpy as np

from crosswalk.walker import (
    Frames,
    PagingContext,
    Segments,
    collective_rights,
    count_mappings,
    writable_and_executable,
)
from crosswalk.walker.frames import united_frames

__all__ = ["COUNTS", "judge_spaces", "measured_spaces", "show_spaces"]

COUNTS = (1, 10, 100, 1_000)
_KERNEL_TABLES = 160
"""Page tables of the kernel, all full: 81,920 mappings, as of a system of 256 MiB."""
_OWN_PAGES, _OWN_TABLES = 250, 2
_TABLE, _XD = 0x67, 1 << 63
_FRAME, _WORDS = 4096, 512
_PAGES = 1 << 32
"""Where the pages lie: far above the tables, which nothing may map."""
_GOAL = 10.0
"""1,000 roots may cost so many times what 10 do: they have more than 15 times as many tables."""

Row = dict[str, Any]
Ways = dict[str, Callable[[Segments, list[PagingContext]], Frames]]


def address_spaces(count: int) -> tuple[Segments, list[PagingContext]]:
    """Return memory with the tables of so many processes, and their contexts.

    The kernel's half is one PDPT, in slot 273 of every root. Each process has two page tables of
    its own, with 250 pages each, in its first and last slot. A page of the kernel and one of the
    last process are both writable and executable.
    """
    random = np.random.default_rng(7)
    own = 1 + 3 * _OWN_TABLES
    tables = np.zeros((2 + _KERNEL_TABLES + own * count, _WORDS), np.uint64)
    flags = np.array([0x163 | _XD, 0x121 | _XD, 0x121, 0x163], np.uint64)
    tables[0, 0] = _FRAME | _TABLE
    tables[1, :_KERNEL_TABLES] = (np.arange(_KERNEL_TABLES, dtype=np.uint64) + 2) * _FRAME | _TABLE
    pages = np.arange(_KERNEL_TABLES * _WORDS, dtype=np.uint64)
    kinds = flags[np.repeat(random.integers(0, 3, len(pages) // 64), 64)]
    tables[2 : 2 + _KERNEL_TABLES] = (_PAGES + pages * _FRAME | kinds).reshape(-1, _WORDS)
    tables[2, 0] = _PAGES | 0x163
    roots = []
    page = _PAGES + len(pages) * _FRAME
    for number in range(count):
        root = 2 + _KERNEL_TABLES + own * number
        roots.append(root * _FRAME)
        tables[root, 273] = _TABLE
        for at, slot in enumerate((0, 255)):
            first = root + 1 + 3 * at
            for table, index, below in (
                (root, slot, first),
                (first, slot, first + 1),
                (first + 1, slot, first + 2),
            ):
                tables[table, index] = below * _FRAME | _TABLE
            mine = page + np.arange(_OWN_PAGES, dtype=np.uint64) * _FRAME
            tables[first + 2, :_OWN_PAGES] = mine | (0x25 if at else 0x67 | _XD)
            page += _OWN_PAGES * _FRAME
    tables[-1, 0] |= 0x2
    memory = Segments([(0, tables.view(np.uint8).reshape(-1))])
    return memory, [PagingContext(cr3=root) for root in roots]


_WAYS: Ways = {
    "together": collective_rights,
    "loop": lambda memory, contexts: united_frames(
        [collective_rights(memory, each) for each in contexts]
    ),
}


def measured_spaces(turns: int, counts: tuple[int, ...] = COUNTS) -> list[Row]:
    """Return for each number of roots CPU seconds and peak memory of either way.

    And CPU seconds of the search for what is writable and executable. `AssertionError` where the
    two ways differ.
    """
    rows = []
    for count in counts:
        memory, contexts = address_spaces(count)
        found = {name: run(memory, contexts) for name, run in _WAYS.items()}
        if list(found["together"]) != list(found["loop"]):
            raise AssertionError(f"{count} roots: together and loop differ")
        row: Row = {
            "roots": count,
            "tables": memory.ranges[0][1] // _FRAME,
            "mappings": sum(count_mappings(memory, contexts).values()),
        }
        for name, run in _WAYS.items():
            row[name] = _seconds(turns, run, memory, contexts)
            row[f"{name} bytes"] = _peak(name, count)
        row["w^x"] = _seconds(turns, _search, memory, contexts)
        rows.append(row)
    return rows


def _search(memory: Segments, contexts: list[PagingContext]) -> Frames:
    frames = collective_rights(memory, contexts)
    found = writable_and_executable(memory, contexts, frames, aliases=4)
    if len(found) != 2:
        raise AssertionError(f"{len(found)} frames are writable and executable, not 2")
    return frames


def _seconds(
    turns: int,
    run: Callable[[Segments, list[PagingContext]], Frames],
    memory: Segments,
    contexts: list[PagingContext],
) -> float:
    taken = []
    for _ in range(turns):
        start = thread_time()
        run(memory, contexts)
        taken.append(thread_time() - start)
    return median(taken)


def _peak(name: str, count: int) -> int:
    """Return the peak of what one run in a fresh process allocates, in bytes."""
    command = [sys.executable, "-m", "scripts.benchmarks.spaces", name, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def show_spaces(rows: list[Row]) -> None:
    """Print the times and their ratios."""
    print("collective rights of many address spaces, CPU time, and peak memory\n")
    heads = ("roots", "mappings", "tables", "together", "memory", "loop", "memory", "ratio", "W^X")
    print("".join(f"{head:>12}" for head in heads))
    for row in rows:
        cells = [
            *(f"{row[name]:,}" for name in ("roots", "mappings", "tables")),
            *(
                text
                for name in ("together", "loop")
                for text in (
                    f"{1000 * row[name]:,.1f} ms",
                    f"{row[f'{name} bytes'] / (1 << 20):,.1f} MiB",
                )
            ),
            f"{row['loop'] / row['together']:.1f} ×",
            f"{1000 * row['w^x']:,.1f} ms",
        ]
        print("".join(f"{cell:>12}" for cell in cells))
    print()


def judge_spaces(rows: list[Row]) -> list[Row]:
    """Return the goals of many address spaces: what, found, meant."""
    seconds = {row["roots"]: row["together"] for row in rows}
    if not {10, 1_000} <= set(seconds):
        return []
    ratio = seconds[1_000] / seconds[10]
    return [{"goal": "1,000 roots together, × 10 roots", "found": ratio, "most": _GOAL}]


def _main(name: str, count: str) -> None:
    memory, contexts = address_spaces(int(count))
    tracemalloc.start()
    _WAYS[name](memory, contexts)
    print(tracemalloc.get_traced_memory()[1])


if __name__ == "__main__":
    _main(*sys.argv[1:])
