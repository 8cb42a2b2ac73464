"""Composites, accesses of more than one byte or in more than one step, as columns; outcomes."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.paths import MAX_LEVELS
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Rows
from crosswalk.walker.memory import FRAME, U64

__all__ = [
    "FORMS",
    "NAMES",
    "SAME_PKRU",
    "WORDS_SEEN",
    "CompositeOutcomes",
    "Composites",
    "Family",
    "Form",
]

WORDS_SEEN = 2 * MAX_LEVELS
"""The most words that a composite changes: those of two walks."""

_IN_SLOT = np.uint64(15)

SAME_PKRU = -1
"""In `then_pkru`: PKRU isn't written between two accesses."""


class Family(StrEnum):
    """How accesses are put together."""

    RMW = "rmw"
    """A locked read-modify-write of one byte."""
    CROSS = "cross"
    """One access of eight bytes, or the fetch of one instruction, that goes on in another page."""
    IMPLICIT = "implicit"
    """A segment register is loaded, for which the processor reads the descriptor."""
    TWICE = "twice"
    """Two accesses to one page, the second with what the first left in the TLB."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a composite does: `types` are those of the one-byte accesses that it is made of."""

    family: Family
    types: tuple[AccessType, ...]


def _name(kind: AccessType) -> str:
    return kind.name.lower()


FORMS: dict[str, Form] = {
    "rmw:xadd": Form(Family.RMW, (AccessType.WRITE,)),
    "rmw:cmpxchg": Form(Family.RMW, (AccessType.WRITE,)),
    **{f"cross:{_name(kind)}": Form(Family.CROSS, (kind, kind)) for kind in AccessType},
    "implicit:read": Form(Family.IMPLICIT, (AccessType.READ,)),
    "implicit:write": Form(Family.IMPLICIT, (AccessType.READ, AccessType.WRITE)),
    **{
        f"twice:{_name(one)}+{_name(two)}": Form(Family.TWICE, (one, two))
        for one, two in product(AccessType, repeat=2)
    },
}
"""All forms by name. The comparison of `rmw:cmpxchg` fails, so that it writes back what it read;
`implicit:write` loads a descriptor that isn't marked as accessed, and marks it."""

NAMES = tuple(FORMS)
"""The names in the order of the column `form`."""


@dataclass(frozen=True, slots=True)
class Composites(Rows):
    """n composites: `form` uint8[n] (index into `NAMES`), `va` uint64[n], where it begins.

    `cpl` uint8[n] and `ac` bool[n] are those of the code that runs; `then_va`, `then_cpl`,
    `then_ac` and `then_pkru` int64[n] those of a second access, of family TWICE alone.

    A composite that crosses begins 4 bytes before the page's end, a fetch 6; the va of an
    implicit access is that of the descriptor, 8 beyond a multiple of 16; one that fetches is at
    a multiple of 16.
    """

    form: NDArray[np.uint8]
    va: U64
    cpl: NDArray[np.uint8]
    ac: NDArray[np.bool_]
    then_va: U64
    then_cpl: NDArray[np.uint8]
    then_ac: NDArray[np.bool_]
    then_pkru: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.va)

    def family(self, family: Family) -> NDArray[np.bool_]:
        """Return bool[n]: which are of this family."""
        return self._by_form([form.family is family for form in FORMS.values()])

    def has_two(self) -> NDArray[np.bool_]:
        """Return bool[n]: which are made of two accesses."""
        return self._by_form([len(form.types) == 2 for form in FORMS.values()])

    def second_va(self) -> U64:
        """Return uint64[n]: where the second access is, or the other page begins; else `va`."""
        other = (self.va | np.uint64(FRAME - 1)) + np.uint64(1)
        twice = np.where(self.family(Family.TWICE), self.then_va, self.va)
        return np.where(self.family(Family.CROSS), other, twice)

    def types(self, at: int) -> NDArray[np.uint8]:
        """Return uint8[n]: the type of the first access (0) or the second (1), READ for none."""
        types = [(*form.types, AccessType.READ)[at] for form in FORMS.values()]
        found: NDArray[np.uint8] = np.array(types, np.uint8)[self.form]
        return found

    def misplaced(self) -> NDArray[np.bool_]:
        """Return bool[n]: which don't begin where the class says that composites do."""
        fetches = [self.types(at) == AccessType.EXECUTE for at in (0, 1)]
        fetch = fetches[0] | fetches[1] & self.has_two()
        end = np.where(fetch, FRAME - 6, FRAME - 4).astype(np.uint64)
        wrong: NDArray[np.bool_] = self.family(Family.CROSS) & (
            self.va & np.uint64(FRAME - 1) != end
        )
        low = self.va & _IN_SLOT
        wrong |= self.family(Family.IMPLICIT) & (low != 8)
        wrong |= self.family(Family.TWICE) & fetch & (low | self.then_va & _IN_SLOT != 0)
        return wrong

    def _by_form(self, values: list[bool]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.array(values)[self.form]
        return found


@dataclass(frozen=True, slots=True)
class CompositeOutcomes(Rows):
    """The outcomes of n composites.

    `kind` uint8[n, 2] (`Kind`), `pa` uint64[n, 2], `error_code` uint16[n, 2] and `cr2`
    uint64[n, 2] have a column for each access of family TWICE. All others answer once, in the
    first column; one that crosses and succeeds has the address of its other page in the second
    of `pa`. `entry_pa`, `entry_value` uint64[n, 10] are the words changed in the end, by address.
    """

    kind: NDArray[np.uint8]
    pa: U64
    error_code: NDArray[np.uint16]
    cr2: U64
    entry_pa: U64
    entry_value: U64

    @classmethod
    def empty(cls, count: int) -> "CompositeOutcomes":
        """Return `count` rows of zeros."""
        return cls(
            np.zeros((count, 2), np.uint8),
            np.zeros((count, 2), np.uint64),
            np.zeros((count, 2), np.uint16),
            np.zeros((count, 2), np.uint64),
            np.zeros((count, WORDS_SEEN), np.uint64),
            np.zeros((count, WORDS_SEEN), np.uint64),
        )

    def __len__(self) -> int:
        return len(self.kind)
