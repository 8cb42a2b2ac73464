"""Nested page faults foretold: the walk in two dimensions, read from memory without the CPU.

An exit in the course of another event's delivery is more than Unicorn can take, so that delivery
looks here first. And Unicorn doesn't say whether a nested page fault came of the guest's own table
or of what it leads to.

Source: AMD APM vol. 2, "Nested Table Walk", "Nested versus Guest Page Faults, Fault Ordering".
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.walker.architecture import CR0, CR4, EFER
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import ErrorCode

__all__ = ["FINAL", "TABLE", "Access", "NestedFault", "Tables", "linear_to_system", "nested_fault"]

FINAL, TABLE = 1 << 32, 1 << 33
"""Of EXITINFO1: the fault is of the address that the guest's walk led to, or of a table of its."""

_PRESENT, _WRITE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63
_ADDRESS = (1 << MAXPHYADDR) - FRAME
_RESERVED = (1 << 52) - (1 << MAXPHYADDR)
_PAT_OF_LARGE = 1 << 12


class Access(Enum):
    """What is done: its bit in an error code."""

    READ = 0
    WRITE = int(ErrorCode.WR)
    FETCH = int(ErrorCode.ID)


@dataclass(frozen=True, slots=True)
class NestedFault:
    """A nested page fault: EXITINFO2, the guest physical address, and EXITINFO1."""

    gpa: int
    info: int


@dataclass(frozen=True, slots=True)
class _Format:
    """Paging structures: bytes of an entry, the lowest address bit that picks one, by level."""

    entry: int
    shifts: tuple[int, ...]
    large: frozenset[int]

    def index(self, shift: int, address: int) -> int:
        bits = 10 if self.entry == 4 else 9
        if shift == self.shifts[0] and len(self.shifts) == 3:
            bits = 2
        return address >> shift & (1 << bits) - 1


_LONG = _Format(8, (39, 30, 21, 12), frozenset({30, 21}))
_PAE = _Format(8, (30, 21, 12), frozenset({21}))
_TWO_LEVELS = _Format(4, (22, 12), frozenset())
_TWO_LEVELS_PSE = _Format(4, (22, 12), frozenset({22}))


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables of one dimension: CR3 or nCR3, and the modes that say what they mean.

    `format` is None where paging is off.
    """

    root: int
    format: _Format | None
    nxe: bool
    wp: bool = True
    smap: bool = False

    @classmethod
    def of(cls, cr0: int, cr3: int, cr4: int, efer: int) -> "Tables":
        """Return the tables that these control registers select; not those of 5 levels."""
        pse = bool(cr4 & CR4.PSE)
        return cls(
            cr3,
            _format(pae=bool(cr4 & CR4.PAE), long=bool(efer & EFER.LMA), pse=pse)
            if cr0 & CR0.PG
            else None,
            bool(efer & EFER.NXE),
            bool(cr0 & CR0.WP),
            bool(cr4 & CR4.SMAP),
        )

    @classmethod
    def nested(cls, root: int, *, pae: bool, long: bool, nxe: bool, pse: bool) -> "Tables":
        """Return nested tables, of a host with this paging."""
        return cls(root, _format(pae=pae, long=long, pse=pse), nxe)


def _format(*, pae: bool, long: bool, pse: bool) -> _Format:
    if pae:
        return _LONG if long else _PAE
    return _TWO_LEVELS_PSE if pse else _TWO_LEVELS


@dataclass(frozen=True, slots=True)
class _Leaf:
    pa: int
    rights: int
    executable: bool


def nested_fault(
    read: Callable[[int, int], int],
    guest: Tables,
    nested: Tables,
    va: int,
    access: Access,
    *,
    user: bool = False,
) -> NestedFault | None:
    """Return the nested page fault of a guest's access to a linear address, or None.

    None, too, where the guest's own tables refuse it. `read` returns the little-endian value of so
    many bytes of system memory.
    """
    try:
        leaf = _walk(guest, va, lambda gpa, size: read(_second(read, nested, gpa), size))
        if leaf is None or not _allowed(guest, leaf, access, user=user):
            return None
        _second(read, nested, leaf.pa, access)
    except _Refused as refused:
        return refused.fault
    return None


def linear_to_system(
    read: Callable[[int, int], int], guest: Tables, nested: Tables, va: int
) -> int | None:
    """Return the system physical address of a guest's linear one, or None where there is none."""
    try:
        leaf = _walk(guest, va, lambda gpa, size: read(_second(read, nested, gpa), size))
        return None if leaf is None else _second(read, nested, leaf.pa, Access.READ)
    except _Refused:
        return None


class _Refused(Exception):
    def __init__(self, fault: NestedFault) -> None:
        super().__init__(fault)
        self.fault = fault


def _walk(tables: Tables, address: int, read: Callable[[int, int], int]) -> _Leaf | None:
    """Return where a walk leads, or None where an entry isn't present or is malformed."""
    layout = tables.format
    if layout is None:
        return _Leaf(address & 0xFFFF_FFFF, _WRITE | _USER, executable=True)
    reserved = _RESERVED if tables.nxe else _RESERVED | _NX
    table = tables.root & (~0x1F if layout is _PAE else ~0xFFF) & (1 << 52) - 1
    rights, executable = _WRITE | _USER, True
    for shift in layout.shifts:
        entry = read(table + layout.entry * layout.index(shift, address), layout.entry)
        malformed = layout.entry == 8 and entry & reserved
        if not entry & _PRESENT or malformed or (shift == 39 and entry & _LARGE):
            return None
        if layout is not _PAE or shift != 30:  # A PDPTE of PAE has no rights.
            rights &= entry
            executable = executable and not entry & _NX
        if shift == 12 or (shift in layout.large and entry & _LARGE):
            return _leaf(layout, entry, shift, address, rights, executable=executable)
        table = entry & _ADDRESS
    raise AssertionError("level 1 ends every walk")


def _leaf(
    layout: _Format, entry: int, shift: int, address: int, rights: int, *, executable: bool
) -> _Leaf | None:
    offset = (1 << shift) - 1
    base = entry & _ADDRESS & ~offset
    if layout.entry == 4 and shift == 22:
        if entry & 1 << 21:
            return None
        base |= (entry >> 13 & 0xFF) << 32
    elif shift > 12 and entry & offset & _ADDRESS & ~_PAT_OF_LARGE:
        return None
    return _Leaf(base & _ADDRESS | address & offset, rights, executable)


def _allowed(tables: Tables, leaf: _Leaf, access: Access, *, user: bool) -> bool:
    if tables.format is None:
        return True
    if user and not leaf.rights & _USER:
        return False
    if not user and leaf.rights & _USER and tables.smap and access is not Access.FETCH:
        return False
    if access is Access.FETCH:
        return leaf.executable
    return access is Access.READ or bool(leaf.rights & _WRITE) or not (user or tables.wp)


def _second(
    read: Callable[[int, int], int], nested: Tables, gpa: int, access: Access | None = None
) -> int:
    """Return the system physical address of a guest's; without `access` it is a table's.

    A walk of the guest's tables counts as a user's write.
    """
    kind = Access.WRITE if access is None else access
    info = int(ErrorCode.US) | kind.value | (TABLE if access is None else FINAL)
    leaf = _walk(nested, gpa, read)
    if leaf is None:
        raise _Refused(NestedFault(gpa, info | _cause(read, nested, gpa)))
    refused = kind is Access.WRITE and not leaf.rights & _WRITE
    refused = refused or (kind is Access.FETCH and not leaf.executable)
    if refused or not leaf.rights & _USER:
        raise _Refused(NestedFault(gpa, info | int(ErrorCode.P)))
    return leaf.pa


def _cause(read: Callable[[int, int], int], nested: Tables, gpa: int) -> int:
    """Return P and RSVD of a walk that ended at an entry: not present, or malformed."""
    last = 0

    def noted(pa: int, size: int) -> int:
        nonlocal last
        last = read(pa, size)
        return last

    _walk(nested, gpa, noted)
    return int(ErrorCode.P | ErrorCode.RSVD) if last & _PRESENT else 0
