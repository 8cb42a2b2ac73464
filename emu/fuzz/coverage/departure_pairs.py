"""Pairs of the emulator's registered departures in one access or composite."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.fuzz.coverage.family import Axis, Family, Numbers
from crosswalk.emu.fuzz.target import CoverageTarget, End
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import Vendor

__all__ = ["DEPARTURE_PAIRS", "departure_pair_cells"]

_IDS = tuple(
    each.id
    for each in departures(Scope.ACCESS, Scope.COMPOSITE)
    if each.id != "pae-pdpte-read-when-used"  # Generated layouts are of IA-32e mode.
)
_ACCESSED, _RMW, _IMPLICIT, _FETCH = (
    "pdpte-leaf-accessed-on-fault",
    "locked-rmw-reads-first",
    "implicit-access-honours-ac",
    "amd-fetch-bit-without-nxe",
)
_EXCLUSIVE = {
    # One is about fetches, the others about data; and no composite has both forms.
    frozenset({_FETCH, _RMW}),
    frozenset({_FETCH, _IMPLICIT}),
    frozenset({_RMW, _IMPLICIT}),
    # In one walk, the first needs a reserved bit, the second a page that is reached.
    frozenset({_ACCESSED, _IMPLICIT}),
}
"""Pairs that can't occur together."""


@dataclass(frozen=True, slots=True)
class _Conditions:
    """Conditions that show a departure: features of a CPU, control bits, fields of a target."""

    cpu: Mapping[str, object] = field(default_factory=dict)
    control: Mapping[str, bool] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)


_CONDITIONS = {
    _ACCESSED: _Conditions(more={"level": 3, "end": End.RESERVED, "reserved": 21}),
    "maxphyaddr-40": _Conditions(cpu={"maxphyaddr": 36}),
    "pdpte-ps-always-leaf": _Conditions(cpu={"page1gb": False}, more={"level": 3, "end": End.LEAF}),
    "amd-pml4e-bit-8": _Conditions(cpu={"vendor": Vendor.AMD}, more={"bits": ((4, "g", True),)}),
    _FETCH: _Conditions(
        cpu={"vendor": Vendor.AMD},
        control={"nxe": False, "smep": True},
        more={"access": AccessType.EXECUTE, "cpl": 3},
    ),
    _IMPLICIT: _Conditions(control={"smap": True}),
}


def departure_pair_cells(names: Iterable[str]) -> Numbers:
    """Return the numbers of the cells that divergences explained by these names touch.

    A name joins the ids of all departures that an explanation needs, as
    `crosswalk.emu.check.departures.named` returns it.
    """
    found = []
    for name in names:
        ids = sorted(_IDS.index(each) for each in name.split("+") if each in _IDS)
        found += [one * len(_IDS) + other for one, other in combinations(ids, 2)]
    return np.array(found, np.int64)


def _possible() -> NDArray[np.bool_]:
    possible = np.zeros((len(_IDS), len(_IDS)), np.bool_)
    for one, other in combinations(range(len(_IDS)), 2):
        possible[one, other] = frozenset({_IDS[one], _IDS[other]}) not in _EXCLUSIVE
    return possible


def _target(values: tuple[int, ...]) -> CoverageTarget:
    both = [_CONDITIONS.get(_IDS[at], _Conditions()) for at in values]
    more = {name: value for each in reversed(both) for name, value in each.more.items()}
    cpu = {name: value for each in both for name, value in each.cpu.items()}
    control = {name: value for each in both for name, value in each.control.items()}
    return CoverageTarget(control=control, cpu=cpu, **more)  # type: ignore[arg-type]  # Fields by name.


DEPARTURE_PAIRS = Family(
    "departures that meet",
    (Axis("one", _IDS), Axis("with", _IDS)),
    _possible(),
    target=_target,
)
