"""From the address that an access names to the linear address that is walked.

What comes before paging in 64-bit mode: linear-address-space separation, the masking of
pointers, and the canonical check. Compatibility mode has none of it.
"""

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext

__all__ = ["UAI_BITS", "crosses", "linear_address", "masked"]

UAI_BITS = 57
"""The bits of an address that UAI leaves."""


def linear_address(context: PagingContext, access: Access) -> int | None:
    """Return the linear address that an access goes to, or None where it raises #GP(0).

    #GP(0) is raised before any entry is read: for an access across the halves under CR4.LASS,
    and for an address that, after LAM or UAI, isn't canonical. (For an access to the stack it
    would be #SS(0), and UAI would leave its address alone: accesses are by DS or CS here.)

    Source: Intel SDM vol. 3A, "Linear-Address Pre-Processing"; AMD APM vol. 2, "Upper Address
    Ignore".
    """
    if crosses(context, access):
        return None
    va = access.va if access.type is AccessType.EXECUTE else masked(context, access.va)
    return va if context.canonical(va) else None


def crosses(context: PagingContext, access: Access) -> bool:
    """Return whether linear-address-space separation (CR4.LASS) refuses an access.

    Bit 63 of the address says whose half it is, whatever LAM leaves of the others. User-mode
    accesses have to stay in the lower half, fetches of the supervisor in the upper one; so have
    its data accesses, but only where CR4.SMAP is set and RFLAGS.AC is clear.

    Source: Intel SDM vol. 3A, "Linear-Address-Space Separation (LASS)".
    """
    if not context.lass:
        return False
    upper = bool(access.va >> 63)
    if access.cpl == 3:
        return upper
    ac = context.rflags_ac if access.ac is None else access.ac
    return not upper and (access.type is AccessType.EXECUTE or (context.smap and not ac))


def masked(context: PagingContext, pointer: int) -> int:
    """Return the linear address that a data access by this pointer has, canonical or not.

    LAM copies the highest bit that it leaves (47 or 56) to all above but bit 63, which chooses
    between user and supervisor pointers; so what is not a pointer of that half stays without a
    canonical address. UAI copies bit 56 to all above. A page fault's CR2 has the masked address:
    under LAM that is so, under UAI the manual doesn't promise the tag.

    Source: Intel SDM vol. 3A, "Linear-Address Masking (LAM)"; AMD APM vol. 2, "Upper Address
    Ignore Operation", "Address Tag Storage".
    """
    top = pointer >> 63
    if context.uai:
        return _extended(pointer, UAI_BITS)
    bits = context.lam_supervisor if top else context.lam_user
    if not bits:
        return pointer
    return _extended(pointer, bits) & ~(1 << 63) | top << 63


def _extended(va: int, bits: int) -> int:
    """Return the low `bits` bits of an address with the highest of them copied upwards."""
    low = va & (1 << bits) - 1
    return low | -(low >> bits - 1) << bits & (1 << 64) - 1
