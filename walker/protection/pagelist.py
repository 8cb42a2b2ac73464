"""The page list of the Heki series: the permissions of pages, as a guest sends them in a hypercall.

A list is a chain of pages in guest-physical memory, little-endian words of 8 bytes:

    next       the guest's own pointer to the following page; the hypervisor does not follow it
    next_pa    the physical address of the following page, 0 in the last
    npages     how many entries follow, 1 to 169
    entries    pa, epa, permissions: of bytes [pa, epa)

Source: `struct heki_page_list` and `struct heki_pages` of Linux Heki RFC v2, KVM_HC_PROTECT_MEMORY.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = [
    "ENTRIES",
    "IMMUTABLE",
    "MAX_PAGES",
    "MalformedRequest",
    "PageEntry",
    "Permission",
    "decode",
    "encode",
]


class Permission(IntFlag):
    """The accesses allowed; the values are the Heki patches' MEM_ATTR_READ, _WRITE, _EXEC."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


_HEAD = 24
_ENTRY = 24
ENTRIES = (FRAME - _HEAD) // _ENTRY
"""The most entries that a page holds."""
MAX_PAGES = 4096
"""The most pages of a list: 692,224 entries."""
IMMUTABLE = 8
"""The series' MEM_ATTR_IMMUTABLE: the permissions may never change again."""

_PERMISSIONS = int(~Permission(0))
_WRITE_EXECUTE = np.uint64(Permission.WRITE | Permission.EXECUTE)
_UNKNOWN = np.uint64(~(_PERMISSIONS | IMMUTABLE) % (1 << 64))


class MalformedRequest(BadInput):
    """A malformed page list, which has to be refused as a whole."""


@dataclass(frozen=True, slots=True, order=True)
class PageEntry:
    """The permission of the guest-physical bytes [pa, epa).

    `immutable`: no later request may change it.
    """

    pa: int
    epa: int
    permission: Permission
    immutable: bool = False


class _Columns(NamedTuple):
    """The entries of a page, uint64[n] each, and RAM's ranges."""

    pa: U64
    epa: U64
    permissions: U64
    start: U64
    end: U64


_Ram = Sequence[tuple[int, int]]
_PageCheck = Callable[[_Ram, int, dict[int, int], int], str | None]
_EntryCheck = tuple[str, Callable[[_Columns], NDArray[np.bool_]]]


def encode(entries: Iterable[PageEntry], pa: int, *, limit: int = MAX_PAGES) -> bytes:
    """Return the pages of a list at physical address `pa`, in one piece.

    `next` is 0 in all of them. `BadInput` for no entries or a `pa` that isn't a page's,
    `LimitExceeded` for more than `limit` pages.
    """
    rows = [
        (each.pa, each.epa, each.permission | (IMMUTABLE if each.immutable else 0))
        for each in entries
    ]
    if pa % FRAME:
        raise BadInput(f"a page list can't lie at {pa:#x}: not a multiple of {FRAME}")
    if not rows:
        raise BadInput("a page list of no entries")
    count = -(-len(rows) // ENTRIES)
    if count > limit:
        raise LimitExceeded(f"{len(rows):,} entries take {count:,} pages; at most {limit:,}")
    words = np.zeros((count, FRAME // 8), np.uint64)
    for number in range(count):
        some = rows[number * ENTRIES : (number + 1) * ENTRIES]
        last = number == count - 1
        words[number, 1] = 0 if last else pa + (number + 1) * FRAME
        words[number, 2] = len(some)
        words[number, 3 : 3 + 3 * len(some)] = np.array(some, np.uint64).reshape(-1)
    return words.astype("<u8").tobytes()


def decode(
    memory: PhysicalMemory, pa: int, *, write_execute: bool = False, limit: int = MAX_PAGES
) -> list[PageEntry]:
    """Return the entries of the list whose first page is at physical address `pa`, in its order.

    `MalformedRequest`, with page and entry, where a page or an entry is malformed, by
    `_PAGE_CHECKS` and `_ENTRY_CHECKS`, or overlaps another. Permission both to write and to execute
    is malformed unless `write_execute`. Each page is read once, so that a guest gains nothing by
    changing it meanwhile, and at most `limit` pages are read, so that the cost is bounded.
    """
    ranges = memory.ranges
    start = np.array([first for first, _ in ranges], np.uint64)
    end = start + np.array([size for _, size in ranges], np.uint64)
    checks = _ENTRY_CHECKS if write_execute else (*_ENTRY_CHECKS, _NOT_BOTH)
    seen: dict[int, int] = {}
    pages: list[U64] = []
    while pa or not seen:
        for check in _PAGE_CHECKS:
            if (wrong := check(ranges, pa, seen, limit)) is not None:
                raise MalformedRequest(f"page {len(seen)} of the list, at {pa:#x}: {wrong}")
        words = np.frombuffer(memory.read(pa, FRAME), "<u8").astype(np.uint64)
        count = int(words[2])
        if not 1 <= count <= ENTRIES:
            raise MalformedRequest(
                f"page {len(seen)} of the list, at {pa:#x}: {count:,} entries, not 1 to {ENTRIES}"
            )
        rows = words[3 : 3 + 3 * count].reshape(count, 3)
        _check_entries(_Columns(rows[:, 0], rows[:, 1], rows[:, 2], start, end), checks, len(seen))
        seen[pa] = len(seen)
        pages.append(rows)
        pa = int(words[1])
    _check_overlap(pages)
    return [
        PageEntry(first, last, Permission(bits & _PERMISSIONS), bool(bits & IMMUTABLE))
        for first, last, bits in np.concatenate(pages).tolist()
    ]


def _misaligned(_ram: _Ram, pa: int, _seen: dict[int, int], _limit: int) -> str | None:
    return "not the address of a page" if pa % FRAME else None


def _outside(ram: _Ram, pa: int, _seen: dict[int, int], _limit: int) -> str | None:
    held = any(start <= pa and pa + FRAME <= start + size for start, size in ram)
    return None if held else "not in RAM"


def _again(_ram: _Ram, pa: int, seen: dict[int, int], _limit: int) -> str | None:
    return f"a cycle: it was page {seen[pa]} already" if pa in seen else None


def _too_long(_ram: _Ram, _pa: int, seen: dict[int, int], limit: int) -> str | None:
    return f"more than {limit:,} pages" if len(seen) >= limit else None


def _in_ram(rows: _Columns) -> NDArray[np.bool_]:
    holder = np.searchsorted(rows.start, rows.pa, "right") - 1
    inside: NDArray[np.bool_] = (holder >= 0) & (rows.epa <= rows.end[holder])
    return inside


def _both(rows: _Columns) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = (rows.permissions & _WRITE_EXECUTE) == _WRITE_EXECUTE
    return both


_PAGE_CHECKS: tuple[_PageCheck, ...] = (_misaligned, _outside, _again, _too_long)
_ENTRY_CHECKS: tuple[_EntryCheck, ...] = (
    ("pa is not the address of a page", lambda rows: rows.pa % np.uint64(FRAME) != 0),
    ("epa is not the address of a page", lambda rows: rows.epa % np.uint64(FRAME) != 0),
    ("epa is not above pa", lambda rows: rows.epa <= rows.pa),
    ("not all in RAM", lambda rows: ~_in_ram(rows)),
    ("unknown permissions", lambda rows: (rows.permissions & _UNKNOWN) != 0),
    ("no permission to read", lambda rows: (rows.permissions & np.uint64(Permission.READ)) == 0),
)
_NOT_BOTH: _EntryCheck = ("permission both to write and to execute", _both)


def _check_entries(rows: _Columns, checks: Sequence[_EntryCheck], page: int) -> None:
    wrong = np.stack([check(rows) for _, check in checks])
    first = int(wrong.any(axis=0).argmax())
    column = wrong[:, first]
    if column.any():
        pa, epa, permissions = (int(each[first]) for each in rows[:3])
        raise MalformedRequest(
            f"page {page} of the list, entry {first} ({pa:#x} to {epa:#x}, permissions "
            f"{permissions:#x}): {checks[int(column.argmax())][0]}"
        )


def _check_overlap(pages: Sequence[U64]) -> None:
    rows = np.concatenate(pages)
    order = np.argsort(rows[:, 0], kind="stable")
    pa, epa = rows[order, 0], rows[order, 1]
    # Entries in order overlap somewhere only if two neighbours do.
    clash = np.flatnonzero(pa[1:] < epa[:-1])
    if len(clash):
        at = int(clash[0])
        one, other = sorted(order[at : at + 2].tolist())
        raise MalformedRequest(
            f"{_place(pages, other)} ({int(rows[other, 0]):#x} to {int(rows[other, 1]):#x}): "
            f"overlaps {_place(pages, one)}"
        )


def _place(pages: Sequence[U64], number: int) -> str:
    page = 0
    while number >= len(pages[page]):
        number -= len(pages[page])
        page += 1
    return f"page {page} of the list, entry {number}"
