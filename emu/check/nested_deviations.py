"""What machines do otherwise than the manuals have it, in a walk in two dimensions."""

from enum import Flag, auto

__all__ = ["EMULATOR", "MANUAL", "Deviation"]


class Deviation(Flag):
    """What a machine does otherwise, in either dimension.

    Under AMD's nested paging, Unicorn. BIT_8: bit 8 of a PML4E isn't reserved. EARLY: A of a 1-GiB
    leaf is set before low reserved bits are looked at (and before rights, as it may be). UNMARKED:
    no other nested leaf's A is set, and none's D. FETCH: SMEP without NXE is enough for a guest's
    I/D. FATAL: a guest's table in a frame without execution ends the process. QEMU has BIT_8, EARLY
    and FETCH, too. NOT_PRESENT: a fault for a reserved bit has P clear, in either dimension.

    Under EPT, Bochs. TABLE_WRITE: with EPT's A and D, a violation at a guest's table is a write
    alone. BIT_13: under mode-based execute control, bit 13 of the qualification has the user's
    right to execute, for reads and writes. UNCHECKED: without EPT's A and D, a guest's A and D are
    set in pages that EPT makes read-only. BIT_12: bit 12 of a large page's EPT entry isn't
    reserved. PANIC: a write that the guest's CR0.WP lets pass ends the machine, where D has to
    be set in an entry without R/W.
    """

    BIT_8 = auto()
    EARLY = auto()
    UNMARKED = auto()
    FETCH = auto()
    FATAL = auto()
    TABLE_WRITE = auto()
    BIT_13 = auto()
    UNCHECKED = auto()
    BIT_12 = auto()
    PANIC = auto()
    NOT_PRESENT = auto()


MANUAL = Deviation(0)
EMULATOR = (
    Deviation.BIT_8 | Deviation.EARLY | Deviation.UNMARKED | Deviation.FETCH | Deviation.FATAL
)
"""All that Unicorn does otherwise."""
