"""A family of cells: one product of dimensions, some combinations of which can't be."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.coverage.seen import ANSWERS, Shown
from crosswalk.emu.fuzz.target import Target

__all__ = ["ANSWER", "AXES", "Axis", "Family", "Numbers", "spread"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension: its name, and what its values are called."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Cells by number, in the order of their axes.

    `possible` broadcasts to the shape of the axes: which cells there can be. `touch(shown)`
    returns the numbers of the cells that accesses touch, or bool of that shape; None for a family
    that is about something else. `target(values)` is what would touch one; None where no target for
    one path can say it.
    """

    name: str
    axes: tuple[Axis, ...]
    possible: NDArray[np.bool_]
    touch: Callable[[Shown], Numbers | NDArray[np.bool_]] | None = None
    target: Callable[[tuple[int, ...]], Target] | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis."""
        return tuple(len(axis.labels) for axis in self.axes)

    @cached_property
    def size(self) -> int:
        """The number of cells."""
        return int(np.prod(self.shape))

    def reachable(self) -> NDArray[np.bool_]:
        """Return bool[size]: which cells there can be."""
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
    """Return an index array for each dimension, to say in which cells something holds."""
    return list(np.ogrid[tuple(slice(0, size) for size in shape)])
