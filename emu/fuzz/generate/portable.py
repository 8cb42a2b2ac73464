"""Portable layouts: tables and pages where machines have RAM, so that any machine can be asked.

A PC has RAM from 1 MiB up, and 2 GiB of it below 4 GiB can be had everywhere. A part of that is
left to the code that asks the questions there.
"""

import numpy as np

from crosswalk.emu.fuzz.generate.formats import TableFormat
from crosswalk.emu.fuzz.generate.path_plan import RW, US, XD, PathPlan
from crosswalk.emu.fuzz.target import End
from crosswalk.walker.memory import U64

__all__ = ["PORTABLE_RAM", "in_portable_ram", "made_portable", "portable_pages"]

PORTABLE_RAM = ((0x10_0000, 0x7F0_0000), (0xC00_0000, 0x7400_0000))
"""RAM of portable layouts, as (start, size): 1 MiB to 2 GiB without what is left to the runner."""

_GIB = np.uint64(1 << 30)
_LAST_PAGE = 4
"""One layout of so many has a path to the last page of all."""


def in_portable_ram(pa: U64, size: U64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return bool[n]: which ranges of these sizes lie in RAM as a whole."""
    found = np.zeros(len(pa), np.bool_)
    for start, length in PORTABLE_RAM:
        end = np.uint64(start + length)
        found |= (pa >= np.uint64(start)) & (size <= end - np.minimum(pa, end))
    return found


def portable_pages(number: U64, sizes: U64) -> U64:
    """Return for each size the address of a page of it in RAM, chosen by a random number.

    Of 1 GiB there is one such page.
    """
    found = np.full(len(number), _GIB, np.uint64)
    for size in np.unique(sizes[sizes < _GIB]).tolist():
        rows = sizes == np.uint64(size)
        starts = np.arange(0, 2 << 30, size, dtype=np.uint64)
        starts = starts[in_portable_ram(starts, np.full(len(starts), size, np.uint64))]
        found[rows] = starts[number[rows] % np.uint64(len(starts))]
    return found


def made_portable(chance: np.random.Generator, plan: PathPlan, form: TableFormat) -> None:
    """Change a plan: no walk leaves RAM, and some lead to the last page of the address space.

    Behind that page's last byte there is none: a machine that looks further goes wrong there.
    """
    plan.end[plan.end == End.OUTSIDE] = End.ABSENT
    if form.long and len(plan) > len(plan.targets) and chance.integers(_LAST_PAGE) == 0:
        for level, entries in form.counts.items():
            plan.index[-1, level] = entries - 1
        plan.level[-1], plan.end[-1], plan.broken[-1] = 1, End.LEAF, -1
        if chance.integers(2):
            plan.flags[-1] |= RW | US
            plan.flags[-1] &= ~XD
