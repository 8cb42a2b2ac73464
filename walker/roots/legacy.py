"""What could be roots of PAE and of 32-bit paging in a memory.

Both are hard to tell: a root of PAE paging is four words of 32 bytes, and entries of 32-bit paging
have next to no reserved bits.
"""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.roots.levels import among
from crosswalk.walker.roots.passes import Progress
from crosswalk.walker.roots.sieve import (
    Form,
    Places,
    Sieved,
    blocks,
    first_lines,
    given_back,
    spans_of,
)

__all__ = ["roots_of_32bit", "roots_of_pae"]

_PDPTES = 4
_IGNORED = 0xE18
"""Bits of a present PDPTE beside P that may be set: PWT, PCD and the ignored ones."""

_32_BITS = 1 << 32
_ADDRESS = 0xFFFF_F000
_LARGE_RESERVED = 0x003F_E000
"""Bits 21:13 of an entry that maps 4 MiB: reserved, or an address from 4 GiB up (PSE-36)."""
_CACHING = Entry.PWT | Entry.PCD
_BLOCK = 512


def roots_of_pae(
    memory: PhysicalMemory,
    form: Form,
    sieved: Sieved,
    directories: U64,
    progress: Progress | None = None,
) -> U64:
    """Return the addresses of what could be the four entries of a root of PAE paging, ascending.

    Each entry is zero, or refers to one of the page directories or to a frame without entries, and
    one at least to a directory. CR3 has 32 bits. A is reserved in a PDPTE; what sets it can't be
    entered, but is a root all the same.
    """
    fixed = np.uint64(~(form.field | _IGNORED | Entry.A) & (1 << 64) - 1)
    present = np.uint64(Entry.P)
    found = [np.zeros(0, np.uint64)]
    spans = [(first, min(end, _32_BITS)) for first, end in spans_of(memory) if first < _32_BITS]
    total, done = sum(end - first for first, end in spans) // FRAME, 0
    for frames in blocks(memory, spans) if len(directories) else ():
        words = memory.tables(frames).reshape(-1)
        at = np.unique(np.flatnonzero((words & fixed) == present) // _PDPTES)
        groups = words.reshape(-1, _PDPTES)[at]
        target = (groups & np.uint64(form.field)).reshape(-1)
        fits = (groups & fixed) == present
        leads = fits & among(target, directories).reshape(groups.shape)
        unused = fits & sieved.empty(target).reshape(groups.shape)
        good = ((groups == 0) | leads | unused).all(axis=1) & leads.any(axis=1)
        place = at[good].astype(np.uint64) * np.uint64(8 * _PDPTES)
        row = (place // np.uint64(FRAME)).astype(np.intp)
        found.append(frames[row] + place % np.uint64(FRAME))
        done += len(frames)
        if progress is not None:
            progress("frames searched for roots of PAE paging", done, total)
    return np.concatenate(found)


def roots_of_32bit(memory: PhysicalMemory, progress: Progress | None = None) -> U64:
    """Return the frames that could be page directories of 32-bit paging, ascending.

    Nearly all of their entries map 4 MiB, or refer to frames whose entries nearly all refer to
    memory, or to frames without entries. What lies above 4 GiB isn't looked at.
    """
    spans = [(first, min(end, _32_BITS)) for first, end in spans_of(memory) if first < _32_BITS]
    total, done = sum(end - first for first, end in spans) // FRAME, 0
    empty = Places(spans)
    tables, directories = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for frames in blocks(memory, spans):
        words = memory.tables(frames)
        bits = np.bitwise_or.reduce(words, axis=1)
        present = ((bits | bits >> np.uint64(32)) & np.uint64(Entry.P)) != 0
        empty.put(frames, ~present)
        rows = np.flatnonzero(present)
        rows = rows[_sensible(memory, first_lines(words, rows))]
        some = words[rows]
        tables.append(frames[rows[_sensible(memory, some, large=False)]])
        directories.append(frames[rows[_sensible(memory, some, small=False)]])
        done += len(frames)
        if progress is not None:
            progress("frames searched for tables of 32-bit paging", done, total)
    known, candidates = np.concatenate(tables), np.concatenate(directories)
    kept = [candidates[:0]]
    for at in range(0, len(candidates), _BLOCK):
        part = candidates[at : at + _BLOCK]
        kept.append(part[_leads_on(memory, part, known, empty)])
        given_back(memory, part)
    return np.concatenate(kept)


def _sensible(
    memory: PhysicalMemory, words: U64, *, large: bool = True, small: bool = True
) -> NDArray[np.bool_]:
    """Return which rows of words, uint64[n, m], hold two entries each that nearly all make sense.

    With `small` as entries of a page table, with `large` as those of a page directory, with both as
    either: a directory's refer to tables without caching bits.
    """
    entries = np.ascontiguousarray(words).view(np.uint32).reshape(len(words), words.shape[1] * 2)
    row, at = np.nonzero(entries & np.uint32(Entry.P))
    entry = entries[row, at]
    good = memory.backed((entry & np.uint32(_ADDRESS)).astype(np.uint64))
    is_large = (entry & np.uint32(Entry.PS)) != 0
    if not small:
        good &= (entry & np.uint32(_CACHING)) == 0
    good &= ~is_large
    if large:
        good |= is_large & ((entry & np.uint32(_LARGE_RESERVED)) == 0)
    count = len(words)
    present, fit = np.bincount(row, minlength=count), np.bincount(row[good], minlength=count)
    found: NDArray[np.bool_] = 8 * (present - fit) <= present
    return found


def _leads_on(memory: PhysicalMemory, frames: U64, tables: U64, empty: Places) -> NDArray[np.bool_]:
    """Return which directories nearly always lead to tables, empty frames or pages of 4 MiB."""
    entries = np.ascontiguousarray(memory.tables(frames)).view(np.uint32)
    row, at = np.nonzero(entries & np.uint32(Entry.P))
    entry = entries[row, at]
    target = (entry & np.uint32(_ADDRESS)).astype(np.uint64)
    used = ((entry & np.uint32(Entry.PS)) != 0) | among(target, tables)
    fits = used | empty.has(target)
    count = len(frames)
    present, fit, some = (
        np.bincount(row[each], minlength=count) for each in (slice(None), fits, used)
    )
    kept: NDArray[np.bool_] = (8 * (present - fit) <= present) & (some > 0)
    return kept
