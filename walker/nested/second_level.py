"""A host's tables as the walk of all tables takes them: an EPT, or AMD's nested tables.

The rules are those of `crosswalk.walker.nested.ept` and, for nested tables, of ordinary paging for
a user's accesses. Linear addresses of the walk are guest-physical ones here.

Source: Intel SDM vol. 3C, "EPT Translation Mechanism"; AMD APM vol. 2, "Nested Table Walk".
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.bulk import grants_of, leaves_among
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, Entry, reserved_bits
from crosswalk.walker.errors import BadInput
from crosswalk.walker.guest_pages import GuestRanges
from crosswalk.walker.mappings import coalesce_pages
from crosswalk.walker.memory import U64
from crosswalk.walker.nested.context import EptContext
from crosswalk.walker.nested.ept import (
    EPT_LEVELS,
    EptEntry,
    ept_present_bits,
    ept_reserved_bits,
    misconfigured,
)
from crosswalk.walker.nested.ept_bulk import ept_leaves_among, ept_uses_of_entries
from crosswalk.walker.pages import Pages
from crosswalk.walker.protection.policy import Use
from crosswalk.walker.rights import GRANTS, WRITES, Grant, Rights
from crosswalk.walker.second_level import SecondLevel, SecondLevelTable

__all__ = ["EptTables", "NptTables", "guest_ranges"]

_READS = Rights.SUPERVISOR_READ | Rights.USER_READ
_BYTES = 1 << 8


class EptTables(SecondLevel):
    """An EPT: the supervisor's and the user's rights differ in execution alone, under MBEC alone.

    The supervisor's is then that of linear addresses that the guest's tables give the supervisor,
    the user's that of those of user mode.
    """

    use = int(EptEntry.A | EptEntry.D)

    def __init__(self, context: EptContext) -> None:
        self.context = context
        self.root, self.levels = context.root, context.levels
        self.address_mask = context.address_mask
        present = ept_present_bits(context)
        self.formats = {
            number: SecondLevelTable(
                number,
                at.table,
                at.entry,
                at.shift,
                at.large,
                present=present,
                grants=self._grants_of,
            )
            for number, at in EPT_LEVELS.items()
        }
        self.rights = np.array([_rights_of(Use(uses)) for uses in range(16)], np.uint8)
        self._reserved = {
            (level, leaf): np.uint64(ept_reserved_bits(context, level, leaf=leaf))
            for level in EPT_LEVELS
            for leaf in (False, True)
        }
        self._wrong = {level: self._wrong_bytes(level) for level in EPT_LEVELS}

    @property
    def key(self) -> tuple[object, ...]:
        """What two of these have in common, beside the root, if they are one address space."""
        each = self.context
        return ("ept", each.levels, each.mbec, each.maxphyaddr, each.capabilities)

    def leaves_among(self, level: int, entries: U64) -> NDArray[np.bool_]:
        """Return which of these present entries of one level map a page, bool[n]."""
        return ept_leaves_among(self.context, level, entries)

    def malformed(self, level: int, entries: U64, *, leaf: bool) -> NDArray[np.bool_]:
        """Return which of these present entries are EPT misconfigurations, bool[n]."""
        wrong = self._wrong[level].take(_low_bytes(entries))
        wrong |= (entries & self._reserved[level, leaf]) != 0
        return wrong

    def _wrong_bytes(self, level: int) -> NDArray[np.bool_]:
        """Return for each low byte of an entry whether it is one of a misconfiguration, bool[256].

        The rights to read and write, the memory type and the reserved bits of a table's entry lie
        there; XU, in bit 10, alone is wrong where any right to execute is.
        """
        return np.array(
            [misconfigured(self.context, level, low) is not None for low in range(_BYTES)], np.bool_
        )

    def _grants_of(self, entries: U64) -> NDArray[np.uint8]:
        return ept_uses_of_entries(self.context, entries)


class NptTables(SecondLevel):
    """AMD's nested tables, under the host's registers: rights are a user's, for both privileges.

    With `gmet` they differ in execution: see `crosswalk.walker.nested.context.NestedContext`.

    `BadInput` for a host that isn't in IA-32e mode.
    """

    use = int(Entry.A | Entry.D)

    def __init__(self, host: PagingContext, *, gmet: bool = False) -> None:
        if not host.mode.long:
            raise BadInput(f"nested tables have 4 or 5 levels; the host has {host.mode} paging")
        self.context, self.gmet = host, gmet
        self.root, self.levels = host.root, host.levels
        self.address_mask, self.encryption_mask = host.address_mask, host.encryption_mask
        self.formats = {
            number: SecondLevelTable(
                number, at.table, at.entry, at.shift, at.large, grants=grants_of
            )
            for number, at in LEVELS.items()
        }
        uses = _trapped_use_of if gmet else _use_of
        self.rights = np.array([_rights_of(uses(grant)) for grant in range(GRANTS)], np.uint8)

    @property
    def key(self) -> tuple[object, ...]:
        """What two of these have in common, beside the root, if they are one address space."""
        each = self.context
        read = each.mode, each.maxphyaddr, each.page1gb, each.nxe, each.encryption_mask
        return ("npt", *read, self.gmet)

    def leaves_among(self, level: int, entries: U64) -> NDArray[np.bool_]:
        """Return which of these present entries of one level map a page, bool[n]."""
        return leaves_among(self.context, level, entries)

    def malformed(self, level: int, entries: U64, *, leaf: bool) -> NDArray[np.bool_]:
        """Return which of these present entries set a reserved bit, bool[n]."""
        reserved = np.uint64(reserved_bits(self.context, level, leaf=leaf))
        found: NDArray[np.bool_] = (entries & reserved) != 0
        return found


def guest_ranges(blocks: Iterable[Pages], tables: SecondLevel) -> Iterator[GuestRanges]:
    """Yield pages, given in address order, folded into ranges, block by block.

    As `coalesce_pages` does, repeats of one page included; neighbours may differ in A and D.
    """
    ignore = tables.use
    if isinstance(tables, EptTables):
        # Bit 7 is the PAT bit of small pages in ordinary tables alone.
        ignore |= int(Entry.PS)
    for rows in coalesce_pages(blocks, ignore=ignore, repeats=True):
        columns = (rows.va, rows.pa, rows.size, rows.flags, rows.rights, rows.count, rows.shift)
        yield GuestRanges(*columns, rows.stride)


def _low_bytes(entries: U64) -> NDArray[np.uint8]:
    return entries.astype(np.uint8)


def _use_of(grant: int) -> Use:
    """Return what nested entries that let this through leave: nothing without U/S."""
    if not grant & Grant.USER:
        return Use(0)
    found = Use.READ
    if grant & Grant.WRITE:
        found |= Use.WRITE
    if grant & Grant.EXECUTE:
        found |= Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE
    return found


def _trapped_use_of(grant: int) -> Use:
    """Return the same under GMET: a user's page is no code of the supervisor's."""
    found = Use.READ
    if grant & Grant.WRITE:
        found |= Use.WRITE
    if grant & Grant.EXECUTE:
        found |= Use.USER_EXECUTE
        if not grant & Grant.USER:
            found |= Use.SUPERVISOR_EXECUTE
    return found


def _rights_of(use: Use) -> Rights:
    """Return the same as rights of the supervisor and of the user."""
    found = _READS if use & Use.READ else Rights(0)
    if use & Use.WRITE:
        found |= WRITES
    if use & Use.SUPERVISOR_EXECUTE:
        found |= Rights.SUPERVISOR_EXECUTE
    if use & Use.USER_EXECUTE:
        found |= Rights.USER_EXECUTE
    return found
