"""A family of cells: a product of dimensions, some combinations of which are impossible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.coverage.walks import ANSWERS, Walks
from crosswalk.emu.fuzz.target import BITS, CONTROLS, CoverageTarget
from crosswalk.walker.access import AccessType

__all__ = [
    "ABSENT", "ANSWER", "AXES", "DENIED", "FETCH", "KEY", "MASKS", "NAMES", "OK", "READ",
    "REGISTERS", "RESERVED", "WRITE", "Axis", "Bools", "Family", "Numbers", "number", "spread",
    "with_answer",
]  # fmt: skip

Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension: its name, and the names of its values."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Cells by number, in the order of their axes.

    `possible` broadcasts to the shape of the axes: the cells that there can be. `touch(walks)`
    returns the numbers of the cells that accesses touch, or bool of that shape; None for a family
    that isn't about single accesses. `target(values)` returns a target that touches a cell; None
    where no target for one path can.
    """

    name: str
    axes: tuple[Axis, ...]
    possible: NDArray[np.bool_]
    touch: Callable[[Walks], Numbers | NDArray[np.bool_]] | None = None
    target: Callable[[tuple[int, ...]], CoverageTarget] | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis."""
        return tuple(len(axis.labels) for axis in self.axes)

    @cached_property
    def size(self) -> int:
        """The number of cells."""
        return int(np.prod(self.shape))

    def reachable(self) -> NDArray[np.bool_]:
        """Return bool[size]: the cells that there can be."""
        return np.broadcast_to(self.possible, self.shape).ravel()

    def values(self, number: int) -> tuple[int, ...]:
        """Return the values of a cell, one an axis."""
        values = []
        for size in reversed(self.shape):
            number, value = divmod(number, size)
            values.append(value)
        return tuple(reversed(values))

    def describe(self, number: int) -> str:
        """Return a cell in words."""
        return ", ".join(
            f"{axis.name} {axis.labels[value]}"
            for axis, value in zip(self.axes, self.values(number), strict=True)
        )


ANSWER = Axis("answer", ANSWERS)
AXES = {
    "type": Axis("access", ("read", "write", "execute")),
    "user": Axis("CPL", ("0", "3")),
    "value": Axis("value", ("0", "1")),
    "level": Axis("level", ("PTE", "PDE", "PDPTE", "PML4E", "PML5E")),
    "size": Axis("page", ("4 KiB", "2 MiB", "1 GiB")),
    "whose": Axis("page of", ("supervisor", "user")),
}


def spread(*shape: int) -> list[NDArray[np.intp]]:
    """Return an index array for each dimension, from which conditions on cells are built."""
    return list(np.ogrid[tuple(slice(0, size) for size in shape)])


OK, ABSENT, RESERVED, DENIED, KEY = range(5)
"""Indices in `ANSWERS`."""
READ, WRITE, FETCH = (kind.value for kind in AccessType)
REGISTERS = tuple(name for name in CONTROLS if name != "ac")
"""Control bits that have one value for a whole layout."""
NAMES = tuple(name for name in BITS if name not in {"p", "pat"})
"""Bits that have a meaning, or must not have one, in every present entry."""
MASKS = np.array([sum(1 << bit for bit in BITS[name]) for name in NAMES], np.uint64)
"""The bits of each of `NAMES`."""


def number(shape: Sequence[int], *columns: NDArray[Any]) -> Numbers:
    """Return the numbers of cells in a family of this shape; the columns are broadcast."""
    broadcast = np.broadcast_arrays(*[column.astype(np.int64) for column in columns])
    found: Numbers = np.ravel_multi_index(tuple(broadcast), tuple(shape)).ravel()
    return found


def with_answer(target: CoverageTarget, answer: int) -> CoverageTarget:
    """Return the target with what makes a page allow or refuse the access."""
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


def _allowed(target: CoverageTarget) -> CoverageTarget:
    """Keep SMEP and keys from refusing it; with SMAP, AC is set in half of the accesses."""
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


def _denied(target: CoverageTarget) -> CoverageTarget:
    """Withhold a right at a level that the target leaves open, or else set SMEP or SMAP."""
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


def _free(target: CoverageTarget, name: str) -> int | None:
    """Return a level of the path at which the target leaves this bit open, if there is one."""
    taken = {level for level, each, _ in target.bits if each == name}
    return next((at for at in range(4, (target.level or 1) - 1, -1) if at not in taken), None)
