"""Effective rights: what every level together leaves to the supervisor and to the user."""

from enum import IntFlag
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import Entry
from crosswalk.walker.second_level import SecondLevel, TableContext

__all__ = [
    "ALL_GRANTS",
    "EXECUTES",
    "GRANTS",
    "GRANT_BITS",
    "WRITES",
    "Grant",
    "Rights",
    "grant_of",
    "rights_table",
    "rwx",
]


class Grant(IntFlag):
    """What an entry lets through; a translation has what all of its entries let through.

    Writing and user mode stand where the entry has R/W and U/S, one bit lower.
    """

    WRITE = 1
    USER = 2
    EXECUTE = 4


GRANTS = 8
ALL_GRANTS = GRANTS - 1
GRANT_BITS = 4
"""How many bits keys of states and pages have for grants; of a hypervisor's tables there are 16."""


class Rights(IntFlag):
    """The accesses that succeed, for each privilege."""

    SUPERVISOR_READ = 1
    SUPERVISOR_WRITE = 2
    SUPERVISOR_EXECUTE = 4
    USER_READ = 8
    USER_WRITE = 16
    USER_EXECUTE = 32

    @property
    def supervisor(self) -> str:
        """The supervisor's rights as `rwx`, a dash for each that is missing."""
        return rwx(self & 7)

    @property
    def user(self) -> str:
        """The user's rights as `rwx`, a dash for each that is missing."""
        return rwx(self >> 3)


WRITES = Rights.SUPERVISOR_WRITE | Rights.USER_WRITE
EXECUTES = Rights.SUPERVISOR_EXECUTE | Rights.USER_EXECUTE
"""Writing and executing by either privilege level."""


def rwx(bits: int) -> str:
    """Return three right bits (1 read, 2 write, 4 execute) as `rwx` with dashes."""
    return "".join(name if bits >> at & 1 else "-" for at, name in enumerate("rwx"))


def grant_of(entry: int) -> int:
    """Return the `Grant` bits of one present entry."""
    return (entry & (Entry.RW | Entry.US)) >> 1 | (0 if entry & Entry.XD else Grant.EXECUTE)


def rights_table(context: TableContext) -> NDArray[np.uint8]:
    """Return the `Rights` for each of the 8 combinations of `Grant` bits, as uint8[8].

    Under CR0.WP, CR4.SMEP and CR4.SMAP with the context's AC (Intel SDM vol. 3A, "Determination
    of Access Rights"). Protection keys are left out: a program changes PKRU without the kernel's
    knowledge, and the kernel IA32_PKRS from one moment to the next, so rights that counted them
    could not be relied on. So is LASS, which goes by the
    address and not by the page. `translate` honours both. The array is read-only. A hypervisor's
    tables have their own, of 16 combinations.
    """
    if isinstance(context, SecondLevel):
        return context.rights
    barred = context.smap and not context.rflags_ac
    return _rights_table(wp=context.wp, smep=context.smep, barred=barred)


@cache
def _rights_table(*, wp: bool, smep: bool, barred: bool) -> NDArray[np.uint8]:
    """Return the table; `barred` says whether the supervisor may not touch data of the user's."""
    table = np.zeros(GRANTS, dtype=np.uint8)
    for grant in range(GRANTS):
        writable, user, executable = (bool(grant & bit) for bit in Grant)
        rights = Rights(0)
        if not (user and barred):
            rights |= Rights.SUPERVISOR_READ
            if writable or not wp:
                rights |= Rights.SUPERVISOR_WRITE
        if executable and not (user and smep):
            rights |= Rights.SUPERVISOR_EXECUTE
        if user:
            rights |= Rights.USER_READ
            rights |= Rights.USER_WRITE if writable else Rights(0)
            rights |= Rights.USER_EXECUTE if executable else Rights(0)
        table[grant] = rights
    table.flags.writeable = False
    return table
