"""Nested paging structures: built, updated and read back in a range of the host's memory."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.nested.context import EptContext
from crosswalk.walker.nested.formats import RIGHTS, TYPE_SHIFT, table_format
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use

__all__ = ["MemoryFull", "NestedTables"]

_SUBTABLE = 0xFF
"""Stands for an entry that refers to a table, where others have what they grant."""
_REGION = LEVELS[2].span
_COUNT = np.arange(WORDS, dtype=np.uint64)

# A table by number, its level, and the first guest-physical address that it covers.
_Place = tuple[int, int, int]
Run = tuple[int, int, Permission | Use]
"""The start, size and rights of a guest-physical range."""
_Span = tuple[int, int, int]
"""The start, size and grant of a guest-physical range, the grant as in `TableFormat`."""


class MemoryFull(CrosswalkError):
    """The memory set aside for nested tables is too small for the update."""


class NestedTables:
    """Nested tables in `words`, uint64 of whole frames at system-physical `pa`; empty at first.

    `kind` is the kind of table, NPT's or EPT's, and decides what is granted: a `Permission` by
    NPT and EPT, a `Use` by EPT with mode-based execute control. Entries above the leaves grant
    everything. EPT grants execution alone only with `execute_only`, a capability of processors.

    A guest-physical address is mapped to the system-physical one `offset` further up. Pages are
    the largest that a range of equal permission and memory type allows: of 2 MiB, of 1 GiB too
    with `page1gb`. A page is split where these come to differ, and merged when they are equal
    again. A new table takes the lowest free frame.

    With `used`, entries are written with A set, leaves with D too; else both are clear, and the
    processor sets them (in EPT where bit 6 of the EPTP says so). A leaf that doesn't change keeps
    its bits; a split hands them to each part, a merge takes the union.

    `BadInput` where the memory or `offset` isn't made of whole frames, or can't be written.

    Source: AMD APM vol. 2, "Nested Table Walk"; "Long-Mode Page Translation" for the entries. Intel
    SDM vol. 3C, "EPT Translation Mechanism".
    """

    def __init__(
        self,
        words: U64,
        pa: int,
        *,
        kind: TableKind = TableKind.NPT,
        execute_only: bool = True,
        levels: int = 4,
        offset: int = 0,
        page1gb: bool = False,
        used: bool = False,
    ) -> None:
        if words.size == 0 or words.size % WORDS:
            raise BadInput(f"no whole frames for nested tables: {words.size} words")
        if pa % FRAME:
            raise BadInput(f"nested tables at {pa:#x}: not a multiple of {FRAME}")
        if not 0 <= pa <= (1 << 52) - 8 * words.size:
            raise BadInput(f"nested tables at {pa:#x}: {8 * words.size:,} bytes end past 2^52")
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
        self._kind = kind
        self._format = table_format(kind, execute_only=execute_only)
        self._marks = self._format.accessed | self._format.dirty
        self._used = self._marks if used else 0
        self._tables[:] = 0
        self._free = list(range(1, len(self._tables)))
        self._log: list[tuple[int, slice, U64]] = []

    @property
    def kind(self) -> TableKind:
        """The kind of table."""
        return self._kind

    @property
    def root(self) -> int:
        """The system-physical address of the first table, for nCR3; for EPT see `eptp`."""
        return self._pa

    def eptp(self, *, accessed_dirty: bool = False) -> int:
        """Return the EPTP for these tables, to be read as write-back memory.

        `accessed_dirty` has the processor set A and D. `BadInput` for NPT.

        Source: Intel SDM vol. 3C, "Extended-Page-Table Pointer (EPTP)".
        """
        if self._kind is TableKind.NPT:
            raise BadInput("nested tables of AMD's format have no EPTP")
        return EptContext.at(
            self._pa, levels=self._levels, accessed_dirty=accessed_dirty, maxphyaddr=52
        ).eptp

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

    def set(
        self,
        start: int,
        size: int,
        permission: Permission | Use,
        memory_type: MemoryType | None = None,
    ) -> None:
        """Grant `permission`, and nothing else, on `size` bytes from guest-physical `start`.

        None at all leaves the range unmapped. The memory type is EPT's alone, write-back unless
        given. Errors as `update`.
        """
        self.update([(start, size, permission)], memory_type)

    def update(self, ranges: Iterable[Run], memory_type: MemoryType | None = None) -> None:
        """Do `set` for each (start, size, permission) of many ranges, ascending and disjoint.

        `BadInput` where they aren't, or aren't whole frames, or reach past what the tables can
        map or can be mapped to, or where a permission or memory type isn't one that these tables
        can grant: NPT doesn't withhold reading alone, EPT not from what can be written.
        `MemoryFull` where no table is left, if only before others of the same call are given up.
        Then nothing has changed.
        """
        spans = self._spans(list(ranges), memory_type)
        self._log = []
        free = list(self._free)
        try:
            self._change(spans)
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
        for start, size, rights in self._folded(RIGHTS):
            yield start, size, self._format.rights(rights)

    def typed_ranges(self) -> Iterator[tuple[int, int, Permission | Use, MemoryType]]:
        """Yield `ranges` with the memory type that EPT gives them: neighbours may differ in it."""
        for start, size, grant in self._folded(_SUBTABLE):
            rights = self._format.rights(grant & RIGHTS)
            yield start, size, rights, MemoryType(grant >> TYPE_SHIFT)

    def _folded(self, mask: int) -> Iterator[_Span]:
        start, end, granted = 0, 0, 0
        for base, size, found in self._runs(0, self._levels, 0):
            if found & mask != granted:
                if granted:
                    yield start, end - start, granted
                start, granted = base, found & mask
            end = base + size
        if granted:
            yield start, end - start, granted

    def _spans(self, ranges: list[Run], memory_type: MemoryType | None) -> list[_Span]:
        """Return what is to be granted in these ranges; `BadInput` as for `update`."""
        types = self._format.types
        if memory_type is not None and memory_type not in types:
            raise BadInput(f"{self._kind} tables have no memory type {memory_type.text}")
        type_bits = (max(types, default=0) if memory_type is None else memory_type) << TYPE_SHIFT
        top = 1 << min(12 + 9 * self._levels, 52)
        spans = []
        for start, size, permission in ranges:
            if start % FRAME or size % FRAME or not 0 <= start < start + size <= top:
                raise BadInput(f"no guest-physical frames: {size:#x} bytes at {start:#x}")
            if not 0 <= start + self._offset < start + self._offset + size <= 1 << 52:
                raise BadInput(f"no system-physical frames for {size:#x} bytes at {start:#x}")
            if isinstance(permission, Permission) and self._format.rights is Use:
                raise BadInput(f"{self._kind} tables are granted a Use, not a Permission")
            if not self._format.can_grant(permission):
                raise BadInput(
                    f"nested tables can't grant {self._format.text(permission)} at {start:#x}: "
                    f"{self._format.rule}"
                )
            spans.append((start, size, permission | type_bits if permission else 0))
        for (start, size, _), (following, _, _) in pairwise(spans):
            if start + size > following:
                raise BadInput(f"ranges overlap or don't ascend at {following:#x}")
        return spans

    def _change(self, ranges: list[_Span]) -> None:
        pieces: dict[int, list[_Span]] = {}
        for start, size, grant in ranges:
            end = start + size
            # The whole regions of 2 MiB in it; what lies before and after them.
            first, last = -(-start // _REGION) * _REGION, end // _REGION * _REGION
            if first < last:
                self._put((0, self._levels, 0), (first, last), grant)
            parts = ((start, end),) if first > last else ((start, first), (last, end))
            for low, high in parts:
                if low < high:
                    region = low // _REGION * _REGION
                    pieces.setdefault(region, []).append((low, high, grant))
        for region, parts_of_it in pieces.items():
            self._put_pieces(region, parts_of_it)

    def _put_pieces(self, region: int, pieces: list[_Span]) -> None:
        """Set pieces of the 2-MiB region at this address."""
        before = self._grants(region)
        after = before.copy()
        for low, high, grant in pieces:
            after[(low - region) // FRAME : (high - region) // FRAME] = grant
        changed = np.flatnonzero(after != before)
        if not len(changed):
            return
        if (after == after[0]).all():
            span = (region, region + _REGION)
            self._put((0, self._levels, 0), span, int(after[0]))
            return
        table = 0
        for level in range(self._levels, 1, -1):
            base = region & -LEVELS[level].span
            table = self._child(table, level, LEVELS[level].index(region), base)
        self._put_leaves((table, 1, region), slice(0, WORDS), after)

    def _grants(self, region: int) -> NDArray[np.uint8]:
        """Return what the 512 frames of a region are granted."""
        table = 0
        for level in range(self._levels, 1, -1):
            at = LEVELS[level].index(region)
            entry = self._tables[table, at : at + 1]
            if not self._format.is_table(entry, level)[0]:
                return np.repeat(self._format.grants_of(entry), WORDS)
            table = self._child_number(table, at)
        return self._format.grants_of(self._tables[table])

    def _put(self, place: _Place, span: tuple[int, int], grant: int) -> None:
        """Set what a table covers of a span of whole regions."""
        table, level, base = place
        size = LEVELS[level].span
        low, high = max(span[0], base), min(span[1], base + WORDS * size)
        first, last = (low - base) // size, -(-(high - base) // size)
        leaves = level <= self._largest or not grant
        # What is covered as a whole, and can be said in entries of this level.
        inner = range(-(-(low - base) // size), (high - base) // size) if leaves else range(0)
        if inner:
            granted = np.full(len(inner), grant, np.uint8)
            self._put_leaves(place, slice(inner.start, inner.stop), granted)
        for at in range(first, last):
            if at in inner:
                continue
            entry = self._tables[table, at : at + 1]
            table_here = self._format.is_table(entry, level)[0]
            if leaves and not table_here and self._format.grants_of(entry)[0] == grant:
                continue
            here = base + at * size
            self._put((self._child(table, level, at, here), level - 1, here), span, grant)
            self._merge(place, at)

    def _put_leaves(self, place: _Place, at: slice, grants: NDArray[np.uint8]) -> None:
        """Set entries of a table to pages that are granted this."""
        table, level, base = place
        old = self._tables[table, at]
        tables = self._format.is_table(old, level)
        flags = np.full(len(old), self._used, np.uint64)
        for row in np.flatnonzero(tables).tolist():
            flags[row] |= np.uint64(
                self._release(self._child_number(table, at.start + row), level - 1)
            )
        # Below 0, with an offset of its own, only where nothing is granted.
        first = base + self._offset + at.start * LEVELS[level].span & (1 << 64) - 1
        pa = np.uint64(first) + np.uint64(LEVELS[level].span) * _COUNT[: len(old)]
        new = self._format.leaves(pa, level, grants) | flags * (grants != 0)
        kept = ~tables & (self._format.grants_of(old) == grants)
        self._write(table, at, np.where(kept, old, new))

    def _child(self, table: int, level: int, at: int, base: int) -> int:
        """Return the table that an entry refers to, made out of the page or the hole there."""
        entry = self._tables[table, at : at + 1]
        if self._format.is_table(entry, level)[0]:
            return self._child_number(table, at)
        if not self._free:
            raise MemoryFull(f"all {len(self._tables)} nested tables are in use")
        child = heappop(self._free)
        grants = np.repeat(self._format.grants_of(entry), WORDS)
        if grants[0]:
            self._put_leaves((child, level - 1, base), slice(0, WORDS), grants)
            flags = entry[0] & np.uint64(self._marks)
            self._write(child, slice(0, WORDS), self._tables[child] | flags)
        new = self._pa + child * FRAME | self._format.table | self._used & self._format.accessed
        self._write(table, slice(at, at + 1), np.array([new], np.uint64))
        return child

    def _merge(self, place: _Place, at: int) -> None:
        """Make one page, or a hole, of the table that an entry refers to, if it is all alike."""
        table, level, _ = place
        child = self._child_number(table, at)
        found = self._format.grants_of(self._tables[child])
        if self._format.is_table(self._tables[child], level - 1).any() or (found != found[0]).any():
            return
        if level <= self._largest or not found[0]:
            self._put_leaves(place, slice(at, at + 1), found[:1])

    def _release(self, table: int, level: int) -> int:
        """Give up a table and all below it; return the A and D of their leaves, together."""
        entries = self._tables[table]
        tables = self._format.is_table(entries, level)
        flags = int(np.bitwise_or.reduce(entries[~tables], initial=0)) & self._marks
        for at in np.flatnonzero(tables).tolist():
            flags |= self._release(self._child_number(table, at), level - 1)
        self._write(table, slice(0, WORDS), np.zeros(WORDS, np.uint64))
        heappush(self._free, table)
        return flags

    def _child_number(self, table: int, at: int) -> int:
        """Return the number of the table that an entry refers to."""
        return ((int(self._tables[table, at]) & ADDRESS_FIELD) - self._pa) // FRAME

    def _runs(self, table: int, level: int, base: int) -> Iterator[_Span]:
        """Yield runs of equal entries, and those of the tables between them."""
        size = LEVELS[level].span
        found = self._format.grants_of(self._tables[table])
        found[self._format.is_table(self._tables[table], level)] = _SUBTABLE
        starts = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), WORDS]
        for first, last in pairwise(starts):
            if found[first] != _SUBTABLE:
                yield base + first * size, (last - first) * size, int(found[first])
                continue
            for at in range(first, last):
                yield from self._runs(self._child_number(table, at), level - 1, base + at * size)

    def _write(self, table: int, at: slice, new: U64) -> None:
        self._log.append((table, at, self._tables[table, at].copy()))
        self._tables[table, at] = new
