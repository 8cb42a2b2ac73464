"""Features that the emulated CPU lacks, access by access: such accesses are predicted only.

Decided from the raw control registers and the probe's own reading of the tables, never by the
walker. An access that the feature doesn't change is made like any other.
"""

from collections import Counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.composites import Composites, Family
from crosswalk.emu.probe.control import CR0_WP, Control
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = [
    "FEATURES",
    "LACKS",
    "NO_KEY",
    "Lacking",
    "Tables",
    "by_feature",
    "lacking",
    "lacking_composites",
    "lacking_features",
    "refuse",
]

LACKS = {
    "LAM": "linear-address masking",
    "UAI": "upper-address ignore",
    "LASS": "linear-address-space separation",
    "wide": "physical addresses of 2^40 and up",
    "PKS": "protection keys for supervisor pages",
}
"""Features that the emulated CPU lacks, in words, by the names in verdicts and summaries."""

FEATURES = tuple(LACKS)
"""The names in the order of the column that `lacking` returns, whose 1 is the first of them."""

Lacking = NDArray[np.uint8]
"""uint8[n]: 0 where an access can be asked of the emulated CPU, else 1 + an index of FEATURES."""

_TOP = np.uint64(63)


class Tables(Protocol):
    """What has to be known of the tables under test, n addresses at a time."""

    def wide(self, va: U64) -> NDArray[np.bool_]:
        """Return bool[n]: whose walks use an entry with an address of 2^40 and up."""
        ...

    def supervisor_keys(self, va: U64) -> NDArray[np.uint8]:
        """Return uint8[n]: the keys of the supervisor pages that walks lead to, `NO_KEY` else."""
        ...


NO_KEY = 255


def lacking_features(control: Control, accesses: Accesses) -> Lacking:
    """Return what the emulated CPU lacks of features that control registers enable.

    LAM changes a data access to an address of which not all bits are equal that a linear address
    of its width copies from its top bit; UAI one that isn't canonical. LASS forbids CPL 3 the upper
    half, and supervisor accesses the lower one: fetches always, data with SMAP and without AC.

    Source: Intel SDM vol. 3A, "Linear-Address Masking (LAM)", "Linear-Address-Space Separation
    (LASS)"; AMD APM vol. 2, "Upper Address Ignore".
    """
    found = np.zeros(len(accesses), np.uint8)
    if not control.features:
        return found
    va = accesses.va
    upper = (va >> _TOP) != 0
    data = accesses.type != AccessType.EXECUTE
    if control.lass:
        user = accesses.cpl == 3
        free = accesses.ac | (not control.smap)
        crosses = np.where(user, upper, ~upper & ~(data & free))
        found[crosses] = 1 + FEATURES.index("LASS")
    if control.uai:
        found[data & ~_sign_extended(va, control.va_bits)] = 1 + FEATURES.index("UAI")
    masked = np.zeros(len(va), np.bool_)
    if control.user_u48 or control.user_u57:
        width = min(48, control.va_bits) if control.user_u48 else control.va_bits
        masked |= ~upper & ~_sign_extended(va, width)
    if control.supervisor_lam:
        masked |= upper & ~_sign_extended(va, control.va_bits)
    found[data & masked] = 1 + FEATURES.index("LAM")
    return found


def lacking(control: Control, accesses: Accesses, tables: Tables | None) -> Lacking:
    """Return what the emulated CPU lacks for each access.

    `tables` is None where CR3 itself has an address of 2^40 and up: then nothing can be asked.
    """
    found = lacking_features(control, accesses)
    if control.wide:
        rows = np.flatnonzero(found == 0)
        if tables is not None:
            rows = rows[_walks(control, accesses.va[rows])]
            rows = rows[tables.wide(accesses.va[rows])]
        found[rows] = 1 + FEATURES.index("wide")
    if control.pkrs and tables is not None:
        rows = np.flatnonzero((found == 0) & (accesses.type != AccessType.EXECUTE))
        rows = rows[_walks(control, accesses.va[rows])]
        rows = rows[_denied(control, tables, accesses.take(rows))]
        found[rows] = 1 + FEATURES.index("PKS")
    return found


def _denied(control: Control, tables: Tables, accesses: Accesses) -> NDArray[np.bool_]:
    """Return bool[n]: which data accesses IA32_PKRS denies, if nothing else does.

    Of any privilege: the error code of a fault would tell, whatever else forbids the access.

    Source: Intel SDM vol. 3A, "Protection Keys", "Page-Fault Exceptions".
    """
    key = tables.supervisor_keys(accesses.va)
    pair = np.uint64(control.pkrs) >> (2 * (key & 15)).astype(np.uint64)
    protected = (accesses.type == AccessType.WRITE) & bool(control.cr0 & CR0_WP)
    denies = np.where(protected, np.uint64(3), np.uint64(1))
    found: NDArray[np.bool_] = (key != NO_KEY) & (pair & denies != 0)
    return found


def lacking_composites(control: Control, composites: Composites, tables: Tables | None) -> Lacking:
    """Return what the emulated CPU lacks for any of the accesses of each composite."""
    implicit = composites.family(Family.IMPLICIT)
    # The processor reads a descriptor as a supervisor, and whatever AC is.
    cpl = np.where(implicit, 0, composites.cpl).astype(np.uint8)
    ac = composites.ac & ~implicit
    twice = composites.family(Family.TWICE)
    first = Accesses(composites.va, composites.types(0), cpl, ac)
    second = Accesses(
        composites.second_va(),
        composites.types(1),
        np.where(twice, composites.then_cpl, cpl).astype(np.uint8),
        np.where(twice, composites.then_ac, ac),
    )
    found, then = (lacking(control, each, tables) for each in (first, second))
    return np.where((found == 0) & composites.has_two(), then, found)


def _walks(control: Control, va: U64) -> NDArray[np.bool_]:
    """Return bool[n]: which addresses the processor walks the tables for; others raise #GP."""
    if not control.long:
        return np.ones(len(va), np.bool_)
    return _sign_extended(va, control.va_bits)


def by_feature(found: Lacking) -> Counter[str]:
    """Return how many accesses the emulated CPU lacks a feature for, by its name."""
    counts = np.bincount(found, minlength=len(FEATURES) + 1)[1:].tolist()
    return +Counter(dict(zip(FEATURES, counts, strict=True)))


def refuse(found: Lacking, va: U64) -> None:
    """Raise `BadInput` if any of these accesses can't be asked of the emulated CPU."""
    rows = np.flatnonzero(found)
    if len(rows):
        name = FEATURES[int(found[rows[0]]) - 1]
        what = LACKS[name] if name == "wide" else f"{name} ({LACKS[name]})"
        at = int(va[rows[0]])
        raise BadInput(f"access to {at:#x}: the emulated CPU has no {what}; it is predicted only")


def _sign_extended(va: U64, width: int) -> NDArray[np.bool_]:
    """Return bool[n]: whether bits 63 down to `width` - 1 are all equal."""
    top = va >> np.uint64(width - 1)
    found: NDArray[np.bool_] = (top == 0) | (top == np.uint64((1 << (65 - width)) - 1))
    return found
