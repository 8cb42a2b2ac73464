"""What all families share: numbers, and targets that ask for an answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.coverage.family import Numbers
from crosswalk.emu.fuzz.coverage.seen import Shown
from crosswalk.emu.fuzz.target import BITS, CONTROLS, End, Target
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


def with_answer(target: Target, answer: int) -> Target:
    """Ask for what lets a page allow or refuse the access, beside what a target asks for."""
    if answer == OK:
        return _allowed(target)
    if answer == DENIED:
        return _denied(target)
    if answer == KEY:
        control = {"pke": True, "wp": True, **target.control}
        clear = (target.level, "key", False) in target.bits
        key = (0 if clear else 5) if target.key is None else target.key
        return replace(
            target, control=control, key=key, pkru=3 if target.pkru is None else target.pkru
        )
    return target


def _allowed(target: Target) -> Target:
    """Keep SMEP and keys from refusing it; SMAP is asked with AC set as well."""
    if target.access is not AccessType.EXECUTE:
        if target.control.get("pke") and target.pkru is None:
            return replace(target, key=target.key or 0, pkru=0)
        return target
    level = _free(target, "us")
    if target.cpl or any(name == "us" and not value for _, name, value in target.bits):
        return target
    if target.control.get("smep") and level is not None:
        return replace(target, bits=(*target.bits, (level, "us", False)))
    return replace(target, control={"smep": False, **target.control})


def _denied(target: Target) -> Target:
    """Withhold a right that the target leaves open at some level, or else turn SMEP or SMAP on."""
    fetch = target.access is AccessType.EXECUTE
    for name, withheld, concerns, control in (
        ("xd", True, fetch, {"nxe": True}),
        ("us", False, target.cpl == 3, {}),
        ("rw", False, target.access is AccessType.WRITE, {} if target.cpl else {"wp": True}),
    ):
        level = _free(target, name)
        possible = all(target.control.get(each, value) is value for each, value in control.items())
        if concerns and possible and level is not None:
            bits = (*target.bits, (level, name, withheld))
            return replace(target, control={**control, **target.control}, bits=bits)
    guard = {"smep": True} if fetch else {"smap": True, "ac": False}
    return replace(target, control={**guard, **target.control})


def _free(target: Target, name: str) -> int | None:
    """Return a level of the path at which the target says nothing of this bit, if there is one."""
    taken = {level for level, each, _ in target.bits if each == name}
    return next((at for at in range(4, (target.level or 1) - 1, -1) if at not in taken), None)
