"""Predicted against observed outcomes: whether they agree, and what explains it if they don't."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.departures import (
    UNICORN,
    Scope,
    departures,
    emulated_rules,
    named,
    subsets,
)
from crosswalk.emu.check.emulated import emulated_many
from crosswalk.emu.check.emulated_rules import Rules, rules_of
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Accesses, Kind, Outcomes, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.translate import Walk

__all__ = [
    "Divergence",
    "agreements",
    "as_emulated",
    "by_the_manuals",
    "choose",
    "differing_fields",
    "explain",
    "fewest_departures",
    "same_rows",
    "spread",
    "unlike_fields",
]


Table = TypeVar("Table", bound=Rows)


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


def as_emulated(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    """Return what the emulated CPU is stated to do, all of its departures included."""
    rules = emulated_rules(context, departures(Scope.ACCESS))
    return emulated_many(memory, rules, accesses)


def by_the_manuals(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    """Return what the second walk predicts with every departure off.

    Page sizes and rights are left 0. All else is what `translate_many` has to predict.
    """
    return emulated_many(memory, rules_of(context), accesses, every_choice=True)


def explain(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
    who: str = UNICORN,
    *,
    unproved: NDArray[np.bool_] | None = None,
) -> list[str | None]:
    """Return for each of these divergences the name of the departures that explain it, or None.

    It is explained if the prediction is the second walk's by the manuals, and the observed
    outcome is the second walk's with all departures, each in outcome, address, error code, CR2
    and words changed. It is called by the fewest departures that suffice (`named`). Only
    accesses whose outcomes differ may be given.

    Of another judge than Unicorn, `who`, any of its departures may explain it, and which A bits a
    fault sets is its choice as a processor's is. `unproved` bool[n] are observed outcomes of which
    the address isn't known.
    """
    exact = same_rows(by_the_manuals(memory, context, accesses), predicted)
    if who == UNICORN:
        exact &= same_rows(as_emulated(memory, context, accesses), observed)

    def same(rules: Rules, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        some, seen = accesses.take(rows), observed.take(rows)
        if who == UNICORN:
            return same_rows(emulated_many(memory, rules, some), seen)
        stated = emulated_many(memory, rules, some, every_choice=True)
        if unproved is not None:
            seen = replace(seen, pa=np.where(unproved[rows], stated.pa, seen.pa))
        return agreements(stated, seen)

    return fewest_departures(context, exact, same, Scope.ACCESS, who=who)


def fewest_departures(
    context: PagingContext,
    exact: NDArray[np.bool_],
    same: Callable[[Rules, NDArray[np.intp]], NDArray[np.bool_]],
    *scopes: Scope,
    who: str = UNICORN,
) -> list[str | None]:
    """Return for each row that is `exact` the fewest departures of these scopes that suffice.

    `same` returns for rows whether the second walk by these rules has the observed outcome. None
    where a row isn't exact, or no set of departures suffices.
    """
    names: list[str | None] = [None] * len(exact)
    rows = np.flatnonzero(exact)
    for which in subsets(context, *scopes, who=who):
        if not len(rows):
            break
        found = same(emulated_rules(context, which, who), rows)
        for row in rows[found].tolist():
            names[row] = named(which)
        rows = rows[~found]
    return names


def same_rows(these: Outcomes, others: Outcomes) -> NDArray[np.bool_]:
    """Return bool[n]: which rows are equal in all that can be observed."""
    unlike: NDArray[np.bool_] = np.logical_or.reduce(list(unlike_fields(these, others).values()))
    return ~unlike


def unlike_fields(these: Outcomes, others: Outcomes) -> dict[str, NDArray[np.bool_]]:
    """Return bool[n] for each field that can be observed: where it isn't equal.

    As `differing_fields`, but that the words a fault changed have to be equal, too.
    """
    words = these.entry_pa != others.entry_pa
    words |= these.entry_value != others.entry_value
    return {
        "outcome": these.kind != others.kind,
        "pa": these.pa != others.pa,
        "error_code": these.error_code != others.error_code,
        "cr2": these.cr2 != others.cr2,
        "entries": words.any(axis=1),
    }
