"""Whether an observed outcome is one that was predicted."""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.access import Access
from crosswalk.walker.columns import Kind, Outcomes, Rows
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.translate import Walk

Table = TypeVar("Table", bound=Rows)

__all__ = ["Divergence", "agreements", "choose", "differing_fields", "spread"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """An access of which the walker and the emulated CPU say different things.

    `walk` are the entries it used, for display. `known` names the departures of the emulator that
    explain it (`crosswalk.emu.check.departures.named`), or is None.
    """

    access: Access
    predicted: Outcome
    observed: Outcome
    walk: Walk
    known: str | None = None


def agreements(predicted: Outcomes, observed: Outcomes) -> NDArray[np.bool_]:
    """Return bool[n]: which observed outcomes are among those that the prediction allows.

    Kind, physical address, error code and CR2 have to be equal. Of an access that succeeded the
    changed words have to be equal too; of one that faulted each has to be one that may change.
    """
    fields = differing_fields(predicted, observed)
    differs: NDArray[np.bool_] = np.logical_or.reduce(list(fields.values()))
    return ~differs


def differing_fields(predicted: Outcomes, observed: Outcomes) -> dict[str, NDArray[np.bool_]]:
    """Return bool[n] for each compared field: where it differs beyond what is allowed."""
    same = (predicted.entry_pa == observed.entry_pa).all(axis=1)
    same &= (predicted.entry_value == observed.entry_value).all(axis=1)
    # Where not all is the same, what was seen has to be some of what was allowed.
    rows = np.flatnonzero(~same & (predicted.kind != Kind.OK))
    pa, value = observed.entry_pa[rows, :, None], observed.entry_value[rows, :, None]
    pairs = predicted.entry_pa[rows, None, :] == pa
    pairs &= predicted.entry_value[rows, None, :] == value
    same[rows] = (pairs.any(axis=2) | (value[:, :, 0] == 0)).all(axis=1)
    return {
        "outcome": predicted.kind != observed.kind,
        "pa": predicted.pa != observed.pa,
        "error_code": predicted.error_code != observed.error_code,
        "cr2": predicted.cr2 != observed.cr2,
        "entries": ~same,
    }


def spread(these: Outcomes, rows: NDArray[np.bool_], others: Outcomes) -> Outcomes:
    """Return `these`, with the rows that are set in bool[n] replaced by `others`, in order."""
    if rows.all():
        return others
    columns = []
    for field in fields(Outcomes):
        column = getattr(these, field.name).copy()
        column[rows] = getattr(others, field.name)
        columns.append(column)
    return Outcomes(*columns)


def choose(chosen: NDArray[np.bool_], these: Table, others: Table) -> Table:
    """Return the rows of `these` where chosen, else those of `others`."""
    if not chosen.any():
        return others
    columns = []
    for field in fields(others):  # type: ignore[arg-type]  # only dataclasses derive from it
        one, other = getattr(these, field.name), getattr(others, field.name)
        columns.append(np.where(chosen if one.ndim == 1 else chosen[:, None], one, other))
    return type(others)(*columns)
