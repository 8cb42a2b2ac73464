"""What the processor makes of an access's address before it walks, stated apart from the walker.

Linear-address masking, upper-address ignore, linear-address-space separation, and whether the
address is canonical: decided from the registers' bits.

Source: Intel SDM vol. 3A, "Linear-Address Masking (LAM)", "Linear-Address-Space Separation
(LASS)"; AMD APM vol. 2, "Upper Address Ignore".
"""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64

__all__ = ["ignores_bits", "linear_of"]

Bools = NDArray[np.bool_]

_LAM_U57, _LAM_U48 = 61, 62  # Of CR3.
_SMAP, _LASS, _LAM_SUP = 21, 27, 28  # Of CR4.
_UAIE = 20  # Of EFER.
_SIGN = np.uint64(63)


def ignores_bits(context: PagingContext) -> bool:
    """Return whether some accesses have upper address bits that the processor ignores."""
    lam = context.cr3 >> _LAM_U57 & 3 or context.cr4 >> _LAM_SUP & 1
    return bool(lam or context.efer >> _UAIE & 1)


def linear_of(context: PagingContext, accesses: Accesses) -> tuple[U64, Bools, Bools]:
    """Return the linear addresses, uint64[n]; which aren't canonical, and which LASS bars, bool[n].

    Either raises #GP before any table is looked at. In IA-32e mode alone.
    """
    width = 12 + 9 * context.levels
    va, data = accesses.va, accesses.type != AccessType.EXECUTE
    upper = va >> _SIGN != 0
    linear = va
    of_user = 57 if context.cr3 >> _LAM_U57 & 1 else 48 if context.cr3 >> _LAM_U48 & 1 else 0
    of_supervisor = width if context.cr4 >> _LAM_SUP & 1 else 0
    for kept, half in ((of_user, ~upper), (of_supervisor, upper)):
        if kept:
            # Bit 63 stays: it has to be what the others are made.
            linear = np.where(data & half, _extended(linear, kept, 63), linear)
    if context.efer >> _UAIE & 1:
        linear = np.where(data, _extended(linear, 57, 64), linear)
    strange = linear != _extended(linear, width, 64)
    barred = np.zeros(len(va), np.bool_)
    if context.cr4 >> _LASS & 1:
        guarded = ~data | (bool(context.cr4 >> _SMAP & 1) & ~accesses.ac)
        barred = np.where(accesses.cpl == 3, upper, ~upper & guarded)
    return linear, strange, barred


def _extended(va: U64, width: int, end: int) -> U64:
    """Return addresses whose bits from `width` on, below `end`, copy the one before them."""
    high = np.uint64((1 << end) - (1 << width))
    sign = va >> np.uint64(width - 1) & np.uint64(1)
    found: U64 = np.where(sign != 0, va | high, va & ~high)
    return found
