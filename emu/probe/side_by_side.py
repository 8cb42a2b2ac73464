"""Address spaces side by side in one physical memory: where each is put, and what is in it then.

All of the emulated CPU's physical memory is RAM here. An address space is put there with its
physical addresses changed in bits 30 to 39 alone, by XOR with one number of its own: entries,
root and frames alike. That is one-to-one, keeps every bit that an entry may have reserved or
unused, and keeps large pages aligned. The numbers are chosen so that no two address spaces name
the same GiB, in RAM of theirs or not: what one reaches, none of the others does.

RAM where a source has none changes no outcome: a table there reads as zeros, not present, and a
page there is reached as one without RAM is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import ADDRESS, Control
from crosswalk.emu.probe.frames import words_of
from crosswalk.emu.probe.paths import PagingFormat, distinct, find_tables, format_of
from crosswalk.emu.probe.shared_trampoline import START
from crosswalk.walker.memory import U64, PhysicalMemory, SparseWords

__all__ = ["Content", "Places", "content_of", "moved", "tables_of"]

_GIB = 30
_GIBS = 1 << MAXPHYADDR - _GIB
_PRESENT = np.uint64(1)
MAX_FRAMES = 256
"""The most frames of an address space that is put beside others."""
_MAX_NAMED = 64


@dataclass(frozen=True, slots=True)
class Content:
    """The frames of an address space that may be tables: uint64[n], ascending, and [n, 512].

    `named` are the GiB that its present entries and its root name, as a set of numbers.
    """

    control: Control
    form: PagingFormat
    frames: U64
    words: U64
    named: frozenset[int]


def content_of(memory: PhysicalMemory, control: Control) -> Content | None:
    """Return what an address space has to have beside others; None where it has to be alone.

    Because it names too much, or has too many tables.
    """
    form = format_of(control)
    if isinstance(memory, SparseWords):
        frames, words = memory.content()
    else:
        frames = find_tables(memory, form, control.root)
        words = words_of(memory, frames[: MAX_FRAMES + 1])
    if len(frames) > MAX_FRAMES:
        return None
    entries = words[(words & _PRESENT) != 0] & np.uint64(ADDRESS)
    places = set((entries >> np.uint64(_GIB)).tolist())
    # An entry with a higher address is malformed for the emulated CPU.
    named = frozenset({control.root >> _GIB, *(each for each in places if each < _GIBS)})
    return None if len(named) > _MAX_NAMED else Content(control, form, frames, words, named)


class Places:
    """The GiB that are taken, and where the next address space fits."""

    def __init__(self) -> None:
        self._taken = {START >> _GIB}
        self._next: dict[frozenset[int], int] = {}

    def take(self, named: frozenset[int]) -> int | None:
        """Return what to change addresses by for these GiB to be nobody else's, or None."""
        taken = self._taken
        for number in range(self._next.get(named, 0), _GIBS):
            if not any(gib ^ number in taken for gib in named):
                taken.update(gib ^ number for gib in named)
                self._next[named] = number + 1
                return number << _GIB
        return None


def moved(entries: U64, by: U64) -> U64:
    """Return entries with the addresses of those that are present changed by XOR."""
    return entries ^ (entries & _PRESENT) * by


def tables_of(
    form: PagingFormat, roots: U64, frames: U64, row: NDArray[np.intp], entries: U64
) -> U64:
    """Return all frames that may be used as tables, ascending, with content or not.

    `frames` uint64[n] are those with content, of address spaces whose roots are these; `entries`
    uint64[e] are the present ones in them, and `row` the frame of each. Each frame is looked at
    once a level, so that cycles end.
    """
    leads = entries & np.uint64(form.address)
    inside = leads >> np.uint64(MAXPHYADDR) == 0
    order = np.argsort(frames)
    below, at_roots = (_places(frames, order, wanted) for wanted in (leads, roots))
    level = np.zeros(len(frames) + 1, np.bool_)
    level[at_roots] = True
    found = [roots]
    for shift, _ in form.levels[:-1]:
        down = level[row] & inside & form.tables(entries, shift)
        found.append(leads[down])
        level[:] = False
        level[below[down]] = True
    return distinct(np.concatenate(found))


def _places(frames: U64, order: NDArray[np.intp], wanted: U64) -> NDArray[np.intp]:
    """Return which of n frames each of these is, n for none; `order` is that of the frames."""
    if not len(frames):
        return np.zeros(len(wanted), np.intp)
    found = np.searchsorted(frames, wanted, sorter=order)
    found[found == len(frames)] = 0
    found = order[found]
    return np.where(frames[found] == wanted, found, len(frames))
