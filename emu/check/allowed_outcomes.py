"""The outcomes that the manuals allow a composite, from those of its one-byte accesses.

Where the manuals leave a choice there are several, or one leaves a word open; to match one is
enough.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import choose
from crosswalk.emu.probe.composites import SAME_PKRU, CompositeOutcomes, Composites, Family
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = [
    "AllowedOutcome",
    "Parts",
    "allowed_outcomes",
    "is_allowed",
    "part_accesses",
    "parts_of",
    "second_outcomes",
    "sequence",
]

Predictor = Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]

_DESCRIPTOR = 8


@dataclass(frozen=True, slots=True)
class AllowedOutcome(Rows):
    """One way that n composites may end, with columns as `CompositeOutcomes` has them.

    `valid` bool[n]: whether it is one at all. `cr2` may lie up to `slack` uint64[n] bytes higher.
    `word`, `value` uint64[n, 10] are words that may have changed, and to what at the most; where
    `must` bool[n, 10], to nothing less.
    """

    valid: NDArray[np.bool_]
    kind: NDArray[np.uint8]
    pa: U64
    error_code: NDArray[np.uint16]
    cr2: U64
    slack: U64
    word: U64
    value: U64
    must: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Parts:
    """The outcomes of both accesses of n composites, of one by itself twice the same."""

    first: Outcomes
    second: Outcomes


def part_accesses(composites: Composites) -> tuple[Accesses, Accesses]:
    """Return the one-byte accesses that composites consist of, the first and the second of each.

    An implicit access is a supervisor-mode access at any CPL, and RFLAGS.AC has no effect on it
    (Intel SDM vol. 3A, "Determination of Access Rights").
    """
    implicit = composites.family(Family.IMPLICIT)
    cpl = np.where(implicit, np.uint8(0), composites.cpl)
    ac = composites.ac & ~implicit
    first = Accesses(composites.va, composites.types(0), cpl, ac)
    twice = composites.family(Family.TWICE)
    second = Accesses(
        composites.second_va(),
        composites.types(1),
        np.where(twice, composites.then_cpl, cpl),
        np.where(twice, composites.then_ac, ac),
    )
    return first, second


def parts_of(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    predict: Predictor = translate_many,
) -> Parts:
    """Return the outcomes of the one-byte accesses that composites consist of."""
    first, second = part_accesses(composites)

    def predict_second(pkru: int | None, accesses: Accesses) -> Outcomes:
        under = context if pkru is None else replace(context, pkru=pkru)
        return predict(memory, under, accesses)

    return Parts(
        predict(memory, context, first), second_outcomes(composites, second, predict_second)
    )


def second_outcomes(
    composites: Composites,
    accesses: Accesses,
    outcomes_of: Callable[[int | None, Accesses], Outcomes],
) -> Outcomes:
    """Return the outcomes of the second accesses, each under its PKRU, None for the context's."""
    found = Outcomes.empty(len(accesses))
    written = np.where(composites.family(Family.TWICE), composites.then_pkru, SAME_PKRU)
    for pkru in np.unique(written).tolist():
        rows = np.flatnonzero(written == pkru)
        some = outcomes_of(None if pkru == SAME_PKRU else pkru, accesses.take(rows))
        for name in Outcomes.__dataclass_fields__:
            getattr(found, name)[rows] = getattr(some, name)
    return found


def allowed_outcomes(composites: Composites, parts: Parts) -> list[AllowedOutcome]:
    """Return the outcomes that composites may have; each row has at least one valid option.

    A locked read-modify-write is a write, in its error code too: both halves are one operation.
    Loading a segment register reads the descriptor, and then marks it as accessed unless it is; CR2
    may point at any of its bytes. An access that crosses a page boundary reaches two pages or
    faults at one of them, in either order, and the walk for the other page may have set A bits by
    then. Each of two accesses has the outcome that it has with an empty TLB: only A and D bits
    change between them, and a TLB must not apply the rights of another privilege level.

    Source: Intel SDM vol. 3A, "Bus Locking", "Code- and Data-Segment Descriptor Types", "Accessed
    and Dirty Flags", "Guaranteed Atomic Operations", "Caching Translations in TLBs".
    """
    first, second = parts.first, parts.second
    single = _of(first, first, both=False)
    row = {
        "cross": composites.family(Family.CROSS),
        "twice": composites.family(Family.TWICE),
        "two": composites.has_two() & composites.family(Family.IMPLICIT),
        "implicit": composites.family(Family.IMPLICIT),
    }
    option = choose(row["two"], sequence(parts), single)
    option = choose(row["twice"], _of(first, second, both=True), option)
    option = replace(
        option, slack=np.where(row["implicit"], np.uint64(_DESCRIPTOR - 1), option.slack)
    )
    crossing = list(_crossing(parts))
    allowed = [choose(row["cross"], crossing[0], option)]
    if row["cross"].any():
        allowed.append(replace(crossing[1], valid=crossing[1].valid & row["cross"]))
    return allowed


def sequence(parts: Parts) -> AllowedOutcome:
    """Return the outcome of two accesses by one instruction, made one after the other."""
    first, second = parts.first, parts.second
    reached = first.kind == Kind.OK
    one, two = _of(first, first, both=False), _of(second, second, both=False)
    option = choose(reached, two, one)
    done = reached & (second.kind == Kind.OK)
    return _with_words(option, (first, second), np.stack([done, done], axis=1), (None, reached))


def _crossing(parts: Parts) -> Iterator[AllowedOutcome]:
    first, second = parts.first, parts.second
    done = (first.kind == Kind.OK) & (second.kind == Kind.OK)
    for at, (part, other) in enumerate(((first, second), (second, first))):
        option = _of(part, part, both=False)
        pa = np.stack([part.pa, other.pa], axis=1)
        option = replace(
            option,
            pa=np.where(done[:, None], pa, np.uint64(0)),
            valid=(part.kind != Kind.OK) | (done & (at == 0)),
        )
        must = np.stack([done, done], axis=1)
        yield _with_words(option, (first, second), must, (None, None))


def _of(first: Outcomes, second: Outcomes, *, both: bool) -> AllowedOutcome:
    """Return the outcomes as the only option; those of `both` accesses, or of the first."""
    count = len(first)

    def pair(name: str) -> "NDArray[np.generic]":
        one, two = getattr(first, name), getattr(second, name)
        return np.stack([one, two if both else np.zeros_like(two)], axis=1)

    option = AllowedOutcome(
        valid=np.ones(count, np.bool_),
        kind=pair("kind"),  # type: ignore[arg-type]  # By name, as the next three.
        pa=pair("pa"),  # type: ignore[arg-type]
        error_code=pair("error_code"),  # type: ignore[arg-type]
        cr2=pair("cr2"),  # type: ignore[arg-type]
        slack=np.zeros(count, np.uint64),
        word=np.zeros((count, 0), np.uint64),
        value=np.zeros((count, 0), np.uint64),
        must=np.zeros((count, 0), np.bool_),
    )
    must = np.stack([part.kind == Kind.OK for part in (first, second)], axis=1)
    return _with_words(option, (first, second), must, (None, None))


def _with_words(
    option: AllowedOutcome,
    parts: tuple[Outcomes, Outcomes],
    must: NDArray[np.bool_],
    happens: tuple[NDArray[np.bool_] | None, ...],
) -> AllowedOutcome:
    """Return the option with the words of both parts; `must` bool[n, 2]: whose have to change."""
    values = [
        part.entry_value if made is None else np.where(made[:, None], part.entry_value, 0)
        for part, made in zip(parts, happens, strict=True)
    ]
    width = values[0].shape[1]
    return replace(
        option,
        word=np.concatenate([part.entry_pa for part in parts], axis=1),
        value=np.concatenate(values, axis=1).astype(np.uint64),
        must=np.repeat(must, width, axis=1),
    )


def is_allowed(allowed: Sequence[AllowedOutcome], seen: CompositeOutcomes) -> NDArray[np.bool_]:
    """Return bool[n]: which observed outcomes are one of the allowed, words included."""
    found = np.zeros(len(seen), np.bool_)
    for option in allowed:
        same = option.valid & (option.kind == seen.kind).all(axis=1)
        same &= (option.pa == seen.pa).all(axis=1)
        same &= (option.error_code == seen.error_code).all(axis=1)
        beyond = seen.cr2 - option.cr2
        faults = seen.kind == Kind.PAGE_FAULT
        same &= (np.where(faults, beyond <= option.slack[:, None], beyond == 0)).all(axis=1)
        rows = np.flatnonzero(same)
        found[rows] |= _words_allowed(option.take(rows), seen.take(rows))
    return found


def _words_allowed(option: AllowedOutcome, seen: CompositeOutcomes) -> NDArray[np.bool_]:
    zero = np.uint64(0)
    same = (seen.entry_pa[:, :, None] == option.word[:, None, :]) & (option.value != 0)[:, None, :]
    allowed = np.bitwise_or.reduce(np.where(same, option.value[:, None, :], zero), axis=2)
    used = seen.entry_value != 0
    good = (~used | ((seen.entry_value & ~allowed) == 0)).all(axis=1)
    reached = np.bitwise_or.reduce(
        np.where(same & used[:, :, None], seen.entry_value[:, :, None], zero), axis=1
    )
    kept = ~option.must | ((option.value & ~reached) == 0)
    found: NDArray[np.bool_] = good & kept.all(axis=1)
    return found
