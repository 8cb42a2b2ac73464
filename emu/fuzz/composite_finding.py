"""A composite's divergence: what it is about, and a case that shows it."""

from dataclasses import dataclass, replace

import numpy as np

from emu.check.combine import Claim
from emu.check.composite_check import CompositeStand, Judged
from emu.fuzz.findings import WALKER
from emu.fuzz.signature import Signature
from emu.probe.composites import FORMS, NAMES, Composites, Family, Seen
from emu.report.composite_case import CompositeCase, composite_case
from walker.columns import Kind
from walker.context import PagingContext
from walker.memory import PhysicalMemory
from walker.outcome import error_names
from walker.translate import walk

__all__ = ["CompositeFinding", "findings_in", "findings_of", "judged_case"]

_LOOKED_AT = 512
"""Of how many divergences of one address space the rule is found out."""


@dataclass(frozen=True, slots=True)
class CompositeFinding:
    """Divergences of composites with one signature in one address space, and a case of them.

    The case holds the entries of its walks; `claims` and `seen`, of one row, are what was said
    and seen.
    """

    signature: Signature
    count: int
    case: CompositeCase
    claims: list[Claim]
    seen: Seen


def findings_of(
    memory: PhysicalMemory, context: PagingContext, composites: Composites, judged: Judged
) -> tuple[CompositeFinding, ...]:
    """Return what diverges and isn't known, by signature, in the order of the composites."""
    found: dict[Signature, CompositeFinding] = {}
    for row in np.flatnonzero(judged.differ)[:_LOOKED_AT].tolist():
        signature = _signature(judged, composites, row)
        before = found.get(signature)
        if before is not None:
            found[signature] = replace(before, count=before.count + 1)
            continue
        one = composites.take(slice(row, row + 1))
        words: dict[int, int] = {}
        for va in (int(one.va[0]), int(one.second_va()[0])):
            words |= walk(memory, context, va).words
        claims = [claim.take(slice(row, row + 1)) for claim in judged.claims]
        case = composite_case(context, tuple(memory.ranges), words, one)
        seen = judged.seen.take(slice(row, row + 1))
        found[signature] = CompositeFinding(signature, 1, case, claims, seen)
    return tuple(found.values())


def findings_in(stand: CompositeStand, case: CompositeCase) -> tuple[CompositeFinding, ...]:
    """Return what a case's composite shows, one at the most; raises as `judged_case`."""
    memory, context = case.case.memory(), case.case.context()
    return findings_of(memory, context, case.composite, judged_case(stand, case))


def judged_case(stand: CompositeStand, case: CompositeCase) -> Judged:
    """Return what becomes of a case's composite; raises as `CompositeStand.judge` does."""
    return stand.judge(case.case.memory(), case.case.context(), case.composite)


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
