"""Second-level tables as an image: just as many frames as the ranges that they map need."""

from collections.abc import Iterable, Iterator

import numpy as np

from crosswalk.walker.entry import LEVELS
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.memory import WORDS
from crosswalk.walker.nested.tables import NestedTables, Run
from crosswalk.walker.protection.policy import TableKind

__all__ = ["MAX_TABLES", "tables_image"]

MAX_TABLES = 1 << 17
"""The most tables of an image: 512 MiB, for 256 GiB of RAM without a large page."""


def tables_image(
    ranges: Iterable[Run],
    pa: int,
    *,
    kind: TableKind,
    levels: int = 4,
    offset: int = 0,
    page1gb: bool = True,
    limit: int = MAX_TABLES,
) -> tuple[bytes, NestedTables]:
    """Return tables that grant these ranges, as they lie at system-physical `pa`, and in use.

    The root is first. `ranges` and the options are as for `NestedTables`, errors too;
    `LimitExceeded` where more than `limit` tables are needed.
    """
    found = list(_folded(ranges))
    count = _needed(found, levels, offset, page1gb=page1gb)
    if count > limit:
        raise LimitExceeded(f"{count:,} tables would be needed; at most {limit:,} are written")
    words = np.zeros(count * WORDS, np.uint64)
    tables = NestedTables(words, pa, kind=kind, levels=levels, offset=offset, page1gb=page1gb)
    tables.update(found)
    return words.astype("<u8").tobytes(), tables


def _folded(ranges: Iterable[Run]) -> Iterator[Run]:
    """Yield the ranges in which something is granted, neighbours of equal rights as one."""
    last = None
    for start, size, rights in ranges:
        if last is not None and last[0] + last[1] == start and last[2] == rights:
            last = (last[0], last[1] + size, rights)
            continue
        if last is not None and last[2]:
            yield last
        last = (start, size, rights)
    if last is not None and last[2]:
        yield last


def _needed(ranges: list[Run], levels: int, offset: int, *, page1gb: bool) -> int:
    """Return how many tables map folded ranges: the root, and one for each entry that is no leaf.

    An entry is none where a range begins or ends within what it covers; where leaves of its size
    can't be, also where a range covers all of it.
    """
    count = 1
    for level in range(2, levels + 1):
        span = LEVELS[level].span
        leaves = level <= (3 if page1gb else 2) and offset % span == 0
        last = -1
        for start, size, _ in ranges:
            first, end = start // span, (start + size - 1) // span
            if not leaves:
                count += end - max(first - 1, last)
                last = end
                continue
            for at, cut in ((first, start % span), (end, (start + size) % span)):
                if cut and at > last:
                    count += 1
                    last = at
    return count
