"""What all families share: numbers, and goals that ask for an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emu.fuzz.coverage.family import Numbers
from emu.fuzz.coverage.seen import Shown
from emu.fuzz.goal import BITS, CONTROLS, End, Goal
from walker.access import AccessType
from walker.entry import Entry

__all__ = [
    "ABSENT", "COLUMNS", "DENIED", "FETCH", "KEY", "NAMES", "OK", "READ", "REGISTERS",
    "RESERVED", "WRITE", "Bools", "number", "on_leaf", "with_answer",
]  # fmt: skip

Bools = NDArray[np.bool_]

OK, ABSENT, RESERVED, DENIED, KEY = range(5)
"""Numbers of `ANSWERS`."""
READ, WRITE, FETCH = (kind.value for kind in AccessType)
REGISTERS = tuple(name for name in CONTROLS if name != "ac")
"""Control bits that are one for a whole layout."""
NAMES = tuple(name for name in BITS if name not in {"p", "pat"})
"""Bits that mean, or should not mean, something in every present entry."""
COLUMNS = [list(BITS).index(name) for name in NAMES]
"""Where they are among `MASKS`."""

_WALKED = np.array([False, True, True, True, True, True])


def number(shape: Sequence[int], *columns: NDArray[Any]) -> Numbers:
    """Return the numbers of cells in a family of this shape; the columns are broadcast."""
    broadcast = np.broadcast_arrays(*[column.astype(np.int64) for column in columns])
    found: Numbers = np.ravel_multi_index(tuple(broadcast), tuple(shape)).ravel()
    return found


def on_leaf(shown: Shown) -> tuple[Bools, Bools]:
    """Return bool[n], which accesses come to a page, and bool[m], which pages are the user's."""
    leaf: Bools = (shown.how == End.LEAF)[shown.page]
    kept = (shown.entry & np.uint64(Entry.US)) != 0
    user: Bools = (kept | ~shown.used).all(axis=1, where=_WALKED) & (shown.how == End.LEAF)
    return leaf, user


def with_answer(goal: Goal, answer: int) -> Goal:
    """Ask for what makes a page refuse, beside what a goal asks for."""
    if answer not in (DENIED, KEY):
        return goal
    taken = {(level, name) for level, name, _ in goal.bits}
    control = dict(goal.control)
    bits = list(goal.bits)
    key, pkru = goal.key, goal.pkru
    if answer == KEY:
        control.setdefault("pke", True)
        control.setdefault("wp", True)
        key, pkru = (5 if key is None else key), (3 if pkru is None else pkru)
    elif goal.access is AccessType.EXECUTE:
        level = next((at for at in (4, 3, 2, 1) if (at, "xd") not in taken), 4)
        bits.append((level, "xd", True))
        control.setdefault("nxe", True)
    elif goal.cpl == 3:
        level = next((at for at in (4, 3, 2, 1) if (at, "us") not in taken), 4)
        bits.append((level, "us", False))
    elif goal.access is AccessType.WRITE:
        level = next((at for at in (4, 3, 2, 1) if (at, "rw") not in taken), 4)
        bits.append((level, "rw", False))
        control.setdefault("wp", True)
    else:
        control.setdefault("smap", True)
        control.setdefault("ac", False)
    return Goal(
        control=control,
        level=goal.level,
        end=goal.end,
        bits=tuple(bits),
        reserved=goal.reserved,
        key=key,
        pkru=pkru,
        access=goal.access,
        cpl=goal.cpl,
    )
