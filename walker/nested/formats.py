"""The entries of second-level tables, kind by kind, as data that `NestedTables` writes and reads.

What an entry grants is one byte here: the rights in bits 3:0 and, for EPT, the memory type in 6:4.

Source: AMD APM vol. 2, "Nested Table Walk"; Intel SDM vol. 3C, "EPT Translation Mechanism", "EPT
Misconfigurations", "EPT and Memory Typing".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import U64
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.nested.ept import EPT_MEMORY_TYPES, EPT_TYPE_MASK, EPT_TYPE_SHIFT, EptEntry
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use
from crosswalk.walker.rights import rwx

__all__ = ["RIGHTS", "TYPE_SHIFT", "TableFormat", "table_format"]

RIGHTS = 0xF
"""The bits of a grant that are rights."""
TYPE_SHIFT = 4
"""Where a grant has the memory type."""

_GRANTS = 0x80
_RWX = int(EptEntry.R | EptEntry.W | EptEntry.X)
_PS = int(Entry.PS)
"""What makes a leaf of an entry above the last level, in both formats."""


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How the entries of one kind of table grant.

    `rights` is the type of what is granted, `everything` all of it; `expressible` are the rights,
    of 16, that an entry can grant just so, and `rule` says in words which can't. `types` are the
    memory types that a leaf may have, none where it has no field for them. `flags` has the flags of
    a leaf of 4 KiB by grant, uint64[128], 0 for no right. `table` are the flags of an entry that
    refers to a table and withholds nothing; `present` any bit of an entry that is present.
    `accessed` and `dirty` are A and D.

    An entry is read back by `fields`, each a mask and how far the bits are then moved to the right
    and to the left. Together they index `meanings`, uint8[128]: the grant, with no right where no
    access passes.
    """

    rights: type[Permission] | type[Use]
    rule: str
    expressible: frozenset[int]
    types: frozenset[MemoryType]
    flags: U64
    table: int
    present: int
    accessed: int
    dirty: int
    fields: tuple[tuple[int, int, int], ...]
    meanings: NDArray[np.uint8]

    @property
    def everything(self) -> int:
        """All rights that there are."""
        return int(~self.rights(0))

    def can_grant(self, rights: int) -> bool:
        """Return whether an entry can grant just these rights."""
        return rights in self.expressible

    def text(self, rights: int) -> str:
        """Return rights in words."""
        if self.rights is Permission:
            return rwx(rights)
        return ", ".join(str(each.name).lower().replace("_", " ") for each in Use(rights)) or "none"

    def leaves(self, pa: U64, level: int, grants: NDArray[np.uint8]) -> U64:
        """Return the leaves of a level that grant this on pages at these addresses; 0 for none."""
        flags = self.flags[grants]
        leaves = pa | flags
        if level > 1:
            leaves |= np.uint64(_PS)
        found: U64 = leaves * (flags != 0)
        return found

    def grants_of(self, entries: U64) -> NDArray[np.uint8]:
        """Return what each entry grants, as uint8, taken for a leaf."""
        index = np.zeros(entries.shape, np.uint64)
        for mask, right, left in self.fields:
            index |= (entries & np.uint64(mask)) >> np.uint64(right) << np.uint64(left)
        found: NDArray[np.uint8] = self.meanings[index.astype(np.intp)]
        return found

    def is_table(self, entries: U64, level: int) -> NDArray[np.bool_]:
        """Return whether each entry of a level refers to a table."""
        if level == 1:
            return np.zeros(entries.shape, np.bool_)
        present = entries & np.uint64(self.present) != 0
        found: NDArray[np.bool_] = present & (entries & np.uint64(_PS) == 0)
        return found


@cache
def table_format(kind: TableKind, *, execute_only: bool = True) -> TableFormat:
    """Return the format of a kind of table.

    `execute_only` says whether EPT may withhold reading from what can be executed, which is a
    capability of the processor (IA32_VMX_EPT_VPID_CAP, bit 0).
    """
    if kind is TableKind.NPT:
        return _npt()
    return _ept(execute_only=execute_only, mbec=kind is TableKind.EPT_MBEC)


def _npt() -> TableFormat:
    """Return the format of NPT: that of the ordinary tables.

    U/S is always set: without it no access passes (AMD APM vol. 2, "Nested Table Walk").
    """
    return TableFormat(
        rights=Permission,
        rule="what can be written or executed can be read",
        expressible=frozenset((0, 1, 3, 5, 7)),
        types=frozenset(),
        flags=_by_grant(_npt_flags).astype(np.uint64),
        table=int(Entry.P | Entry.RW | Entry.US),
        present=int(Entry.P),
        accessed=int(Entry.A),
        dirty=int(Entry.D),
        fields=((7, 0, 0), (Entry.XD, 60, 0)),
        meanings=_by_grant(_npt_meaning).astype(np.uint8),
    )


def _npt_flags(rights: int, _type: int) -> int:
    if not rights:
        return 0
    flags = Entry.P | Entry.US
    if rights & Permission.WRITE:
        flags |= Entry.RW
    if not rights & Permission.EXECUTE:
        flags |= Entry.XD
    return flags


def _npt_meaning(bits: int, _type: int) -> int:
    """Return what bits 2:0 and NX, in bit 3, leave; nothing without P and U/S."""
    if bits & 5 != 5:
        return 0
    rights = Permission.READ | bits & Permission.WRITE
    return rights if bits & 8 else rights | Permission.EXECUTE


def _ept(*, execute_only: bool, mbec: bool) -> TableFormat:
    """Return the format of EPT: R, W and X in bits 2:0, the type in 5:3, and XU in bit 10."""
    every = 15 if mbec else 7
    unreadable = Use.WRITE if execute_only else ~Use.READ
    expressible = frozenset(
        rights for rights in range(every + 1) if rights & Use.READ or not rights & unreadable
    )

    table = _RWX | EptEntry.XU if mbec else _RWX

    def flags(rights: int, type_: int) -> int:
        executes = EptEntry.XU if rights & Use.USER_EXECUTE else 0
        return rights and rights & _RWX | type_ << EPT_TYPE_SHIFT | executes

    def meaning(bits: int, type_: int) -> int:
        rights = bits & every
        if not rights or rights not in expressible or type_ not in EPT_MEMORY_TYPES:
            return 0
        return rights | type_ << TYPE_SHIFT

    return TableFormat(
        rights=Use if mbec else Permission,
        rule=f"what can be written{'' if execute_only else ' or executed'} can be read",
        expressible=expressible,
        types=frozenset(map(MemoryType, EPT_MEMORY_TYPES)),
        flags=_by_grant(flags).astype(np.uint64),
        table=table,
        present=table,
        accessed=int(EptEntry.A),
        dirty=int(EptEntry.D),
        fields=((_RWX, 0, 0), (EptEntry.XU, 7, 0), (EPT_TYPE_MASK, 0, 1)),
        meanings=_by_grant(meaning).astype(np.uint8),
    )


def _by_grant(value: Callable[[int, int], int]) -> U64:
    """Return the value for each pair of rights and memory type, as uint64[128]."""
    return np.array(
        [value(grant & RIGHTS, grant >> TYPE_SHIFT) for grant in range(_GRANTS)], np.uint64
    )
