"""Software states of entries, decoded in bulk by the table of a system."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import Leaves
from crosswalk.walker.columns import Rows
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = ["Field", "State", "StateKind", "States", "System"]

_UPPER = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True)
class Field:
    """A number in an entry: `bits` bits from bit `low` on, `inverted` where they are written so.

    `unit` is what one stands for: a physical address of frames has 4096. With `whole`, the bits
    below the size of the page that the entry stands for don't count. With `signed` the topmost bit
    is that of all bits above. `names` are those of values, for people.
    """

    name: str
    low: int
    bits: int
    inverted: bool = False
    unit: int = 1
    whole: bool = False
    signed: bool = False
    names: Sequence[str] = ()

    def of(self, entry: int, size: int) -> int:
        """Return the value in an entry that spans so many bytes."""
        word = ~entry if self.inverted else entry
        value = word >> self.low & (1 << self.bits) - 1
        if self.signed and value >> self.bits - 1:
            value |= (1 << 64) - (1 << self.bits)
        value *= self.unit
        return value & -size if self.whole else value


@dataclass(frozen=True, slots=True)
class StateKind:
    """A kind of state: its name, what it means, and the entries that are of it.

    An entry is of it if its bits in `mask` are `value`, and, where they say so, if its level is
    among `levels` and its address in the half that `upper` says. `at_least` and `below` are limits
    of the value of the first field, the latter not included. `flags` are the names of bits.
    """

    name: str
    meaning: str
    mask: int = 0
    value: int = 0
    levels: Sequence[int] = ()
    upper: bool | None = None
    fields: Sequence[Field] = ()
    flags: Mapping[str, int] | None = None
    at_least: int = 0
    below: int | None = None

    def holds(self, rows: Leaves) -> NDArray[np.bool_]:
        """Return which of n entries with P clear are of this kind, bool[n]."""
        found: NDArray[np.bool_] = rows.entry & np.uint64(self.mask) == np.uint64(self.value)
        if self.levels:
            found &= np.isin(rows.level, list(self.levels))
        if self.upper is not None:
            found &= (rows.va & _UPPER != 0) == self.upper
        if self.at_least or self.below is not None:
            field = self.fields[0]
            first = rows.entry >> np.uint64(field.low) & np.uint64((1 << field.bits) - 1)
            found &= first >= self.at_least
            found &= first < (1 << 64 if self.below is None else self.below)
        return found


@dataclass(frozen=True, slots=True)
class State:
    """The state of one entry: `size` bytes from `va`, an entry of `level`, and what it says.

    `fields` has its numbers by name, `flags` the names of its bits that are set.
    """

    va: int
    size: int
    level: int
    entry: int
    kind: StateKind
    fields: Mapping[str, int]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class States(Rows):
    """n entries with P clear, in address order, and the kind of each, as a number of its system.

    `va`, `entry` uint64[n]; `shift`, `level`, `kind` uint8[n]: each spans 1 << shift bytes.
    """

    va: U64
    entry: U64
    shift: NDArray[np.uint8]
    level: NDArray[np.uint8]
    kind: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)


@dataclass(frozen=True, slots=True)
class System:
    """What the entries of an operating system mean: of its kinds the first that holds counts.

    The last kind holds of every entry. `modes` are the paging modes whose layout this is.
    """

    name: str
    title: str
    kinds: Sequence[StateKind]
    modes: Sequence[PagingMode] = (PagingMode.LEVEL4, PagingMode.LEVEL5)

    def require(self, context: PagingContext) -> None:
        """Raise `BadInput` for a paging mode whose layout isn't this one."""
        if context.mode not in self.modes:
            modes = " and ".join(mode.value for mode in self.modes)
            raise BadInput(
                f"entries of {self.title} are known in {modes} paging, this is {context.mode.value}"
            )

    def states(self, rows: Leaves) -> States:
        """Return the states of n entries with P clear."""
        kind = np.full(len(rows), len(self.kinds), np.uint8)
        for number, each in enumerate(self.kinds):
            free = kind == len(self.kinds)
            kind[free & each.holds(rows)] = number
        return States(rows.va, rows.entry, rows.shift, rows.level, kind)

    def each(self, states: States) -> Iterator[State]:
        """Yield states one by one, with the fields and flags of each."""
        columns = (states.va, states.entry, states.shift, states.level, states.kind)
        for va, entry, shift, level, number in zip(*(it.tolist() for it in columns), strict=True):
            kind, size = self.kinds[number], 1 << shift
            fields = {field.name: field.of(entry, size) for field in kind.fields}
            flags = tuple(name for name, bit in (kind.flags or {}).items() if entry >> bit & 1)
            yield State(va, size, level, entry, kind, fields, flags)
