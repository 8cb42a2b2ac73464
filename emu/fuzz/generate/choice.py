"""What a campaign is restricted to: paging modes, assumptions about the tables, a selection."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingMode

__all__ = ["ASSUMPTIONS", "EntryCondition", "LayoutChoice", "Selection"]

ASSUMPTIONS = {
    "wellformed": "no present entry that a walk reads has a reserved bit set",
    "canonical": "no access is to an address that isn't canonical",
    "tree": "each table has one parent entry: there are no loops and no shared tables",
}
"""What `--assume` takes, and what is then true of every layout."""


@dataclass(frozen=True, slots=True)
class EntryCondition:
    """A condition on the entry of one level that a walk reads: `mask` are the bits in question.

    They have to be equal to `pattern`, or with None not all clear; with `holds` False the opposite.
    """

    level: int
    mask: int
    pattern: int | None
    holds: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """What `--select` leaves; where a column is empty, everything.

    `controls` are (field of a context, mask, value): bits of control registers and of PKRU that
    are set or clear in every layout. `features` are (field of a context, values), one of which a
    layout has. `entries` are conditions that the walk of an access meets, all of them; a walk
    that reads no entry of the level doesn't. `modes`, `types`, `cpls` and `acs` are the values
    that layouts and accesses have. `text` is what was selected, by the names of the matrix.
    """

    text: str = ""
    controls: tuple[tuple[str, int, bool], ...] = ()
    features: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    entries: tuple[EntryCondition, ...] = ()
    modes: tuple[PagingMode, ...] = ()
    types: tuple[AccessType, ...] = ()
    cpls: tuple[int, ...] = ()
    acs: tuple[bool, ...] = ()

    @property
    def restricts_accesses(self) -> bool:
        """Whether some accesses are left out."""
        return bool(self.entries or self.types or self.cpls or self.acs)

    def asks(self, accesses: Accesses) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return bool[n]: which accesses are of the chosen types, privileges and values of AC."""
        found = np.ones(len(accesses), np.bool_)
        for column, values in (
            (accesses.type, self.types),
            (accesses.cpl, self.cpls),
            (accesses.ac, self.acs),
        ):
            if values:
                found &= np.isin(column, np.array(values, column.dtype))
        return found


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """What the layouts of a campaign are restricted to; by default to nothing.

    `modes` are the paging modes of `--mode`, empty where it isn't given: then all four have their
    share. `assume` are names of `ASSUMPTIONS`. With `portable`, tables and pages are where
    machines have RAM (`crosswalk.emu.fuzz.generate.portable`).
    """

    modes: tuple[PagingMode, ...] = ()
    assume: tuple[str, ...] = ()
    select: Selection = field(default_factory=Selection)
    portable: bool = False

    @property
    def asked_modes(self) -> tuple[PagingMode, ...]:
        """The modes that layouts are made in, in the manual's order; empty for a share of all."""
        if not self.select.modes:
            return self.modes
        modes = self.modes or tuple(PagingMode)
        return tuple(mode for mode in modes if mode in self.select.modes)

    def named(self) -> dict[str, str | None]:
        """Return what was chosen by the names of the options with a value, None where nothing was.

        `portable`, which has none, is in the plan of a campaign beside these.
        """
        return {
            "mode": ",".join(mode.slug for mode in self.modes) or None,
            "assume": ",".join(self.assume) or None,
            "select": self.select.text or None,
        }

    @property
    def allows_composites(self) -> bool:
        """Whether composites may be made: they are of all kinds, some across canonical ends."""
        return not self.select.restricts_accesses and "canonical" not in self.assume

    @property
    def restricts(self) -> bool:
        """Whether layouts differ from those that are made without any choice."""
        return self != LayoutChoice()

    def allows(self, mode: PagingMode) -> bool:
        """Return whether layouts may be made in this mode."""
        return not self.asked_modes or mode in self.asked_modes
