"""What roots have in common: the upper half of one kernel, and pairs of page-table isolation."""

from collections.abc import Container, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import CR4, PagingContext, PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, level_of
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory
from crosswalk.walker.tables import Entries, read_tables

__all__ = ["kernels_of", "of_one_kernel", "pair_of", "upper_halves"]

_BLOCK = 512

_HALF = WORDS // 2
_KEPT = np.uint64(ADDRESS_FIELD | Entry.P | Entry.RW | Entry.US | Entry.PS | Entry.XD)
"""Of an entry, what address spaces of one kernel have in common: A and ignored bits may differ."""
_SELF = ~np.uint64(0)
"""In place of an entry that refers to its own table: Windows' self-map differs root by root."""


def upper_halves(
    memory: PhysicalMemory, context: PagingContext, roots: U64
) -> Iterator[bytes | None]:
    """Yield a digest of what the upper half of each root refers to; None where that is nothing.

    `context` is that of any of them: they may differ in CR3 alone. Outside IA-32e mode, of the
    upper quarter: systems that give user mode three quarters keep stacks in the third.
    """
    for _, uppers in _uppers(memory, context, roots):
        for upper in uppers:
            yield _digest(upper)


def of_one_kernel(
    memory: PhysicalMemory, context: PagingContext, named: U64, candidates: U64
) -> U64:
    """Return the candidates whose upper quarter maps what that of a `named` root maps, ascending.

    Of 32-bit paging, whose page tables look like page directories. Systems may have a kernel's
    page tables in common, or a copy of them for each process (xv6, vm.c, "setupkvm"): what counts
    is what these tables hold. A named root whose upper quarter is empty tells nothing of others.
    """
    shapes: set[bytes] = set()
    kernels: set[bytes] = set()
    for some, uppers in _uppers(memory, context, named):
        shapes |= {each.tobytes() for each in _shapes(context, uppers, some) if each.any()}
        kernels |= {each for each in _kernels(memory, context, some, uppers) if each is not None}
    kept = [candidates[:0]]
    for some, uppers in _uppers(memory, context, candidates):
        # Few have the same entries, leave alone what these refer to: so few tables are read.
        alike = [each.tobytes() in shapes for each in _shapes(context, uppers, some)]
        chosen = some[alike]
        same = [each in kernels for each in _kernels(memory, context, chosen, uppers[alike])]
        kept.append(chosen[np.array(same, np.bool_)])
    return np.concatenate(kept)


def kernels_of(
    memory: PhysicalMemory, context: PagingContext, roots: U64
) -> Iterator[bytes | None]:
    """Yield what `upper_halves` does, in 32-bit paging with what tables hold in their place."""
    if context.mode is not PagingMode.BIT32:
        yield from upper_halves(memory, context, roots)
        return
    for some, uppers in _uppers(memory, context, roots):
        yield from _kernels(memory, context, some, uppers)


def _uppers(
    memory: PhysicalMemory, context: PagingContext, roots: U64
) -> Iterator[tuple[U64, U64]]:
    """Yield roots, some at a time, and of each what counts of its upper entries, uint64[n, m]."""
    level = level_of(context, context.levels)
    wide = context.mode is not PagingMode.BIT32
    for at in range(0, len(roots), _BLOCK):
        some = roots[at : at + _BLOCK]
        entries = read_tables(memory, level, some)
        first = level.entries // 2 if context.mode.long else level.entries * 3 // 4
        upper = entries[:, first:].astype(np.uint64)
        upper = np.where((upper & np.uint64(Entry.P)) != 0, upper & _KEPT, np.uint64(0))
        if wide:
            own = (upper & np.uint64(context.address_mask)) == some[:, None]
            upper = np.where(own & (upper != 0), _SELF, upper)
        yield some, upper


def _digest(*parts: U64) -> bytes | None:
    """Return a digest of entries and of what belongs to them; None where no entry is present."""
    if not parts[0].any():
        return None
    return blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).digest()


def _tables_in(context: PagingContext, uppers: U64) -> NDArray[np.bool_]:
    """Return which entries of page directories of 32-bit paging refer to tables."""
    found: NDArray[np.bool_] = (uppers & np.uint64(Entry.P)) != 0
    if context.cr4 & CR4.PSE:
        found &= (uppers & np.uint64(Entry.PS)) == 0
    return found


def _shapes(context: PagingContext, uppers: U64, roots: U64) -> U64:
    """Return the upper entries of page directories without the addresses of tables.

    One that refers to its own table, so that the tables are mapped, has its place taken.
    """
    tables = _tables_in(context, uppers)
    address = np.uint64(context.address_mask)
    own = tables & ((uppers & address) == roots[:, None])
    return np.where(own, _SELF, np.where(tables, uppers & ~address, uppers))


def _kernels(
    memory: PhysicalMemory, context: PagingContext, roots: U64, uppers: U64
) -> Iterator[bytes | None]:
    """Yield a digest of what the upper entries of each page directory lead to, None for nothing."""
    address = np.uint64(context.address_mask)
    shapes = _shapes(context, uppers, roots)
    tables = _tables_in(context, uppers) & (shapes != _SELF)
    below = np.unique(uppers[tables] & address)
    held = np.zeros(len(below), np.uint64)
    for at in range(0, len(below), _BLOCK):
        frames = below[at : at + _BLOCK]
        for place, words in enumerate(read_tables(memory, level_of(context, 1), frames), at):
            held[place] = _held(words)
    # A table that holds nothing, or isn't in memory, stands for itself.
    held = np.where(held != 0, held, below)
    for shape, upper, some in zip(shapes, uppers, tables, strict=True):
        yield _digest(shape, held[np.searchsorted(below, upper[some] & address)])


def _held(words: Entries) -> int:
    """Return a number for what a page table maps, and with what rights; 0 for nothing."""
    entries = words.astype(np.uint64)
    entries = np.where((entries & np.uint64(Entry.P)) != 0, entries & _KEPT, np.uint64(0))
    if not entries.any():
        return 0
    return int.from_bytes(blake2b(entries.tobytes(), digest_size=8).digest(), "little")


def pair_of(memory: PhysicalMemory, context: PagingContext, roots: Container[int]) -> int | None:
    """Return the other root of a pair of page-table isolation, or None.

    The two are the halves of 8 KiB: the kernel's, and user mode's above it (Linux,
    arch/x86/include/asm/pgtable.h, "PTI_PGTABLE_SWITCH_BIT"). They have the lower half in common,
    but for XD, and of the kernel's upper half the other has a few entries. Where the lower half is
    empty, the other one has to be among `roots`, too, as the few entries alone say little.
    """
    if not context.mode.long:
        return None
    kernel, user = context.root & ~FRAME, context.root | FRAME
    frames = np.array([kernel, user], np.uint64)
    if not memory.backed(frames).all():
        return None
    ours, theirs = memory.tables(frames)
    if not _is_pair(ours, theirs):
        return None
    partner = context.root ^ FRAME
    lower = (ours[:_HALF] & np.uint64(Entry.P)).any()
    return partner if lower or partner in roots else None


def _is_pair(kernel: U64, user: U64) -> bool:
    """Return whether two tables are the kernel's and user mode's of one address space."""
    kept = _KEPT & ~np.uint64(Entry.XD)
    present = np.uint64(Entry.P)
    ours, theirs = (
        np.where((each & present) != 0, each & kept, np.uint64(0)) for each in (kernel, user)
    )
    all_of_them, some = ours[_HALF:] != 0, theirs[_HALF:] != 0
    few = 0 < int(some.sum()) < int(all_of_them.sum()) and not (some & ~all_of_them).any()
    return few and np.array_equal(ours[:_HALF], theirs[:_HALF])
