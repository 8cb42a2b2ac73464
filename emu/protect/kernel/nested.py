"""Nested tables that map RAM to itself in 4-KiB pages, each with rights of its own.

Source: AMD APM vol. 2 15.25 (nested paging: a guest's accesses count as a user's).
"""

import numpy as np

from walker.memory import FRAME, U64

__all__ = ["IdentityTables", "tables_needed"]

_PRESENT_USER, _WRITE, _LARGE, _NX = 0x5, 0x2, 0x80, 1 << 63
_WORDS = 512
_LARGE_SHIFT = 21
_GIBS, _LARGE_PAGES = 4, 2048


def tables_needed(ram_size: int) -> int:
    """Return how many frames the tables take, for so many bytes of RAM from address 0 on."""
    return 2 + _GIBS + -(-ram_size >> _LARGE_SHIFT)


class IdentityTables:
    """Tables in `words`, which lie at physical address `start`; the root is at `start`.

    RAM has all rights at first; what lies between its end and 4 GiB, devices, can be read and
    written. `ram_size` is a multiple of 2 MiB.
    """

    def __init__(self, words: U64, start: int, ram_size: int) -> None:
        directories, leaves = 2, 2 + _GIBS
        words[0] = start + FRAME | _PRESENT_USER | _WRITE
        for gib in range(_GIBS):
            words[_WORDS + gib] = start + FRAME * (directories + gib) | _PRESENT_USER | _WRITE
        large = np.arange(_LARGE_PAGES, dtype=np.uint64) << np.uint64(_LARGE_SHIFT)
        large |= np.uint64(_PRESENT_USER | _WRITE | _LARGE | _NX)
        small = ram_size >> _LARGE_SHIFT
        tables = start + FRAME * (leaves + np.arange(small, dtype=np.uint64))
        large[:small] = tables | np.uint64(_PRESENT_USER | _WRITE)
        words[_WORDS * directories : _WORDS * leaves] = large
        self._entries: U64 = words[_WORDS * leaves : _WORDS * (leaves + small)]
        self._address = np.arange(len(self._entries), dtype=np.uint64) * np.uint64(FRAME)
        self.grant_all()

    def grant_all(self) -> None:
        """Give all frames of RAM all rights."""
        self._entries[:] = self._address | np.uint64(_PRESENT_USER | _WRITE)

    def set(self, writable: np.ndarray, executable: np.ndarray) -> None:
        """Give each frame of RAM these rights, bool[n] each, and reading."""
        self.grant_all()
        self._entries[~writable] &= ~np.uint64(_WRITE)
        self._entries[~executable] |= np.uint64(_NX)

    @property
    def writable(self) -> np.ndarray:
        """Which frames may be written, bool[n]: as the entries have it."""
        found: np.ndarray = self._entries & np.uint64(_WRITE) != 0
        return found

    @property
    def executable(self) -> np.ndarray:
        """Which frames may be executed, bool[n]: as the entries have it."""
        found: np.ndarray = self._entries & np.uint64(_NX) == 0
        return found

    def set_writable(self, frame: int, writable: bool) -> None:  # noqa: FBT001  # the value
        """Give or take the right to write to a frame, by number."""
        if writable:
            self._entries[frame] |= np.uint64(_WRITE)
        else:
            self._entries[frame] &= ~np.uint64(_WRITE)

    def allow_execution(self, frame: int) -> None:
        """Give the right to execute a frame, by number."""
        self._entries[frame] &= ~np.uint64(_NX)
