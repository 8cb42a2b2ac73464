"""What all families share: numbers, and goals that ask for an answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.coverage.family import Numbers
from crosswalk.emu.fuzz.coverage.seen import Shown
from crosswalk.emu.fuzz.target import BITS, CONTROLS, End, Goal
from crosswalk.walker.access import AccessType
from crosswalk.walker.entry import Entry

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
    """Ask for what lets a page allow or refuse the access, beside what a goal asks for."""
    if answer == OK:
        return _allowed(goal)
    if answer == DENIED:
        return _denied(goal)
    if answer == KEY:
        control = {"pke": True, "wp": True, **goal.control}
        clear = (goal.level, "key", False) in goal.bits
        key = (0 if clear else 5) if goal.key is None else goal.key
        return replace(goal, control=control, key=key, pkru=3 if goal.pkru is None else goal.pkru)
    return goal


def _allowed(goal: Goal) -> Goal:
    """Keep SMEP and keys from refusing it; SMAP is asked with AC set as well."""
    if goal.access is not AccessType.EXECUTE:
        if goal.control.get("pke") and goal.pkru is None:
            return replace(goal, key=goal.key or 0, pkru=0)
        return goal
    level = _free(goal, "us")
    if goal.cpl or any(name == "us" and not value for _, name, value in goal.bits):
        return goal
    if goal.control.get("smep") and level is not None:
        return replace(goal, bits=(*goal.bits, (level, "us", False)))
    return replace(goal, control={"smep": False, **goal.control})


def _denied(goal: Goal) -> Goal:
    """Withhold a right that the goal leaves open at some level, or else turn SMEP or SMAP on."""
    fetch = goal.access is AccessType.EXECUTE
    for name, withheld, concerns, control in (
        ("xd", True, fetch, {"nxe": True}),
        ("us", False, goal.cpl == 3, {}),
        ("rw", False, goal.access is AccessType.WRITE, {} if goal.cpl else {"wp": True}),
    ):
        level = _free(goal, name)
        possible = all(goal.control.get(each, value) is value for each, value in control.items())
        if concerns and possible and level is not None:
            bits = (*goal.bits, (level, name, withheld))
            return replace(goal, control={**control, **goal.control}, bits=bits)
    guard = {"smep": True} if fetch else {"smap": True, "ac": False}
    return replace(goal, control={**guard, **goal.control})


def _free(goal: Goal, name: str) -> int | None:
    """Return a level of the path at which the goal says nothing of this bit, if there is one."""
    taken = {level for level, each, _ in goal.bits if each == name}
    return next((at for at in range(4, (goal.level or 1) - 1, -1) if at not in taken), None)
