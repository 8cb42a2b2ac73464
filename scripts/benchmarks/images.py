"""Paging structures to walk: built in memory by numpy, the same every time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker import PagingContext, Segments

__all__ = ["IMAGES", "Image", "dense", "random_frames"]

U64 = NDArray[np.uint64]

_P, _RW, _US, _A, _D, _PS = 0x1, 0x2, 0x4, 0x20, 0x40, 0x80
_XD = 1 << 63
_TABLE = _P | _RW | _US | _A
_PAGES = 1 << 32
"""Where the pages lie: far above the tables, which nothing may map."""


@dataclass(frozen=True)
class Image:
    """Physical memory from 0, uint64 words, whose first frame is the PML4."""

    name: str
    words: U64
    leaves: int

    @property
    def memory(self) -> Segments:
        """The same as the walker's `PhysicalMemory`, not copied."""
        return Segments([(0, self.words.view(np.uint8))])

    @property
    def context(self) -> PagingContext:
        """The processor state under which it is walked."""
        return PagingContext(cr3=0)


def dense(count: int = 1_000_000, name: str = "dense") -> Image:
    """Return `count` 4-KiB pages without a gap, their tables one after the other.

    Rights change every 64 pages, A and D at random: nothing is the same all over.
    """
    random = np.random.default_rng(1)
    words = _leaves(random, count)
    words += np.arange(count, dtype=np.uint64) << np.uint64(12)
    return _stack(name, [words], count)


def random_frames(count: int = 1_000_000, name: str = "random") -> Image:
    """Return `count` 4-KiB pages without a gap in linear addresses, of frames at random.

    Of 2^27 frames (512 GiB): hardly any two are neighbours or the same.
    """
    random = np.random.default_rng(5)
    words = _leaves(random, count)
    words += random.integers(0, 1 << 27, count).astype(np.uint64) << np.uint64(12)
    return _stack(name, [words], count)


def mixed() -> Image:
    """Return about 224,000 pages of all sizes as a machine in use has them.

    4-KiB pages in full tables and in half-empty ones, runs of 2-MiB pages between them, a few
    pages of 1 GiB, holes everywhere, tables in no order.
    """
    random = np.random.default_rng(2)
    gigabytes = 4
    kind = np.repeat(random.choice(4, 200 * gigabytes, p=[0.13, 0.17, 0.45, 0.25]), 3)
    kind = kind[: 512 * gigabytes]
    full, partial = int((kind == 0).sum()), int((kind == 1).sum())
    below = _leaves(random, 512 * (full + partial))
    below += np.arange(below.size, dtype=np.uint64) << np.uint64(12)
    below = below.reshape(-1, 512)
    filled = random.permutation(full + partial) < full
    holes = random.random(below.shape) < random.beta(1, 1, (len(below), 1))
    below[holes & ~filled[:, None]] = 0

    directory = np.zeros(512 * gigabytes, np.uint64)
    directory[kind < 2] = _TABLE  # The address follows when the tables have their place.
    large = kind == 2
    directory[large] = _leaves(random, int(large.sum())) | np.uint64(_PS)
    directory[large] += np.flatnonzero(large).astype(np.uint64) << np.uint64(21)
    third = np.zeros(2 * gigabytes + 8, np.uint64)
    third[: 2 * gigabytes : 2] = _TABLE
    third[1 : 2 * gigabytes : 2] = _P | _RW | _PS | _XD
    third[1 : 2 * gigabytes : 2] |= (np.arange(8, 8 + gigabytes).astype(np.uint64)) << np.uint64(30)
    return _stack("mixed", [below, directory, third], shuffle=random)


def sparse(count: int = 50_000, tables: int = 20_000) -> Image:
    """Return `count` pages over so many page tables: 2 or 3 in each; tables in order."""
    return _sparse("sparse", count, tables, None)


def scattered(count: int = 50_000, tables: int = 20_000) -> Image:
    """Return the same as `sparse` with its tables in no order."""
    return _sparse("scattered", count, tables, np.random.default_rng(4))


def _sparse(name: str, count: int, tables: int, shuffle: np.random.Generator | None) -> Image:
    random = np.random.default_rng(3)
    words = np.zeros(512 * tables, np.uint64)
    at = np.arange(count) % tables * 512 + random.permutation(512 * count)[:count] % 512
    at = np.unique(at)
    while len(at) < count:
        more = random.integers(0, 512 * tables, count - len(at))
        at = np.unique(np.concatenate([at, more]))
    words[at] = _leaves(random, count)
    words[at] += np.arange(count, dtype=np.uint64) << np.uint64(12)
    return _stack(name, [words], shuffle=shuffle)


def _leaves(random: np.random.Generator, count: int) -> U64:
    """Return present entries with all sorts of rights, pointing to the first page."""
    words = np.full(count, _PAGES | _P, np.uint64)
    words |= random.choice(np.array([_A, _A | _D, 0], np.uint64), count, p=[0.5, 0.4, 0.1])
    rights = np.array([_RW | _XD, _US, _RW | _US | _XD, _XD, 0], np.uint64)
    words |= np.repeat(random.choice(rights, count // 64 + 1), 64)[:count]
    return words


def _stack(
    name: str,
    levels: list[U64],
    leaves: int | None = None,
    *,
    shuffle: np.random.Generator | None = None,
) -> Image:
    """Return the image of these levels, lowest first, with upper ones added up to the PML4.

    An entry that has no address yet leads to the next table of the level below, in order.
    """
    whole = [_whole_tables(level) for level in levels]
    while len(whole) < 4:
        whole.append(_whole_tables(np.full(len(whole[-1]), _TABLE, np.uint64)))
    whole.reverse()
    frames = np.arange(1, sum(len(level) for level in whole), dtype=np.uint64)
    if shuffle is not None:
        shuffle.shuffle(frames)
    frames = np.concatenate([np.zeros(1, np.uint64), frames])
    words = np.zeros((len(frames), 512), np.uint64)
    first = 0
    for depth, level in enumerate(whole):
        if depth < 3:
            leads = level == _TABLE
            below = first + len(level)
            level[leads] |= frames[below : below + int(leads.sum())] << np.uint64(12)
        words[frames[first : first + len(level)]] = level
        first += len(level)
    return Image(name, words.reshape(-1), leaves if leaves is not None else _count(whole))


def _whole_tables(words: U64) -> U64:
    padded = np.zeros(-(-words.size // 512) * 512, np.uint64)
    padded[: words.size] = words.reshape(-1)
    return padded.reshape(-1, 512)


def _count(levels: list[U64]) -> int:
    """Return the leaves: whatever is present and leads to no table."""
    present = sum(int(np.count_nonzero(level & np.uint64(_P))) for level in levels)
    return present - sum(len(level) for level in levels) + 1


IMAGES: dict[str, Callable[[], Image]] = {
    "dense": dense,
    "mixed": mixed,
    "sparse": sparse,
    "scattered": scattered,
    "random": random_frames,
}
