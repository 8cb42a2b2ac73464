"""What becomes of a pointer before the walk: by hand, from the manuals."""

import pytest

from crosswalk.emu.fuzz.generate.intended import linear_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor

R, X = AccessType.READ, AccessType.EXECUTE
U57, U48 = 1 << 61, 1 << 62
SMAP, LASS, SUP, LA57 = 1 << 21, 1 << 27, 1 << 28, 1 << 12
UAIE = 1 << 20
NON_CANONICAL, BLOCKED = "non-canonical", "blocked"


def context(cr3=0, cr4=0, efer=0, vendor=Vendor.INTEL):
    return PagingContext(cr3=0x1000 | cr3, cr4=0x20 | cr4, efer=0xD00 | efer, vendor=vendor)


def made_of(under, va, kind=R, cpl=0, ac=False):
    linear, non_canonical, blocked = linear_of(under, Accesses.of([Access(va, kind, cpl, ac)]))
    if non_canonical[0]:
        return NON_CANONICAL
    return BLOCKED if blocked[0] else int(linear[0])


USER = 0x0000_7FFF_1234_5678
KERNEL = 0xFFFF_8000_1234_5678


@pytest.mark.parametrize(
    ("under", "va", "kind", "expected"),
    [
        # No feature: bits 63:47 have to be equal.
        (context(), USER, R, USER),
        (context(), USER | 0x12 << 57, R, NON_CANONICAL),
        (context(cr4=LA57), USER | 1 << 48, R, USER | 1 << 48),
        # LAM_U57: bits 62:57 of a pointer with bit 63 clear are ignored, 56:48 aren't.
        (context(U57), USER | 0x3F << 57, R, USER),
        (context(U57), USER | 0x3F << 57, X, NON_CANONICAL),
        (context(U57), USER | 1 << 56, R, NON_CANONICAL),
        (context(U57), KERNEL & ~(1 << 57), R, NON_CANONICAL),
        # LAM_U48: bits 62:48; bit 63 has to be what bit 47 is.
        (context(U48), USER | 0x7FFF << 48, R, USER),
        (context(U48), 0x0000_8000_0000_0000, R, NON_CANONICAL),
        (context(U48, cr4=LA57), USER | 0x7FFF << 48, R, USER),
        # Both: U57 goes before.
        (context(U57 | U48), USER | 1 << 48, R, NON_CANONICAL),
        # LAM_SUP: of pointers with bit 63 set, bits 62:48, or 62:57 with five levels.
        (context(cr4=SUP), KERNEL & ~(0x7FFF << 48), R, KERNEL),
        (context(cr4=SUP), KERNEL & ~(0x7FFF << 48), X, NON_CANONICAL),
        (context(cr4=SUP), 0x8000_7FFF_0000_0000, R, NON_CANONICAL),
        (context(cr4=SUP | LA57), 0xFFFF_8000_0000_0000 & ~(0x3F << 57), R, 0xFFFF_8000_0000_0000),
        (context(cr4=SUP | LA57), 0x80FF_8000_0000_0000, R, NON_CANONICAL),
        # UAI: bits 63:57 of any data access; 56:47 have to be equal with four levels.
        (context(efer=UAIE, vendor=Vendor.AMD), USER | 0x7F << 57, R, USER),
        (context(efer=UAIE, vendor=Vendor.AMD), KERNEL & ~(0x7F << 57), R, KERNEL),
        (context(efer=UAIE, vendor=Vendor.AMD), USER | 0x7F << 57, X, NON_CANONICAL),
        (context(efer=UAIE, vendor=Vendor.AMD), USER | 1 << 56, R, NON_CANONICAL),
    ],
)
def test_which_bits_are_ignored(under, va, kind, expected):
    assert expected == made_of(under, va, kind)


@pytest.mark.parametrize(
    ("cr4", "va", "kind", "cpl", "ac", "barred"),
    [
        (LASS, KERNEL, R, 3, False, True),
        (LASS, KERNEL, X, 3, False, True),
        (LASS, USER, R, 3, False, False),
        (LASS, USER, X, 0, False, True),
        (LASS, USER, X, 0, True, True),
        (LASS, USER, R, 0, False, False),
        (LASS | SMAP, USER, R, 0, False, True),
        (LASS | SMAP, USER, R, 0, True, False),
        (LASS | SMAP, USER, X, 0, True, True),
        (LASS | SMAP, KERNEL, R, 0, False, False),
        (SMAP, KERNEL, R, 3, False, False),
    ],
)
def test_which_half_lass_bars(cr4, va, kind, cpl, ac, barred):
    assert barred == (made_of(context(cr4=cr4), va, kind, cpl, ac) == BLOCKED)
