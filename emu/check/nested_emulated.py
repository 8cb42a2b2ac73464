"""A walk in two dimensions by the manual, or as a machine is known to make it instead.

Written independently of the walker, in the order of the CPU's steps, to predict what a machine
does, above all where it crashes, and to distinguish a departure from an error of the walker. The
EPT beneath a guest is in `crosswalk.emu.check.nested_ept`.

Source: AMD APM vol. 2, "Nested Paging"; "Long-Mode Page Translation" for the entries;
"Page-Protection Checks" for rights.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Protocol

from crosswalk.emu.check.nested_deviations import Deviation
from crosswalk.emu.check.nested_ept import EptTables
from crosswalk.emu.check.nested_words import Fatal, Refused, Words
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.entry import Entry, is_leaf, protection_key, reserved_bits
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import EptContext, NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation
from crosswalk.walker.rights import ALL_GRANTS, Grant, grant_of
from crosswalk.walker.translate import cause, denied

__all__ = ["emulated", "emulated_outcomes"]


def emulated(
    memory: PhysicalMemory, context: NestedContext, access: Access, deviations: Deviation
) -> NestedOutcome | None:
    """Return the first of `emulated_outcomes`; None where the process dies."""
    return next(iter(emulated_outcomes(memory, context, access, deviations)), None)


def emulated_outcomes(
    memory: PhysicalMemory, context: NestedContext, access: Access, deviations: Deviation
) -> tuple[NestedOutcome, ...]:
    """Return what may come of an access with these deviations; nothing where the process dies.

    There is more than one outcome where A or D has to be set in guest entries that EPT makes
    read-only: each of those may be the violation, and so may what ends the walk otherwise.
    `entries` are those that a CPU changes which sets A as it goes, faults or not.
    """
    if not context.guest.canonical(access.va):
        return (GeneralProtection(),)
    bit_8 = Deviation.BIT_8 in deviations
    words = Words(memory)
    host: _Host
    if isinstance(context.host, EptContext):
        host = EptTables(words, context.host, deviations)
    else:
        host = _NestedTables(words, _side(context.host, bit_8=bit_8), deviations)
    walk = _Walk(words, context.guest, _side(context.guest, bit_8=bit_8), host, deviations)
    outcome: NestedOutcome
    try:
        outcome = walk.access(access)
    except Refused as refused:
        outcome = refused.outcome
    except Fatal:
        return ()
    # With an entry that can't be written there is no translation.
    found = [] if walk.unwritten and isinstance(outcome, Translation) else [outcome]
    # All entries were read: their marks come before the page.
    all_read = isinstance(outcome, Translation) or walk.translated
    found = [*walk.unwritten, *found] if all_read else [*found, *walk.unwritten]
    return tuple(replace(each, entries=words.entries) for each in found)


class _Host(Protocol):
    """The host's tables: each returns a system-physical address, or raises `Refused`."""

    def table(self, gpa: int, va: int) -> int:
        """Translate the address of a guest's entry, which is read."""
        ...

    def update(self, gpa: int, va: int) -> None:
        """Allow a guest's entry to be written, where A or D is to be set in it."""
        ...

    def page(self, gpa: int, access: Access, grant: Grant) -> int:
        """Translate the address of the byte accessed, in a page with these rights."""
        ...


_P, _A, _D, _PS = int(Entry.P), int(Entry.A), int(Entry.D), int(Entry.PS)


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
    """A guest's walk; `unwritten` are the violations at entries where A or D can't be set.

    `translated`: the guest's tables allow the access, and the page's own address is looked up.
    """

    words: Words
    context: PagingContext
    guest: _Side
    host: _Host
    deviations: Deviation
    unwritten: list[NestedOutcome] = field(default_factory=list)
    translated: bool = False

    def access(self, access: Access) -> PageFault | Translation:
        """Walk the guest's tables, each entry through the host's, then for the page."""
        guest, table = self.guest, self.guest.root
        grant = Grant(ALL_GRANTS)
        fetch = Deviation.FETCH in self.deviations
        context = replace(self.context, vendor=Vendor.INTEL) if fetch else self.context
        about = int(cause(context, access))
        for level in range(len(guest.table) - 1, 0, -1):
            gpa = table + 8 * (access.va >> 3 + 9 * level & 511)
            pa = self.host.table(gpa, access.va)
            entry = self.words.word(pa)
            if not entry & _P:
                return PageFault(about, access.va)
            leaf = _is_leaf(self.words, guest, level, pa, self.deviations)
            if entry & (guest.leaf if leaf else guest.table)[level]:
                about |= int(ErrorCode.RSVD)
                absent = Deviation.NOT_PRESENT in self.deviations
                return PageFault(about if absent else about | _P, access.va)
            grant &= grant_of(entry)
            if leaf:
                break
            self._mark(gpa, pa, _A, access.va)
            table = entry & guest.address
        missing = denied(self.context, access, grant, protection_key(entry))
        if missing is not None:
            # Whether A is set in a leaf that denies the access is the processor's choice.
            self._may_write(gpa, pa, _A, access.va)
            return PageFault(about | _P | int(missing), access.va)
        marks = _A | _D if access.type is AccessType.WRITE else _A
        closed = Deviation.PANIC in self.deviations and not entry & Entry.RW
        if closed and marks & ~entry & _D:
            raise Fatal
        self._mark(gpa, pa, marks, access.va)
        page = _within(guest, level, entry, access.va)
        self.translated = True
        return Translation(self.host.page(page, access, grant))

    def _mark(self, gpa: int, pa: int, bits: int, va: int) -> None:
        if self._may_write(gpa, pa, bits, va):
            self.words.mark(pa, bits)

    def _may_write(self, gpa: int, pa: int, bits: int, va: int) -> bool:
        """Return whether bits that an entry lacks may be set in it, and note where they may not."""
        if not bits & ~self.words.word(pa):
            return False
        try:
            self.host.update(gpa, va)
        except Refused as refused:
            self.unwritten.append(refused.outcome)
            return False
        return True


@dataclass(slots=True)
class _NestedTables:
    """AMD's nested tables."""

    words: Words
    side: _Side
    deviations: Deviation

    def table(self, gpa: int, _va: int) -> int:
        # Walks of the guest's tables are writes to them ("Nested Table Walk").
        return self._translate(gpa, AccessType.WRITE, int(NestedError.TABLE))

    def update(self, _gpa: int, _va: int) -> None:
        """Allow it: the walk was a write."""

    def page(self, gpa: int, access: Access, _grant: Grant) -> int:
        return self._translate(gpa, access.type, int(NestedError.FINAL))

    def _translate(self, gpa: int, kind: AccessType, code: int) -> int:
        """Return the system-physical address of a guest-physical one; `code` has the stage."""
        host, grant, table = self.side, ALL_GRANTS, self.side.root
        code |= int(NestedError.US)
        code |= int(NestedError.WR) if kind is AccessType.WRITE else 0
        fetch = int(NestedError.ID) if kind is AccessType.EXECUTE else 0
        # Without NXE a #PF has no I/D (APM); for nested faults the APM leaves it open.
        code, either = (code | fetch, 0) if host.nxe else (code, fetch)
        for level in range(len(host.table) - 1, 0, -1):
            pa = table + 8 * (gpa >> 3 + 9 * level & 511)
            entry = self.words.word(pa)
            if not entry & _P:
                raise Refused(NestedPageFault(code, gpa, open=either))
            leaf = _is_leaf(self.words, host, level, pa, self.deviations)
            if entry & (host.leaf if leaf else host.table)[level]:
                code |= int(NestedError.RSVD)
                code |= 0 if Deviation.NOT_PRESENT in self.deviations else _P
                raise Refused(NestedPageFault(code, gpa, open=either))
            grant &= grant_of(entry)
            if leaf:
                break
            self.words.mark(pa, _A)
            table = entry & host.address
        # Every access is a user's here ("Nested Table Walk").
        allowed = bool(grant & Grant.USER)
        fatal = Deviation.FATAL in self.deviations and bool(code & NestedError.TABLE)
        if allowed and fatal and not grant & Grant.EXECUTE:
            raise Fatal
        allowed &= bool(grant & Grant.EXECUTE) or kind is not AccessType.EXECUTE
        allowed &= bool(grant & Grant.WRITE) or kind is not AccessType.WRITE
        if not allowed:
            raise Refused(NestedPageFault(code | _P, gpa, open=either))
        if Deviation.UNMARKED not in self.deviations:
            self.words.mark(pa, _A | _D if kind is AccessType.WRITE else _A)
        return _within(host, level, entry, gpa)


def _is_leaf(words: Words, side: _Side, level: int, pa: int, deviations: Deviation) -> bool:
    entry = words.word(pa)
    leaf = level == 1 or (side.large[level] and bool(entry & _PS))
    # Only the bits that are reserved in a table's entry are checked before.
    early = Deviation.EARLY in deviations
    if early and leaf and level == 3 and not entry & side.table[level] & ~_PS:
        words.mark(pa, _A)
    return leaf


def _within(side: _Side, level: int, leaf: int, address: int) -> int:
    offset = (1 << 3 + 9 * level) - 1
    return leaf & side.address & ~offset | address & offset
