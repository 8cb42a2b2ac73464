"""What ways of enforcing collective rights can't express, and how much of RAM that concerns.

An `Enforcer` is a kind of second-level table on a processor with or without a feature, or KVM's
attributes above such tables. None of them tells apart who reads or writes, so that each grants the
supervisor's data to the user and the user's to the supervisor; the guest's own tables still
withhold it, as long as they are the guest's own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.protection.attributes import AttributeSet, kvm_grants
from crosswalk.walker.protection.policy import Protection, TableKind, Use, rounded
from crosswalk.walker.rights import Rights

__all__ = ["ENFORCERS", "Beyond", "Enforcer", "beyond"]

_RIGHTS_OF = {
    Use.READ: Rights.SUPERVISOR_READ | Rights.USER_READ,
    Use.WRITE: Rights.SUPERVISOR_WRITE | Rights.USER_WRITE,
    Use.SUPERVISOR_EXECUTE: Rights.SUPERVISOR_EXECUTE,
    Use.USER_EXECUTE: Rights.USER_EXECUTE,
}
_EXECUTE = Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE


@dataclass(frozen=True, slots=True)
class Enforcer:
    """A way of enforcing rights: its name, and for each `Use` wanted what it grants, uint8[16]."""

    name: str
    granted: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Beyond:
    """How an enforcer departs from the collective rights of RAM that is mapped; sizes in bytes.

    `rights` has for each single right how much is granted it beyond them; `changed` is how much has
    which rights, and which as granted, where these differ. No enforcer grants less.
    """

    enforcer: str
    rights: dict[Rights, int]
    changed: dict[tuple[Rights, Rights], int]


def beyond(protection: Protection) -> tuple[Beyond, ...]:
    """Return how each of `ENFORCERS` departs from the collective rights that were protected.

    RAM that nothing maps is left out: what the policy grants there is nobody's right.
    """
    return tuple(_beyond(each, protection) for each in ENFORCERS)


def _beyond(enforcer: Enforcer, protection: Protection) -> Beyond:
    mapped = protection.rights != 0
    rights, size = protection.rights[mapped], protection.size[mapped]
    granted = _rights_of(enforcer.granted[protection.wanted[mapped]])
    pairs = rights.astype(np.uint16) << 6 | granted
    changed = {
        (Rights(int(pair) >> 6), Rights(int(pair) & 63)): int(size[pairs == pair].sum())
        for pair in np.unique(pairs)
        if pair >> 6 != pair & 63
    }
    return Beyond(
        enforcer.name,
        {right: int(size[granted & ~rights & right != 0].sum()) for right in Rights},
        changed,
    )


def _rights_of(granted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the `Rights` that each `Use` leaves."""
    found = np.zeros_like(granted)
    for use, rights in _RIGHTS_OF.items():
        found[granted & use != 0] |= np.uint8(rights)
    return found


def _gmet() -> NDArray[np.uint8]:
    """Return what NPT grants with AMD's guest-mode execute trap.

    A page whose nested entries all have U/S set is executed by the user alone, one in which U/S is
    clear by both: there is no execution by the supervisor alone.
    """
    npt = rounded(TableKind.NPT)
    wanted = np.arange(len(npt), dtype=np.uint8) & np.uint8(_EXECUTE)
    trapped = np.uint8(~Use.SUPERVISOR_EXECUTE & 0xF)
    return np.where(wanted == Use.USER_EXECUTE, npt & trapped, npt)


ENFORCERS = (
    Enforcer("npt", rounded(TableKind.NPT)),
    Enforcer("npt, GMET", _gmet()),
    Enforcer("ept, no execute-only", rounded(TableKind.EPT, execute_only=False)),
    Enforcer("ept", rounded(TableKind.EPT)),
    Enforcer("ept-mbec, no execute-only", rounded(TableKind.EPT_MBEC, execute_only=False)),
    Enforcer("ept-mbec", rounded(TableKind.EPT_MBEC)),
    Enforcer("ept-mbec by Heki's attributes", kvm_grants(AttributeSet.HEKI)),
    Enforcer("ept by attributes NR, NW, NX", kvm_grants(AttributeSet.DENY)),
)
"""The ways of enforcing rights that are compared, the weakest of a vendor first."""
