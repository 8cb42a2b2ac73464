"""The mappings of an address space as columns: what listings, filters and comparisons look at."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import LEVEL_OF_SHIFT
from crosswalk.walker.columns import Rows
from crosswalk.walker.leaves import TOP, Leaves, Through, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import Rights, rights_table
from crosswalk.walker.second_level import TableContext

__all__ = ["Mapping", "Pages", "pages", "pages_of", "pages_of_leaves"]

_AHEAD = 1024
# One object for each set of rights: making one anew costs more than all else of a mapping.
_RIGHTS = [Rights(bits) for bits in range(64)]


@dataclass(frozen=True, slots=True)
class Mapping:
    """One leaf: `size` bytes from `va` are those from `pa`.

    `level` is 1 for a PTE, 2 for a PDE, 3 for a PDPTE; `flags` are the leaf's bits outside its
    address field; `rights` are the effective ones.
    """

    va: int
    pa: int
    size: int
    level: int
    flags: int
    rights: Rights


@dataclass(frozen=True, slots=True)
class Pages(Rows):
    """n mappings of one address space, in address order.

    `va`, `pa` uint64[n]; `flags` uint64[n], the bits of the leaf outside its address field;
    `rights` uint8[n], the effective `Rights`; `shift` uint8[n]: each spans 1 << shift bytes.
    """

    va: U64
    pa: U64
    flags: U64
    rights: NDArray[np.uint8]
    shift: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)

    def __iter__(self) -> Iterator[Mapping]:
        """Yield each as a `Mapping`."""
        columns = (self.va, self.pa, self.size, self.level, self.flags, self.rights)
        for va, pa, size, level, flags, rights in zip(*(c.tolist() for c in columns), strict=True):
            yield Mapping(va, pa, size, level, flags, _RIGHTS[rights])

    @property
    def size(self) -> U64:
        """The bytes that each maps, uint64[n]; read-only where all are of one size."""
        shift = self.shift
        if len(shift) and shift.min() == shift.max():
            return np.broadcast_to(np.uint64(1) << np.uint64(shift[0]), shift.shape)
        return np.uint64(1) << shift.astype(np.uint64)

    @property
    def level(self) -> NDArray[np.uint8]:
        """The level of each leaf, uint8[n]: 1 is a PTE, 2 a PDE, 3 a PDPTE."""
        return LEVEL_OF_SHIFT.take(self.shift)


def pages(
    memory: PhysicalMemory,
    context: TableContext,
    start: int = 0,
    end: int = TOP,
    *,
    through: Through | None = None,
) -> Iterator[Pages]:
    """Yield all mappings whose pages touch [start, end), in address order, block by block.

    Bounded in memory and in what is read ahead, as `walk_leaves` is; `through` is its argument.
    """
    for leaves in walk_leaves(memory, context, start, end, through=through):
        yield pages_of_leaves(leaves, context)


def pages_of_leaves(leaves: Leaves, context: TableContext) -> Pages:
    """Return the mappings of these leaves, with their rights under the context."""
    rights = rights_table(context).take(leaves.grant)
    return Pages(leaves.va, leaves.pa, leaves.flags, rights, leaves.shift)


def pages_of(mappings: Iterable[Mapping]) -> Iterator[Pages]:
    """Yield mappings as columns, in the order given; reads ahead up to so many: 1024."""
    ahead = iter(mappings)
    while some := list(islice(ahead, _AHEAD)):
        yield Pages(
            np.array([page.va for page in some], np.uint64),
            np.array([page.pa for page in some], np.uint64),
            np.array([page.flags for page in some], np.uint64),
            np.array([page.rights for page in some], np.uint8),
            np.array([page.size.bit_length() - 1 for page in some], np.uint8),
        )
