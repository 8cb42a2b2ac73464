"""EPT entries in bulk: the rules of `crosswalk.walker.nested.ept`, stated over arrays."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import U64
from crosswalk.walker.nested.context import EptContext
from crosswalk.walker.nested.ept import (
    EPT_TYPE_SHIFT,
    XU_DISTANCE,
    EptEntry,
    ept_maps_large,
)
from crosswalk.walker.protection.policy import Use

__all__ = ["ept_leaves_among", "ept_types_of", "ept_uses_of_entries"]


def ept_leaves_among(context: EptContext, level: int, entries: U64) -> NDArray[np.bool_]:
    """Return which of these present entries of one level map a page, as bool[n]."""
    if level == 1:
        return np.ones(len(entries), np.bool_)
    if not ept_maps_large(context, level):
        return np.zeros(len(entries), np.bool_)
    large: NDArray[np.bool_] = (entries & np.uint64(EptEntry.PS)) != 0
    return large


def ept_types_of(entries: U64) -> NDArray[np.uint8]:
    """Return the number in the memory-type field of each leaf, uint8[n]."""
    return (entries >> np.uint64(EPT_TYPE_SHIFT)).astype(np.uint8) & np.uint8(7)


def ept_uses_of_entries(context: EptContext, entries: U64) -> NDArray[np.uint8]:
    """Return what each of these present entries lets through, as `Use`, uint8[n]."""
    found = entries.astype(np.uint8) & np.uint8(Use.READ | Use.WRITE | Use.SUPERVISOR_EXECUTE)
    if context.mbec:
        user = (entries >> np.uint64(XU_DISTANCE)).astype(np.uint8)
    else:
        user = found << np.uint8(1)
    found |= user & np.uint8(Use.USER_EXECUTE)
    return found
