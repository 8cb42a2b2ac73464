"""The paging mode of tables whose EFER isn't known, inferred from the tables themselves.

PDPTEs of PAE paging and PML4Es in use are easily distinguished: R/W, U/S and A are reserved in the
former, and set in the latter.
"""

from dataclasses import replace

import numpy as np

from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.unfollowed import unfollowed

__all__ = ["is_pae_root", "other_levels", "with_mode"]

# With a level too many, pages are taken for tables: all memory, in the end.
_ENOUGH = 256
_PDPTES = 4
_PRESENT = 1
# The bits of a PDPTE other than its address: P, PWT, PCD and the ignored bits 11:9.
_FLAGS = 0xE19
_ADDRESS = 0x000F_FFFF_FFFF_F000


def with_mode(
    memory: PhysicalMemory, registers: Registers, *, is_386: bool = False
) -> tuple[Registers, str]:
    """Return the registers with `long_mode` inferred from the tables, and the reason.

    Unchanged, with an empty text, where EFER or `long_mode` is known, or CR4.PAE is clear.
    `is_386` decides where the tables don't make sense as those of PAE paging.
    """
    cr4 = CR4.PAE if registers.cr4 is None else registers.cr4
    known = registers.efer is not None or registers.long_mode is not None
    if known or registers.cr3 is None or not cr4 & CR4.PAE:
        return registers, ""
    if is_pae_root(memory, registers.cr3, registers.encryption_mask or 0):
        return replace(registers, long_mode=False), "the four entries at CR3 are PDPTEs of PAE"
    if is_386:
        return replace(registers, long_mode=False), "the core is one of a 386"
    return replace(registers, long_mode=True), "the entries at CR3 are no PDPTEs of PAE"


def is_pae_root(memory: PhysicalMemory, cr3: int, encryption_mask: int = 0) -> bool:
    """Return whether the four entries at CR3 can be loaded as PDPTEs of PAE paging.

    At least one is present, and each that is has no reserved bit and leads to a table in memory.
    """
    cr3 &= ~encryption_mask
    root = cr3 & 0xFFFF_FFE0
    if cr3 >> 32 or not memory.backed(np.array([root & -FRAME], np.uint64))[0]:
        return False
    words = np.frombuffer(memory.read(root, 8 * _PDPTES), np.uint64)
    present = words[words & np.uint64(_PRESENT) != 0] & ~np.uint64(encryption_mask)
    if not len(present) or (present & ~np.uint64(_ADDRESS | _FLAGS)).any():
        return False
    return bool(memory.backed(present & np.uint64(_ADDRESS)).all())


def other_levels(memory: PhysicalMemory, context: PagingContext) -> str | None:
    """Return which other mode of IA-32e paging the tables make sense in, as a hint; else None.

    Tables of 5 levels make sense with 4, too: what they map then is other tables. Tables of 4
    hardly do with 5.
    """
    if context.mode is not PagingMode.LEVEL4:
        return None
    try:
        five = replace(context, cr4=context.cr4 | CR4.LA57, efer=context.efer | EFER.LMA)
    except BadInput:
        return None
    four = unfollowed(memory, context, tables=_ENOUGH)
    found = unfollowed(memory, five, tables=_ENOUGH)
    # The contents of pages, taken for entries, seldom refer to memory.
    mapped = found.leaves >= max(four.leaves, 1) and 2 * found.leaves_outside < found.leaves
    if found.implausible or not mapped:
        return None
    return "the tables make sense with 5 levels, too: give --cr4 (LA57 is 0x1000)"
