"""What accesses were meant to come to: the rules once more, over intentions instead of words."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedKind, IntendedOutcomes
from crosswalk.emu.fuzz.generate.build_tables import TABLE, Grown
from crosswalk.emu.fuzz.generate.pointers import linear_of
from crosswalk.emu.fuzz.target import End
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import U64, WORDS

__all__ = ["Plans", "intended_of", "plans_of"]

_WRITE, _USER, _EXECUTE = 1, 2, 4
_PDPT = 3
_G = np.uint64(1 << 8)


class Plans:
    """What n paths were meant to be: columns of n rows.

    `sure`: whether anything is meant; `cut`: NOT_PRESENT or RESERVED where the walk is to end
    without a page, else OK; `grant` as `Grown` has it, over all levels; `pa` where the page
    begins, `size` its bytes, `key` its protection key.
    """

    def __init__(self, count: int) -> None:
        self.sure: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.cut: NDArray[np.uint8] = np.full(count, IntendedKind.OK, np.uint8)
        self.grant: NDArray[np.uint8] = np.full(count, 7, np.uint8)
        self.pa: U64 = np.zeros(count, np.uint64)
        self.size: U64 = np.full(count, 4096, np.uint64)
        self.key: NDArray[np.uint8] = np.zeros(count, np.uint8)


def plans_of(context: PagingContext, grown: Grown, tainted: NDArray[np.bool_]) -> Plans:
    """Add up the intentions along each path; `tainted` bool[t * 512] are entries changed since."""
    count = len(grown.step)
    plans = Plans(count)
    going = np.ones(count, np.bool_)
    for level in range(context.levels, 0, -1):
        rows = np.flatnonzero(going)
        at = grown.step[rows, level]
        lost = (at < 0) | tainted[at]
        going[rows[lost]] = False
        rows, at = rows[~lost], at[~lost]
        row, index = at // WORDS, at % WORDS
        kind, grant = grown.kind[row, index], grown.grant[row, index]
        # With NXE clear XD is a reserved bit, and so is G of AMD's upper entries.
        broken = (kind == End.RESERVED) | ((grant & _EXECUTE == 0) & (not context.nxe))
        if level > _PDPT and context.vendor is Vendor.AMD:
            broken |= (grown.words[row, index] & _G) != 0
        broken &= kind != End.ABSENT
        absent, outside = kind == End.ABSENT, (kind == End.OUTSIDE) & ~broken
        leaf = (kind == End.LEAF) & ~broken
        ends = absent | outside | leaf | broken
        plans.sure[rows[ends]] = True
        plans.cut[rows[absent | outside]] = IntendedKind.NOT_PRESENT
        plans.cut[rows[broken]] = IntendedKind.RESERVED
        plans.grant[rows] &= grant
        plans.pa[rows[leaf]] = grown.leaf_pa[row, index][leaf]
        plans.size[rows[leaf]] = 1 << (3 + 9 * level)
        plans.key[rows[leaf]] = (grown.words[row, index][leaf] >> np.uint64(59)) & np.uint64(15)
        going[rows[ends | (kind != TABLE)]] = False
    return plans


def intended_of(
    context: PagingContext, plans: Plans, path: NDArray[np.intp], accesses: Accesses
) -> IntendedOutcomes:
    """Return what n accesses were meant to come to; `path` is -1 for one that follows none.

    An access to no canonical address, or to the half that LASS bars, faults before any table is
    looked at.
    """
    of = np.maximum(path, 0)
    grant, key = plans.grant[of], plans.key[of].astype(np.uint32)
    user, fetch = accesses.cpl == 3, accesses.type == AccessType.EXECUTE
    writes = accesses.type == AccessType.WRITE
    mine = (grant & _USER) != 0
    allowed = np.where(user, mine, True)
    allowed &= ~fetch | ((grant & _EXECUTE) != 0)
    allowed &= ~(fetch & ~user & mine & context.smep)
    allowed &= ~(~fetch & ~user & mine & context.smap & ~accesses.ac)
    bound = user | context.wp
    allowed &= ~writes | ((grant & _WRITE) != 0) | ~bound
    pair = np.uint32(context.pkru) >> (key * np.uint32(2)) & np.uint32(3)
    locked = ((pair & 1) != 0) | (((pair & 2) != 0) & writes & bound)
    locked &= mine & ~fetch & context.pke
    kind = np.where(allowed, IntendedKind.OK, IntendedKind.PROTECTION)
    kind = np.where(locked, IntendedKind.KEY, kind)
    cut = plans.cut[of]
    kind = np.where(cut == IntendedKind.OK, kind, cut)
    linear, strange, barred = linear_of(context, accesses)
    known = (path >= 0) & plans.sure[of]
    kind = np.where(known, kind, IntendedKind.UNKNOWN)
    kind = np.where(barred, IntendedKind.OTHER_HALF, kind)
    kind = np.where(strange, IntendedKind.NOT_CANONICAL, kind).astype(np.uint8)
    offset = linear & (plans.size[of] - np.uint64(1))
    pa = np.where(kind == IntendedKind.OK, plans.pa[of] | offset, np.uint64(0))
    return IntendedOutcomes(kind, pa)
