"""Accesses that the emulated CPU can be asked: none whose walk uses an address of 2^40 and up."""

import numpy as np

FIELD = 0x000F_FFFF_FFFF_F000


def askable(words, context, accesses, shifts):
    """The accesses of these without those that are predicted only, found one at a time.

    `words` are the tables by physical address; `shifts` those of the levels, the root's first.
    """
    beyond = (1 << context.maxphyaddr) - (1 << 40) if context.maxphyaddr > 40 else 0
    if not beyond or not context.cr4 & 0x20:
        return accesses
    rows = [
        at
        for at, va in enumerate(accesses.va.tolist())
        if not _uses(words, context, va, shifts, beyond)
    ]
    return accesses.take(np.array(rows, np.intp))


def _uses(words, context, va, shifts, beyond):
    top = shifts[0] + 9
    if len(shifts) > 3 and va >> (top - 1) not in {0, (1 << (65 - top)) - 1}:
        return False  # Not canonical: nothing is walked.
    pae = len(shifts) == 3
    table, bits = context.cr3 & (0xFFFF_FFE0 if pae else FIELD), 2 if pae else 9
    for shift in shifts:
        entry = words.get(table + 8 * (va >> shift & (1 << bits) - 1), 0)
        if not entry & 1:
            return False
        if entry & beyond:
            return True
        if shift == 12 or (entry & 0x80 and shift in ({21} if pae else {21, 30})):
            return False
        table, bits = entry & FIELD, 9
    return False
