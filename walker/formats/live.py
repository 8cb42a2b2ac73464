"""Live guests among the sources: told by their names, read at once, and let go.

What speaks to one (`crosswalk.walker.formats.gdb`) is imported where there is one.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.second_level import TableContext
from crosswalk.walker.states import distinct_states

__all__ = ["PREFIX", "Guest", "LiveMemory", "names_live_guest", "released_on_error", "settle"]

PREFIX = "gdb:"
"""What the name of a live guest begins with."""

_SETTLED = 1 << 16
"""The most tables that are read at once and kept, 256 MiB of them, so that the guest can go on."""


class Guest(Protocol):
    """A guest that is paused, and the number of frames that were read of it."""

    fetched: int

    def fetch(self, frames: U64) -> U64:
        """Return the words of these frames, uint64[n, 512]."""
        ...

    def release(self) -> None:
        """Let the guest go as it was found; what hasn't been read can't be any more."""
        ...


class LiveMemory(FetchedMemory):
    """The RAM of a guest that is paused, as far as QEMU's dump-guest-memory writes it.

    That is RAM and ROM, and no device: to read one may change it.
    """

    def __init__(self, guest: Guest, ranges: Iterable[tuple[int, int]]) -> None:
        super().__init__(ranges, guest.fetch, cached=_SETTLED)
        self._guest = guest
        self.read_first: Callable[[PagingContext], object] | None = None
        """What is called with an address space before the guest goes on: what it reads is kept."""

    @property
    def fetched(self) -> int:
        """The number of frames that were read so far."""
        return self._guest.fetched

    def holds(self, frames: U64) -> bool:
        """Return whether those of these frames that are backed have been read, and are kept."""
        return all(frame in self._kept for frame in frames[self.backed(frames)].tolist())

    def release(self) -> None:
        """Let the guest go as it was found; what hasn't been read can't be any more."""
        self._guest.release()


def names_live_guest(source: str | os.PathLike[str]) -> bool:
    """Return whether a source is a live guest, gdb:HOST:PORT, and no file."""
    return isinstance(source, str) and source.startswith(PREFIX)


def settle(memory: PhysicalMemory, contexts: Sequence[TableContext]) -> None:
    """Read all tables of these address spaces, and let a live guest go as it was found.

    What `LiveMemory.read_first` reads by the first of them is kept, too. Where they are more than
    are kept, it stays paused. Does nothing for other memory.
    """
    if not isinstance(memory, LiveMemory):
        return
    if memory.read_first is not None and contexts and isinstance(contexts[0], PagingContext):
        memory.read_first(contexts[0])
    tables = [
        np.unique(block.key & ~np.uint64(FRAME - 1))
        for context in contexts
        for block in distinct_states(memory, context)
    ]
    if memory.holds(np.concatenate([np.zeros(0, np.uint64), *tables])):
        memory.release()


@contextmanager
def released_on_error(memory: PhysicalMemory) -> Iterator[None]:
    """Let a live guest go as it was found if there is an error inside."""
    try:
        yield
    except BaseException:
        if isinstance(memory, LiveMemory):
            memory.release()
        raise
