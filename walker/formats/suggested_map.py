"""Which memory map would make sense of a raw image that is read without one."""

from collections.abc import Iterator

import numpy as np

from crosswalk.walker.formats.memory_map import PRESETS, around_hole
from crosswalk.walker.memory import PhysicalMemory, Segments
from crosswalk.walker.spaces import Contexts
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["hole_maps", "map_with", "suggested_map"]


def suggested_map(
    memory: PhysicalMemory, contexts: Contexts
) -> tuple[str, Unfollowed, Unfollowed] | None:
    """Return the map of a PC's hole that makes more sense of a raw image; None where none does.

    `memory` is that of an image that was read without a map. The map is a text for `pieces_of`;
    with it come what couldn't be followed without it, and with it: less than half as many entries.
    Of the holes of all presets it is the one by which the most entries can be followed.
    """
    found = unfollowed(memory, contexts)
    if not found.outside and not found.implausible and found.entries:
        return None
    best: tuple[str, Unfollowed] | None = None
    for text, moved in hole_maps(memory):
        left = unfollowed(moved, contexts)
        if left.implausible or not left.entries or 2 * len(left) >= max(len(found), 1):
            continue
        # By a wrong map, tables are found that are empty, or none.
        if best is None or _followed(left) > _followed(best[1]):
            best = text, left
    return None if best is None else (best[0], found, best[1])


def map_with(memory: PhysicalMemory, frame: int) -> str | None:
    """Return the first map of a PC's hole by which a raw image has a frame; None where none has it.

    `memory` is that of an image that was read without a map, `frame` a physical address.
    """
    wanted = np.array([frame], np.uint64)
    return next((text for text, moved in hole_maps(memory) if moved.backed(wanted)[0]), None)


def hole_maps(memory: PhysicalMemory) -> Iterator[tuple[str, Segments]]:
    """Yield the maps of all presets that move a part of a raw image, and the memory by each.

    `memory` is that of an image that was read without a map: of others there are none.
    """
    if not isinstance(memory, Segments) or [start for start, _ in memory.parts] != [0]:
        return
    data = memory.parts[0][1]
    for below in sorted({preset(data.size) for preset in PRESETS.values()} - {data.size}):
        pieces = around_hole(below, data.size)
        moved = Segments((each.pa, data[each.offset :][: each.size]) for each in pieces)
        yield f"pc:{_size(below)}", moved


def _followed(found: Unfollowed) -> int:
    return found.entries - len(found)


def _size(count: int) -> str:
    return f"{count >> 30}G" if count % (1 << 30) == 0 else f"{count >> 20}M"
