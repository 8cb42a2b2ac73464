"""Nested paging structures: built, updated and read back in a range of the host's memory."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Entry
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.rights import rwx

__all__ = ["MemoryFull", "NestedTables"]

_ALL = Permission.READ | Permission.WRITE | Permission.EXECUTE
_FLAGS = np.array(
    [
        Entry.P
        | Entry.US
        | (Entry.RW if permission & Permission.WRITE else 0)
        | (0 if permission & Permission.EXECUTE else Entry.XD)
        for permission in range(_ALL + 1)
    ],
    np.uint64,
)

_TABLE = Entry.P | Entry.RW | Entry.US
_SUBTABLE = 0xFF
"""Stands for an entry that refers to a table, where others have their permission."""
_REGION = LEVELS[2].span
_USED = int(Entry.A | Entry.D)
_COUNT = np.arange(WORDS, dtype=np.uint64)

# A table by number, its level, and the first guest-physical address that it covers.
_Place = tuple[int, int, int]
Run = tuple[int, int, Permission]
"""The start, size and permission of a guest-physical range."""


class MemoryFull(CrosswalkError):
    """The memory set aside for nested tables is too small for the update."""


class NestedTables:
    """Nested tables in `words`, uint64 of whole frames at system-physical `pa`; empty at first.

    A guest-physical address is mapped to the system-physical one `offset` further up. Pages are
    the largest that a range of equal permission allows: of 2 MiB, of 1 GiB too with `page1gb`.
    A page is split where permissions come to differ, and merged when they are equal again. A new
    table takes the lowest free frame.

    With `used`, entries are written with A set, leaves with D too; else both are clear, and the
    processor sets them. A leaf that doesn't change keeps its bits; a split hands them to each
    part, a merge takes the union.

    `BadInput` where the memory or `offset` isn't made of whole frames, or can't be written.

    Source: AMD APM vol. 2, "Nested Table Walk"; "Long-Mode Page Translation" for the entries.
    """

    def __init__(
        self,
        words: U64,
        pa: int,
        *,
        levels: int = 4,
        offset: int = 0,
        page1gb: bool = False,
        used: bool = False,
    ) -> None:
        if words.size == 0 or words.size % WORDS or pa % FRAME or not 0 <= pa < 1 << 52:
            raise BadInput(f"no whole frames for nested tables: {words.size} words at {pa:#x}")
        if offset % FRAME:
            raise BadInput(f"offset {offset:#x} is not a multiple of {FRAME}")
        if levels not in (4, 5):
            raise BadInput(f"nested tables have 4 or 5 levels, not {levels}")
        if words.dtype != np.uint64 or not words.flags.c_contiguous or not words.flags.writeable:
            raise BadInput("nested tables need contiguous words of 8 bytes that can be written")
        self._tables = words.reshape(-1, WORDS)
        self._pa = pa
        self._levels = levels
        self._offset = offset
        self._largest = max(
            level for level in (1, 2, 3 if page1gb else 1) if offset % LEVELS[level].span == 0
        )
        self._used = _USED if used else 0
        self._tables[:] = 0
        self._free = list(range(1, len(self._tables)))
        self._log: list[tuple[int, slice, U64]] = []

    @property
    def root(self) -> int:
        """The system-physical address of the first table, for nCR3."""
        return self._pa

    @property
    def tables(self) -> int:
        """The number of tables in use, of 4 KiB each."""
        return len(self._tables) - len(self._free)

    @property
    def touched(self) -> tuple[tuple[int, int], ...]:
        """The words that the last change changed: (system-physical address, new value).

        By address, those of tables given up too, which are zero now.
        """
        before: dict[int, int] = {}
        for table, at, old in self._log:
            first = table * WORDS + at.start
            for place, value in enumerate(old.tolist(), first):
                before.setdefault(place, value)
        flat = self._tables.reshape(-1)
        return tuple(
            (self._pa + 8 * place, int(flat[place]))
            for place, value in sorted(before.items())
            if int(flat[place]) != value
        )

    def set(self, start: int, size: int, permission: Permission) -> None:
        """Grant `permission`, and nothing else, on `size` bytes from guest-physical `start`.

        None at all leaves the range unmapped. Errors as `update`.
        """
        self.update([(start, size, permission)])

    def update(self, ranges: Iterable[Run]) -> None:
        """Do `set` for each (start, size, permission) of many ranges, ascending and disjoint.

        `BadInput` where they aren't, or aren't whole frames, or reach past what the tables can
        map or can be mapped to, or where a permission can't be granted: nested tables don't
        withhold reading alone. `MemoryFull` where no table is left, if only before others of the
        same call are given up. Then nothing has changed.
        """
        ranges = list(ranges)
        self._require(ranges)
        self._log = []
        free = list(self._free)
        try:
            self._change(ranges)
        except MemoryFull:
            for table, at, old in reversed(self._log):
                self._tables[table, at] = old
            self._free, self._log = free, []
            raise

    def ranges(self) -> Iterator[Run]:
        """Yield (start, size, permission) of guest-physical ranges, read back from the tables.

        Ascending; neighbours of equal permission are one, and unmapped ranges are left out. Entries
        above the leaves are taken to grant everything, as they are written.
        """
        start, end, permission = 0, 0, Permission(0)
        for base, size, found in self._runs(0, self._levels, 0):
            if found != permission:
                if permission:
                    yield start, end - start, permission
                start, permission = base, found
            end = base + size
        if permission:
            yield start, end - start, permission

    def _require(self, ranges: list[Run]) -> None:
        top = 1 << min(12 + 9 * self._levels, 52)
        for start, size, permission in ranges:
            if start % FRAME or size % FRAME or not 0 <= start < start + size <= top:
                raise BadInput(f"no guest-physical frames: {size:#x} bytes at {start:#x}")
            if not 0 <= start + self._offset < start + self._offset + size <= 1 << 52:
                raise BadInput(f"no system-physical frames for {size:#x} bytes at {start:#x}")
            if not expressible(permission):
                raise BadInput(
                    f"nested tables can't grant {rwx(permission)} at {start:#x}: what can be "
                    "written or executed can be read"
                )
        for (start, size, _), (following, _, _) in pairwise(ranges):
            if start + size > following:
                raise BadInput(f"ranges overlap or don't ascend at {following:#x}")

    def _change(self, ranges: list[Run]) -> None:
        pieces: dict[int, list[Run]] = {}
        for start, size, permission in ranges:
            end = start + size
            # The whole regions of 2 MiB in it; what lies before and after them.
            first, last = -(-start // _REGION) * _REGION, end // _REGION * _REGION
            if first < last:
                self._put((0, self._levels, 0), (first, last), permission)
            parts = ((start, end),) if first > last else ((start, first), (last, end))
            for low, high in parts:
                if low < high:
                    region = low // _REGION * _REGION
                    pieces.setdefault(region, []).append((low, high, permission))
        for region, parts_of_it in pieces.items():
            self._put_pieces(region, parts_of_it)

    def _put_pieces(self, region: int, pieces: list[Run]) -> None:
        """Set pieces of the 2-MiB region at this address."""
        before = self._permissions(region)
        after = before.copy()
        for low, high, permission in pieces:
            after[(low - region) // FRAME : (high - region) // FRAME] = permission
        changed = np.flatnonzero(after != before)
        if not len(changed):
            return
        if (after == after[0]).all():
            span = (region, region + _REGION)
            self._put((0, self._levels, 0), span, Permission(int(after[0])))
            return
        table = 0
        for level in range(self._levels, 1, -1):
            table = self._child(table, level, LEVELS[level].index(region), region)
        self._put_leaves((table, 1, region), slice(0, WORDS), after)

    def _permissions(self, region: int) -> NDArray[np.uint8]:
        """Return the permissions of the 512 frames of a region."""
        table = 0
        for level in range(self._levels, 1, -1):
            at = LEVELS[level].index(region)
            entry = self._tables[table, at : at + 1]
            if not is_table(entry, level)[0]:
                return np.repeat(permissions_of(entry), WORDS)
            table = self._child_number(table, at)
        return permissions_of(self._tables[table])

    def _put(self, place: _Place, span: tuple[int, int], permission: Permission) -> None:
        """Set what a table covers of a span of whole regions."""
        table, level, base = place
        size = LEVELS[level].span
        low, high = max(span[0], base), min(span[1], base + WORDS * size)
        first, last = (low - base) // size, -(-(high - base) // size)
        leaves = level <= self._largest or not permission
        # What is covered as a whole, and can be said in entries of this level.
        inner = range(-(-(low - base) // size), (high - base) // size) if leaves else range(0)
        if inner:
            granted = np.full(len(inner), permission, np.uint8)
            self._put_leaves(place, slice(inner.start, inner.stop), granted)
        for at in range(first, last):
            if at in inner:
                continue
            entry = self._tables[table, at : at + 1]
            if leaves and not is_table(entry, level)[0] and permissions_of(entry)[0] == permission:
                continue
            here = base + at * size
            self._put((self._child(table, level, at, here), level - 1, here), span, permission)
            self._merge(place, at)

    def _put_leaves(self, place: _Place, at: slice, permissions: NDArray[np.uint8]) -> None:
        """Set entries of a table to pages of these permissions."""
        table, level, base = place
        old = self._tables[table, at]
        tables = is_table(old, level)
        flags = np.full(len(old), self._used, np.uint64)
        for row in np.flatnonzero(tables).tolist():
            flags[row] |= np.uint64(
                self._release(self._child_number(table, at.start + row), level - 1)
            )
        # Below 0, with an offset of its own, only where nothing is granted.
        first = base + self._offset + at.start * LEVELS[level].span & (1 << 64) - 1
        pa = np.uint64(first) + np.uint64(LEVELS[level].span) * _COUNT[: len(old)]
        new = leaf_entries(pa, level, permissions) | flags * (permissions != 0)
        kept = ~tables & (permissions_of(old) == permissions)
        self._write(table, at, np.where(kept, old, new))

    def _child(self, table: int, level: int, at: int, base: int) -> int:
        """Return the table that an entry refers to, made out of the page or the hole there."""
        entry = self._tables[table, at : at + 1]
        if is_table(entry, level)[0]:
            return self._child_number(table, at)
        if not self._free:
            raise MemoryFull(f"all {len(self._tables)} nested tables are in use")
        child = heappop(self._free)
        permissions = np.repeat(permissions_of(entry), WORDS)
        if permissions[0]:
            self._put_leaves((child, level - 1, base), slice(0, WORDS), permissions)
            flags = entry[0] & np.uint64(_USED)
            self._write(child, slice(0, WORDS), self._tables[child] | flags)
        new = self._pa + child * FRAME | _TABLE | (Entry.A if self._used else 0)
        self._write(table, slice(at, at + 1), np.array([new], np.uint64))
        return child

    def _merge(self, place: _Place, at: int) -> None:
        """Make one page, or a hole, of the table that an entry refers to, if it is all alike."""
        table, level, _ = place
        child = self._child_number(table, at)
        found = permissions_of(self._tables[child])
        if is_table(self._tables[child], level - 1).any() or (found != found[0]).any():
            return
        if level <= self._largest or not found[0]:
            self._put_leaves(place, slice(at, at + 1), found[:1])

    def _release(self, table: int, level: int) -> int:
        """Give up a table and all below it; return the A and D of their leaves, together."""
        entries = self._tables[table]
        tables = is_table(entries, level)
        flags = int(np.bitwise_or.reduce(entries[~tables], initial=0)) & _USED
        for at in np.flatnonzero(tables).tolist():
            flags |= self._release(self._child_number(table, at), level - 1)
        self._write(table, slice(0, WORDS), np.zeros(WORDS, np.uint64))
        heappush(self._free, table)
        return flags

    def _child_number(self, table: int, at: int) -> int:
        """Return the number of the table that an entry refers to."""
        return ((int(self._tables[table, at]) & ADDRESS_FIELD) - self._pa) // FRAME

    def _runs(self, table: int, level: int, base: int) -> Iterator[Run]:
        """Yield runs of equal entries, and those of the tables between them."""
        size = LEVELS[level].span
        found = permissions_of(self._tables[table])
        found[is_table(self._tables[table], level)] = _SUBTABLE
        starts = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), WORDS]
        for first, last in pairwise(starts):
            if found[first] != _SUBTABLE:
                yield base + first * size, (last - first) * size, Permission(int(found[first]))
                continue
            for at in range(first, last):
                yield from self._runs(self._child_number(table, at), level - 1, base + at * size)

    def _write(self, table: int, at: slice, new: U64) -> None:
        self._log.append((table, at, self._tables[table, at].copy()))
        self._tables[table, at] = new


def expressible(permission: Permission) -> bool:
    """Return whether an entry can grant exactly `permission`: any with READ, or none at all."""
    return not permission or (bool(permission & Permission.READ) and not permission & ~_ALL)


def leaf_entries(pa: U64, level: int, permissions: NDArray[np.uint8]) -> U64:
    """Return the leaves of a level that grant `permissions` on pages at these addresses.

    Zero for no permission. U/S is always set: without it no access passes (AMD APM vol. 2,
    "Nested Table Walk").
    """
    leaves = pa | _FLAGS[permissions]
    if level > 1:
        leaves |= np.uint64(Entry.PS)
    found: U64 = leaves * (permissions != 0)
    return found


def permissions_of(entries: U64) -> NDArray[np.uint8]:
    """Return the `Permission` that each entry leaves, as uint8; 0 without P or U/S."""
    one = np.uint64(1)
    open_ = entries & entries >> np.uint64(2) & one
    writable = entries >> one & one
    executable = ~entries >> np.uint64(63)
    bits = one + np.uint64(Permission.WRITE) * writable + np.uint64(Permission.EXECUTE) * executable
    found: NDArray[np.uint8] = (open_ * bits).astype(np.uint8)
    return found


def is_table(entries: U64, level: int) -> NDArray[np.bool_]:
    """Return whether each entry of a level refers to a table."""
    if level == 1:
        return np.zeros(entries.shape, np.bool_)
    present = entries & np.uint64(Entry.P) != 0
    found: NDArray[np.bool_] = present & (entries & np.uint64(Entry.PS) == 0)
    return found
