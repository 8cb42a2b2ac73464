"""A guest of a few frames, and the nested tables beneath, to be spoilt entry by entry."""

import numpy as np

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import Segments
from crosswalk.walker.nested.context import NestedContext
from tests.tables import OPEN, A, D

SHIFT = 20
"""Guest frame k is the host's frame k + SHIFT."""

FRAMES, PAGE = 64, 0x1000
GUEST = {level: 5 - level for level in (4, 3, 2, 1)}
HOST = {level: 14 - level for level in (4, 3, 2, 1)}
"""The frames of the tables by level: guest-physical ones, system-physical ones."""


class TwoStages:
    """Both dimensions' tables: va k * 4096 is guest frame k, is the host's frame k + SHIFT.

    In all entries A is set, and D in the leaves: only what a test clears is there to be set.
    """

    def __init__(self, **registers):
        self.words = np.zeros((FRAMES, 512), np.uint64)
        self.words[40:] = np.arange(24 * 512, dtype=np.uint64).reshape(24, 512)
        for level in (4, 3, 2):
            self.guest(level, 0, GUEST[level - 1] * PAGE | OPEN | A)
            self.host(level, 0, HOST[level - 1] * PAGE | OPEN | A)
        for frame in range(32):
            self.guest(1, frame, frame * PAGE | OPEN | A | D)
            self.host(1, frame, (frame + SHIFT) * PAGE | OPEN | A | D)
        host_nxe = registers.pop("host_nxe", True)
        self.context = NestedContext(
            PagingContext(cr3=GUEST[4] * PAGE, vendor=Vendor.AMD, **registers),
            PagingContext(cr3=HOST[4] * PAGE, efer=0xD00 if host_nxe else 0x500, vendor=Vendor.AMD),
        )

    def guest(self, level, index, entry):
        """Write an entry of the guest's table of this level."""
        self.words[GUEST[level] + SHIFT, index] = entry

    def host(self, level, index, entry):
        """Write an entry of the nested table of this level."""
        self.words[HOST[level], index] = entry

    @property
    def memory(self):
        """System-physical memory, as it is now."""
        return Segments([(0, self.words.tobytes())])


def guest_entry(level, index):
    """Return where the host has an entry of the guest's table of this level."""
    return (GUEST[level] + SHIFT) * PAGE + 8 * index


def host_entry(level, index):
    """Return where a nested entry is."""
    return HOST[level] * PAGE + 8 * index
