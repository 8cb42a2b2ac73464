"""Walks that list something otherwise than it is."""

import numpy as np

from crosswalk.walker import walk_leaves
from crosswalk.walker.leaves import Leaves


def changed(change):
    """The walk, with its whole list as `change` makes it."""

    def walk(memory, found, start=0, end=1 << 64):
        leaves = Leaves.join([Leaves.none(), *walk_leaves(memory, found)])
        leaves = change(leaves)
        last = leaves.va + leaves.size - np.uint64(1)
        yield leaves.take((last >= start) & (leaves.va <= end - 1))

    return walk


def page_of(leaves, va):
    """The rows of the page at this address, bool[n]."""
    return leaves.va == np.uint64(va)


def dropped(va):
    """The walk without the page at this address."""
    return changed(lambda leaves: leaves.take(~page_of(leaves, va)))
