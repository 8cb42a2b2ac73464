"""Nested tables that map RAM to itself, with rights of each frame's own."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.nested.tables import NestedTables
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["IdentityTables", "tables_needed"]

Bools = NDArray[np.bool_]
_END, _LARGE = 1 << 32, 1 << 21
_ABOVE = 6  # The root, the table below it, and one for each of 4 GiB.


def tables_needed(ram_size: int) -> int:
    """Return how many frames the tables take at most, for so many bytes of RAM from 0 on."""
    return _ABOVE + -(-ram_size // _LARGE)


class IdentityTables:
    """Tables in `words`, which lie at physical address `start`: the root is there.

    `writable` and `executable` are the rights of the frames of RAM, bool[n], all of which can be
    read; at first they have all rights. What lies between the end of RAM and 4 GiB, devices, can
    be read and written.
    """

    def __init__(self, words: U64, start: int, ram_size: int) -> None:
        whole = words[: tables_needed(ram_size) * (FRAME // 8)]
        self._tables = NestedTables(whole, start)
        self._count = ram_size // FRAME
        if ram_size < _END:
            self._tables.set(ram_size, _END - ram_size, Permission.READ | Permission.WRITE)
        self.grant_all()

    def grant_all(self) -> None:
        """Give all frames of RAM all rights."""
        every = np.ones(self._count, np.bool_)
        self.set(every, every)

    def set(self, writable: Bools, executable: Bools) -> None:
        """Give the frames of RAM these rights, bool[n] each, and reading."""
        self.writable, self.executable = writable.copy(), executable.copy()
        self._tables.update(_ranges(_permissions(writable, executable)))

    def set_writable(self, frame: int, *, writable: bool) -> None:
        """Give or take the right to write to a frame, by number."""
        self.writable[frame] = writable
        self._put(frame)

    def allow_execution(self, frame: int) -> None:
        """Give the right to execute a frame, by number."""
        self.executable[frame] = True
        self._put(frame)

    @property
    def tables(self) -> int:
        """The number of tables in use."""
        return self._tables.tables

    def found(self) -> tuple[Bools, Bools]:
        """Return which frames may be written and executed, as the tables' entries have it."""
        permissions = np.zeros(self._count, np.uint8)
        for start, size, permission in self._tables.ranges():
            permissions[start // FRAME : (start + size) // FRAME] = permission
        return permissions & Permission.WRITE != 0, permissions & Permission.EXECUTE != 0

    def _put(self, frame: int) -> None:
        one = slice(frame, frame + 1)
        permission = _permissions(self.writable[one], self.executable[one])[0]
        self._tables.set(frame * FRAME, FRAME, Permission(int(permission)))


def _permissions(writable: Bools, executable: Bools) -> NDArray[np.uint8]:
    found = np.full(len(writable), Permission.READ, np.uint8)
    found[writable] |= np.uint8(Permission.WRITE)
    found[executable] |= np.uint8(Permission.EXECUTE)
    return found


def _ranges(permissions: NDArray[np.uint8]) -> Iterator[tuple[int, int, Permission]]:
    """Yield (start, size, permission) of frames that are alike."""
    begins = np.flatnonzero(np.diff(permissions, prepend=np.uint8(255)) != 0)
    ends = np.append(begins[1:], len(permissions))
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        yield begin * FRAME, (end - begin) * FRAME, Permission(int(permissions[begin]))
