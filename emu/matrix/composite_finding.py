"""A composite's divergence: what it is about, and a case that shows it, as small as can be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from emu.check.combine import Claim
from emu.check.composite_check import CompositeStand, Judged
from emu.fuzz.findings import WALKER
from emu.fuzz.reduce import reduce_case
from emu.fuzz.signature import Signature
from emu.matrix.composite import Space
from emu.matrix.section import RAM
from emu.probe.composites import FORMS, NAMES, SAME_PKRU, Composites, Family, Seen
from emu.report.composite_case import CompositeCase, composite_case, dump_composite
from walker.columns import Kind
from walker.outcome import error_names

__all__ = [
    "CompositeFinding",
    "findings_of",
    "judged_case",
    "reduced_composite",
    "shows_slug",
    "told",
]

_LOOKED_AT = 512
"""Of how many divergences of one address space the rule is found out."""


@dataclass(frozen=True, slots=True)
class CompositeFinding:
    """Divergences of composites with one signature in one address space, and a case of them."""

    signature: Signature
    count: int
    case: CompositeCase


def findings_of(space: Space, judged: Judged) -> tuple[CompositeFinding, ...]:
    """Return what diverges and isn't known, by signature, in the order of the composites."""
    found: dict[Signature, CompositeFinding] = {}
    for row in np.flatnonzero(judged.differ)[:_LOOKED_AT].tolist():
        signature = _signature(judged, space.composites, row)
        before = found.get(signature)
        if before is not None:
            found[signature] = replace(before, count=before.count + 1)
            continue
        words = dict(space.memory().words())
        one = space.composites.take(slice(row, row + 1))
        case = composite_case(space.context, RAM, words, one)
        found[signature] = CompositeFinding(signature, 1, case)
    return tuple(found.values())


def _signature(judged: Judged, composites: Composites, row: int) -> Signature:
    """Return which composite differs, and how: in the outcome, or only in the words changed."""
    name = NAMES[int(composites.form[row])]
    seen = judged.seen.take(slice(row, row + 1))
    claims = [claim.take(slice(row, row + 1)) for claim in judged.claims]
    said = [_text(claim, name) for claim in claims if claim.valid[0]]
    truth = _text(seen, name)
    if truth in said:
        return Signature(WALKER, f"{name}: address, CR2, A or D", "another", truth)
    return Signature(WALKER, name, " or ".join(said), truth)


def _text(row: Claim | Seen, name: str) -> str:
    count = 2 if FORMS[name].family is Family.TWICE else 1
    return " then ".join(_answer(row, at) for at in range(count))


def _answer(row: Claim | Seen, at: int) -> str:
    kind = Kind(row.kind[0, at])
    if kind is Kind.PAGE_FAULT:
        return f"#PF {error_names(int(row.error_code[0, at]))}"
    return "ok" if kind is Kind.OK else "#GP"


def reduced_composite(case: CompositeCase, shows: Callable[[CompositeCase], bool]) -> CompositeCase:
    """Return the case as small as can be found while it still `shows`."""
    small = reduce_case(case.case, lambda each: shows(replace(case, case=each)))
    case = replace(case, case=small.case)
    for simpler in _simpler(case.composite):
        candidate = replace(case, composite=simpler(case.composite))
        if shows(candidate):
            case = candidate
    return case


def shows_slug(stand: CompositeStand, slug: str) -> Callable[[CompositeCase], bool]:
    """Return what tells whether a case diverges with the signature of this slug."""

    def shows(case: CompositeCase) -> bool:
        judged = judged_case(stand, case)
        return bool(judged.differ[0]) and _signature(judged, case.composite, 0).slug == slug

    return shows


def _simpler(composite: Composites) -> Iterator[Callable[[Composites], Composites]]:
    changes = {"cpl": 0, "ac": False, "then_cpl": 0, "then_ac": False, "then_pkru": SAME_PKRU}
    if composite.then_va[0] != composite.va[0]:
        yield lambda one: replace(one, then_va=one.va)
    for name, value in changes.items():
        column = getattr(composite, name)
        if column[0] != value:
            plain = np.array([value], column.dtype)
            yield lambda one, name=name, plain=plain: replace(one, **{name: plain})  # type: ignore[misc]  # A column by name.


def told(stand: CompositeStand, case: CompositeCase) -> bytes:
    """Return the case's file, with what is predicted and observed now."""
    judged = judged_case(stand, case)
    return dump_composite(case, judged.claims, judged.seen)


def judged_case(stand: CompositeStand, case: CompositeCase) -> Judged:
    """Return what becomes of a case's composite; raises as `CompositeStand.judge` does."""
    return stand.judge(case.case.memory(), case.case.context(), case.composite)
