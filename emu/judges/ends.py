"""What lies where accesses may lead: what is put there, and what can't be asked because of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.asked import Refusals, Whole
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.markers import markers
from crosswalk.emu.judges.ways import Ram, Tables, Ways
from crosswalk.emu.probe.paths import NO_PAGE, PagingFormat
from crosswalk.walker.columns import Rows
from crosswalk.walker.memory import FRAME, U64

__all__ = ["MARKS", "Ends", "ends_of", "nowhere", "refuse_places", "together", "widest_cpus"]

_NO_PAGE = np.uint64(NO_PAGE)
_FRAME_BITS = np.uint64(-FRAME & (1 << 64) - 1)
_A_AND_D = 0x60

MARKS = {8: _A_AND_D, 4: _A_AND_D | _A_AND_D << 32}
"""A and D of the entries in a word, by the size of an entry in bytes."""

_NO_RAM = "no RAM where the access may lead"
_NO_TABLE_RAM = "no RAM where a table is"
_LEGACY = "a page in the part of the first MiB that isn't RAM in a PC"
_LEGACY_TABLE = "a table in the part of the first MiB that isn't RAM in a PC"


@dataclass(frozen=True, slots=True)
class Ends(Rows):
    """What lies where n accesses may lead.

    `known` bool[n]: there is a word at the end that tells of itself, `content` uint64[n].
    `inside` bool[n]: it lies in a table; `own` bool[n]: on the access's own walk, where `alone`
    bool[n] says whether no other word of the tables is equal to it but for A and D.
    """

    known: NDArray[np.bool_]
    content: U64
    inside: NDArray[np.bool_]
    own: NDArray[np.bool_]
    alone: NDArray[np.bool_]


def ends_of(tables: Tables, form: PagingFormat, ways: Ways, width: int) -> Ends:
    """Return what is to lie where these walks lead, below 1 << `width`.

    Above that an address has reserved bits.
    """
    known = (ways.end != _NO_PAGE) & (ways.end >> np.uint64(width) == 0)
    target = ways.target
    inside = known & tables.holds(target)
    own = known & (ways.words == target[:, None]).any(axis=1)
    content = np.where(known, markers(target & np.uint64((1 << 52) - 1)), np.uint64(0))
    content[own] = tables.values(target[own])
    alone = np.zeros(len(known), np.bool_)
    if own.any():
        bare = ~np.uint64(MARKS[form.entry_bytes])
        values, count = np.unique(tables.words & bare, return_counts=True)
        alone[own] = count[np.searchsorted(values, content[own] & bare)] == 1
    return Ends(known, content, inside, own, alone)


def nowhere(ways: Ways, ram: Ram, data: NDArray[np.bool_]) -> Ways:
    """Return the walks, those of the data accesses that lead to nothing without an end.

    `data` bool[n]: reads and writes. What comes of them can be told, but not where they led.
    """
    open_ended = data & (ways.end != _NO_PAGE) & ram.lacks(ways.end)
    return replace(ways, end=np.where(open_ended, _NO_PAGE, ways.end))


def refuse_places(refused: Refusals, space: Whole, ways: Ways, ram: Ram, width: int) -> None:
    """Refuse the rows whose walks, or whose ends, have no RAM in the machine.

    What has reserved bits for an address has no place: it is asked.
    """
    kind = Unjudged.NOT_SHOWN if ram.known else Unjudged.NOT_EXPORTABLE
    missing = space.tables.frames[~space.usable]
    bad = np.isin(ways.words & _FRAME_BITS, missing).any(axis=1)
    bad |= _lacks(ways.beyond, ram, width) & ~ram.lacks(ways.beyond)
    refused.add(bad, Reason(kind, _NO_TABLE_RAM if ram.known else _LEGACY_TABLE))
    bad = _lacks(ways.end, ram, width)
    refused.add(bad, Reason(kind, _NO_RAM if ram.known else _LEGACY))


def widest_cpus(places: U64, ram: Ram, width: int) -> NDArray[np.uint8]:
    """Return uint8[n]: the most MAXPHYADDR of a CPU that rows can be put to, 0 for any.

    `places` uint64[n, k] are the addresses that they come across. One from 1 << `width` on has to
    have reserved bits in an unknown machine: else the access would go there, where there is no RAM.
    """
    high = (places >> np.uint64(52) == 0) & (places >> np.uint64(width) != 0)
    if ram.known or not high.any():
        return np.zeros(len(places), np.uint8)
    # Below 2^53 a float is exact, and its exponent the number of bits.
    bits = np.frexp(places.astype(np.float64))[1] - 1
    least = np.where(high, bits, 64).min(axis=1)
    found: NDArray[np.uint8] = np.where(least == 64, 0, least).astype(np.uint8)
    return found


def together(
    left: NDArray[np.bool_], places: U64, widest: NDArray[np.uint8], ram: Ram
) -> Iterator[NDArray[np.intp]]:
    """Yield the rows left, those that need the same of a machine that may lack it.

    `places` uint64[n, k] are the addresses that the rows come across, `widest` uint8[n] as
    `widest_cpus` has it.
    """
    rows = np.flatnonzero(left)
    if ram.known or not len(rows):
        if len(rows):
            yield rows
        return
    zones = ram.zones(places[rows] & _FRAME_BITS)
    # What is no address, or has reserved bits, is in no part.
    zones[places[rows] >> np.uint64(52) != 0] = 0
    zones.sort(axis=1)
    zones = np.concatenate([zones, widest[rows, None].astype(np.uint64)], axis=1)
    _, which = np.unique(zones, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for number in range(int(which.max()) + 1):
        yield rows[which == number]


def _lacks(pa: U64, ram: Ram, width: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (pa != _NO_PAGE) & (pa >> np.uint64(width) == 0)
    found &= ~ram.has(pa & _FRAME_BITS)
    return found
