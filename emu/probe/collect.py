"""What a bulk run left behind, as outcomes: nothing is decided by silence alone."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.job import Found, Job
from crosswalk.emu.probe.page_marker import SLOT, byte_of, signatures
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Kind
from crosswalk.walker.memory import FRAME, U64

__all__ = ["NOTE_WORDS", "REACHED", "SEEN", "collect", "expected"]

NOTE_WORDS = 5
REACHED, SEEN = 0x100, 0x101
"""What a note names in place of a vector: an access that led to where the engine has nothing to
give, and one that was seen being made. The address is then the physical one."""


_PAGE = np.uint64(FRAME - 1)


def collect(job: Job, outs: U64, notes: U64, faulted_at: U64) -> Found:
    """Return what n accesses came to, by their outs uint64[n, 6] and what was noted of them.

    `notes` are uint64[m, 5]: the row, RIP, what happened, error code, address. `faulted_at`
    uint64[n] is the RIP that a fault of the access itself shows. What no note is of is decided
    as far as its out is empty; the run's sum has yet to say so.
    """
    count = len(job)
    found = Found.nothing(count)
    found.after[:] = np.where(outs[:, 1:] == 0, job.before, outs[:, 1:])
    found.decided[:] = outs[:, 0] == 0
    found.pa[:] = job.target

    row = notes[:, 0].astype(np.intp)
    vector, code, address = notes[:, 2], notes[:, 3], notes[:, 4]
    paging = vector == Vector.PF
    right = paging | ((vector == Vector.GP) & (code == 0))
    right &= notes[:, 1] == faulted_at[row]
    # To be seen is not enough: it has to have been completed, too.
    other = outs[row, 0] != 0
    told = (vector == REACHED) & ~other | (vector == SEEN) & other
    told &= (address ^ job.accesses.va[row]) & _PAGE == 0
    # A fault of the access itself, and no other before or after it.
    alone = np.bincount(row, minlength=count)[row] == 1
    found.decided[row] = ((right & ~other) | told) & alone
    found.kind[row] = np.where(
        told, Kind.OK, np.where(paging, Kind.PAGE_FAULT, Kind.GENERAL_PROTECTION)
    )
    found.pa[row] = np.where(told, address, np.uint64(0))
    found.error_code[row] = np.where(paging, code, 0)
    found.cr2[row] = np.where(paging, address, 0)
    return found


def expected(kind: NDArray[np.uint8], target: U64) -> U64:
    """Return uint64[n, 3]: bytes to store and to put back, and words then to be found."""
    low, high = signatures(target & ~np.uint64(SLOT - 1))
    original = byte_of(target).astype(np.uint64)
    # Another byte than the one there, and than that of the access before.
    stored = original ^ (np.arange(len(target), dtype=np.uint64) % np.uint64(255) + np.uint64(1))
    change = (original ^ stored) << ((target & np.uint64(7)) << np.uint64(3))
    write, upper = kind == AccessType.WRITE, (target & np.uint64(8)) != 0
    fetch = kind == AccessType.EXECUTE
    low_after = np.where(write & ~upper, low ^ change, np.where(fetch, target, low))
    high_after = np.where(write & upper, high ^ change, high)
    return np.stack([stored | original << np.uint64(8), low_after, high_after], axis=1)
