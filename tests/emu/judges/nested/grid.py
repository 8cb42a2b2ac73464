"""Pairs of tables made by hand: each combination of the host's rights, and every access to it."""

import numpy as np

from crosswalk.emu.judges.nested.judge import NestedQuestion
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext, Vendor
from crosswalk.walker.memory import FRAME, WORDS, Segments
from crosswalk.walker.nested.context import EptContext, NestedContext

HOST, GUEST, PAGES = 0, 4, 8
"""The first frames of the host's tables, of the guest's, and of pages; all lie from 0 up."""

VA = 0x40_0000_0000
_TABLE, _USED = 0x67, 0x60
_EPT_TABLE, _EPT_USED, _WB = 0x407, 0x300, 6 << 3


def ept_entries():
    """EPT entries of the last level: each of R, W, X and XU or not."""
    return [bits & 7 | (bits & 8) << 7 | _WB | _EPT_USED if bits else 0 for bits in range(16)]


def npt_entries():
    """Nested entries of the last level: each of P, W, U and NX or not."""
    return [bits & 7 | (bits & 8) << 60 for bits in range(16)]


def grid(entries, table, host, *, wp=True, nxe=True, used=True):
    """A question: two pages, one the supervisor's, for each entry of the host's last level.

    `table` are the flags of the host's other entries.
    """
    count = 2 * len(entries)
    words = np.zeros((PAGES + count, WORDS), np.uint64)
    for level in range(3):
        words[HOST + level, 0] = (HOST + level + 1) * FRAME | table
        words[GUEST + level, VA >> 39 - 9 * level & 511] = (GUEST + level + 1) * FRAME | _TABLE
    everything = 0x67 if table == _TABLE else _EPT_TABLE | _WB | _EPT_USED
    words[HOST + 3, :PAGES] = np.arange(PAGES, dtype=np.uint64) * np.uint64(FRAME) | np.uint64(
        everything
    )
    for page in range(count):
        entry, user = entries[page // 2], 4 * (page % 2)
        marks = _USED if used else 0
        words[HOST + 3, PAGES + page] = (PAGES + page) * FRAME | entry
        words[GUEST + 3, page] = (PAGES + page) * FRAME | 3 | user | marks
    guest = PagingContext(
        cr3=GUEST * FRAME,
        cr0=0x8000_0033 | (int(CR0.WP) if wp else 0),
        cr4=int(CR4.PAE),
        efer=int(EFER.LME | EFER.LMA) | (int(EFER.NXE) if nxe else 0),
        vendor=Vendor.INTEL if isinstance(host, EptContext) else Vendor.AMD,
    )
    accesses = tuple(
        Access(VA + page * FRAME + 8 * page + kind, kind, cpl)
        for page in range(count)
        for kind in AccessType
        for cpl in (0, 3)
    )
    return NestedQuestion(
        Segments([(0, words.tobytes())]),
        NestedContext(guest, host),
        accesses,
        frozenset(range(0, PAGES * FRAME, FRAME)),
    )


def ept_grid(*, mbec=False, accessed_dirty=False, **options):
    """The grid of EPT: 192 accesses."""
    host = EptContext.at(HOST * FRAME, mbec=mbec, accessed_dirty=accessed_dirty)
    return grid(ept_entries(), _EPT_TABLE, host, **options)


def npt_grid(*, host_nxe=True, **options):
    """The grid of nested paging: 192 accesses."""
    efer = int(EFER.LME | EFER.LMA) | (int(EFER.NXE) if host_nxe else 0)
    host = PagingContext(cr3=HOST * FRAME, efer=efer, vendor=Vendor.AMD)
    return grid(npt_entries(), _TABLE, host, **options)
