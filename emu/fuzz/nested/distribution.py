"""How often something is out of the ordinary in a pair of layouts, and the flags that follow."""

from dataclasses import dataclass

import numpy as np

from crosswalk.walker.entry import Entry

__all__ = ["Mood", "Odds", "draw_flags", "draw_mood"]

_RESERVED = (*range(40, 52), *range(13, 21))
_IDLE = {3: 0.1, 4: 0.1, 8: 0.08, 9: 0.2, 11: 0.2, 12: 0.05, 52: 0.2, 58: 0.2, 62: 0.1}
"""How often a bit is set that decides little: PWT, PCD, G, available ones, PAT of a large page."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How often an entry lacks P, W, U or execution, and has PS or a reserved bit."""

    absent: float
    write: float
    user: float
    execute: float
    large: float
    reserved: float


@dataclass(frozen=True, slots=True)
class Mood:
    """What is true of a pair as a whole.

    `guest` are the odds of the guest's entries; of the host's, `upper` those above the leaves,
    `table` those of leaves beneath the guest's tables, `page` of the other leaves. `used`: the
    host's leaves have A and D set already. `aliased`: a guest frame may be another's, or one of
    the host's tables.
    """

    guest: Odds
    upper: Odds
    table: Odds
    page: Odds
    used: bool
    aliased: bool


def draw_mood(chance: np.random.Generator) -> Mood:
    """Return the mood of a pair."""
    guest, host = (float(chance.choice([0.0, 0.02, 0.05, 0.12])) for _ in range(2))
    closed, execute = (float(chance.choice([0.1, 0.3, 0.6])) for _ in range(2))
    fatal = float(chance.choice([0.0, 0.0, 0.0, 0.1]))
    rare, often = host / 12, host + closed / 4
    return Mood(
        guest=Odds(guest, 0.1, 0.1, 0.08, 0.08, guest / 3),
        upper=Odds(rare, rare, rare / 2, rare / 2, rare, rare / 2),
        table=Odds(host / 3, host / 2, host / 6, fatal, 0.1, host / 6),
        page=Odds(often, closed, often / 2, execute, 0.1, often),
        used=bool(chance.random() < 0.6),
        aliased=bool(chance.random() < 0.3),
    )


def draw_flags(chance: np.random.Generator, odds: Odds, level: int, *, used: bool) -> int:
    """Return an entry's flags at a level: all but its address."""
    draws = chance.random(8 + len(_IDLE))
    flags = 0 if draws[0] < odds.absent else int(Entry.P)
    flags |= 0 if draws[1] < odds.write else int(Entry.RW)
    flags |= 0 if draws[2] < odds.user else int(Entry.US)
    flags |= int(Entry.XD) if draws[3] < odds.execute else 0
    # In a PTE the bit is PAT; in a PML4E it is reserved, and ends all walks through it.
    often = {1: 0.1, 4: odds.reserved}.get(level, odds.large)
    flags |= int(Entry.PS) if draws[4] < often else 0
    flags |= 1 << int(chance.choice(_RESERVED)) if draws[5] < odds.reserved else 0
    flags |= int(Entry.A) if used or draws[6] < 0.5 else 0
    flags |= int(Entry.D) if used or draws[7] < 0.3 else 0
    for draw, (bit, often) in zip(draws[8:], _IDLE.items(), strict=True):
        # AMD reserves bit 8 of a PML4E, which ends all walks through it as well.
        rare = level == 4 and bit == 8
        flags |= 1 << bit if draw < (often / 8 if rare else often) else 0
    return flags
