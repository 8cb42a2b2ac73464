"""A walk in two dimensions by the manual, or as the emulated CPU is known to make it instead.

Written independently of the walker, in the order of the CPU's steps, to predict what the emulator
does, above all where it crashes, and to distinguish a departure from an error of the walker.

Source: AMD APM vol. 2, "Nested Paging"; "Long-Mode Page Translation" for the entries;
"Page-Protection Checks" for rights.
"""

import functools
from dataclasses import dataclass, field, replace
from enum import Flag, auto

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.entry import Entry, is_leaf, protection_key, reserved_bits
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation
from crosswalk.walker.rights import ALL_GRANTS, Grant, grant_of
from crosswalk.walker.translate import cause, denied

__all__ = ["EMULATOR", "MANUAL", "Deviation", "emulated"]


class Deviation(Flag):
    """What the emulated CPU does otherwise, in either dimension.

    BIT_8: bit 8 of a PML4E isn't reserved. EARLY: A of a 1-GiB leaf is set before low reserved
    bits are looked at (and before rights, as it may be). UNMARKED: no other nested leaf's A is
    set, and none's D. FETCH: SMEP without NXE is enough for a guest's I/D. FATAL: a guest's table
    in a frame without execution ends the process.
    """

    BIT_8 = auto()
    EARLY = auto()
    UNMARKED = auto()
    FETCH = auto()
    FATAL = auto()


MANUAL = Deviation(0)
EMULATOR = ~MANUAL


def emulated(
    memory: PhysicalMemory, context: NestedContext, access: Access, deviations: Deviation
) -> NestedOutcome | None:
    """Return what comes of an access with these deviations; None where the process dies.

    `entries` are those that a CPU changes which sets A as it goes, faults or not.
    """
    if not context.guest.canonical(access.va):
        return GeneralProtection()
    bit_8 = Deviation.BIT_8 in deviations
    guest, host = (_side(paging, bit_8=bit_8) for paging in (context.guest, context.npt))
    walk = _Walk(memory, context.guest, guest, host, deviations)
    try:
        outcome = walk.access(access)
    except _Refused as refused:
        return replace(refused.fault, entries=walk.entries)
    except _Fatal:
        return None
    return replace(outcome, entries=walk.entries)


_P, _A, _D, _PS = int(Entry.P), int(Entry.A), int(Entry.D), int(Entry.PS)


class _Refused(Exception):
    def __init__(self, fault: NestedPageFault) -> None:
        self.fault = fault


class _Fatal(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Side:
    """How one dimension's entries are read; `table` and `leaf` are reserved bits by level."""

    root: int
    address: int
    nxe: bool
    large: tuple[bool, ...]
    table: tuple[int, ...]
    leaf: tuple[int, ...]


@functools.lru_cache(maxsize=8)
def _side(paging: PagingContext, *, bit_8: bool) -> _Side:
    read = replace(paging, vendor=Vendor.INTEL) if bit_8 else paging
    numbers = range(1, read.levels + 1)
    return _Side(
        read.root,
        read.address_mask,
        read.nxe,
        (False, *(is_leaf(read, number, _PS) for number in numbers)),
        (0, *(reserved_bits(read, number, leaf=False) for number in numbers)),
        (0, *(reserved_bits(read, number, leaf=True) for number in numbers)),
    )


@dataclass(slots=True)
class _Walk:
    memory: PhysicalMemory
    context: PagingContext
    guest: _Side
    host: _Side
    deviations: Deviation
    marks: dict[int, int] = field(default_factory=dict)
    early: bool = field(init=False)

    def __post_init__(self) -> None:
        self.early = Deviation.EARLY in self.deviations

    @property
    def entries(self) -> tuple[tuple[int, int], ...]:
        """The words that the marks change, as they are then."""
        before = {pa: self._word(pa) for pa in sorted(self.marks)}
        after = {pa: word | self.marks[pa] for pa, word in before.items()}
        return tuple((pa, word) for pa, word in after.items() if word != before[pa])

    def access(self, access: Access) -> PageFault | Translation:
        """Walk the guest's tables, each entry through the nested ones, then for the page."""
        guest, grant, table = self.guest, ALL_GRANTS, self.guest.root
        fetch = Deviation.FETCH in self.deviations
        context = replace(self.context, vendor=Vendor.INTEL) if fetch else self.context
        about = int(cause(context, access))
        for level in range(len(guest.table) - 1, 0, -1):
            gpa = table + 8 * (access.va >> 3 + 9 * level & 511)
            # Walks of the guest's tables are writes to them ("Nested Table Walk").
            pa = self.nested(gpa, AccessType.WRITE, int(NestedError.TABLE))
            entry = self._word(pa)
            if not entry & _P:
                return PageFault(about, access.va)
            leaf = self._is_leaf(guest, level, pa, entry)
            if entry & (guest.leaf if leaf else guest.table)[level]:
                return PageFault(about | _P | int(ErrorCode.RSVD), access.va)
            grant &= grant_of(entry)
            if leaf:
                break
            self._mark(pa, _A)
            table = entry & guest.address
        missing = denied(self.context, access, grant, protection_key(entry))
        if missing is not None:
            return PageFault(about | _P | int(missing), access.va)
        self._mark(pa, _A | _D if access.type is AccessType.WRITE else _A)
        page = _within(guest, level, entry, access.va)
        return Translation(self.nested(page, access.type, int(NestedError.FINAL)))

    def nested(self, gpa: int, kind: AccessType, code: int) -> int:
        """Return the system-physical address of a guest-physical one; `code` has the stage."""
        host, grant, table = self.host, ALL_GRANTS, self.host.root
        code |= int(NestedError.US)
        code |= int(NestedError.WR) if kind is AccessType.WRITE else 0
        fetch = int(NestedError.ID) if kind is AccessType.EXECUTE else 0
        # Without NXE a #PF has no I/D (APM); for nested faults the APM leaves it open.
        code, either = (code | fetch, 0) if host.nxe else (code, fetch)
        for level in range(len(host.table) - 1, 0, -1):
            pa = table + 8 * (gpa >> 3 + 9 * level & 511)
            entry = self._word(pa)
            if not entry & _P:
                raise _Refused(NestedPageFault(code, gpa, open=either))
            leaf = self._is_leaf(host, level, pa, entry)
            if entry & (host.leaf if leaf else host.table)[level]:
                reserved = code | _P | int(NestedError.RSVD)
                raise _Refused(NestedPageFault(reserved, gpa, open=either))
            grant &= grant_of(entry)
            if leaf:
                break
            self._mark(pa, _A)
            table = entry & host.address
        # Every access is a user's here ("Nested Table Walk").
        allowed = bool(grant & Grant.USER)
        fatal = Deviation.FATAL in self.deviations and bool(code & NestedError.TABLE)
        if allowed and fatal and not grant & Grant.EXECUTE:
            raise _Fatal
        allowed &= bool(grant & Grant.EXECUTE) or kind is not AccessType.EXECUTE
        allowed &= bool(grant & Grant.WRITE) or kind is not AccessType.WRITE
        if not allowed:
            raise _Refused(NestedPageFault(code | _P, gpa, open=either))
        if Deviation.UNMARKED not in self.deviations:
            self._mark(pa, _A | _D if kind is AccessType.WRITE else _A)
        return _within(host, level, entry, gpa)

    def _is_leaf(self, side: _Side, level: int, pa: int, entry: int) -> bool:
        leaf = level == 1 or (side.large[level] and bool(entry & _PS))
        # Only the bits that are reserved in a table's entry are checked before.
        if self.early and leaf and level == 3 and not entry & side.table[level] & ~_PS:
            self._mark(pa, _A)
        return leaf

    def _mark(self, pa: int, bits: int) -> None:
        self.marks[pa] = self.marks.get(pa, 0) | bits

    def _word(self, pa: int) -> int:
        # Where there is no memory, entries are not present.
        return self.memory.word(pa) or 0


def _within(side: _Side, level: int, leaf: int, address: int) -> int:
    offset = (1 << 3 + 9 * level) - 1
    return leaf & side.address & ~offset | address & offset
