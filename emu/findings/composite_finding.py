"""A composite's divergence: what it is about, and a case that shows it."""

from dataclasses import dataclass

import numpy as np

from crosswalk.emu.check.allowed_outcomes import AllowedOutcome, is_allowed
from crosswalk.emu.check.composites import CompositeChecker, CompositeVerdict
from crosswalk.emu.findings.caseless import Caseless, attempted
from crosswalk.emu.findings.findings import SECOND_WALK, WALKER, WRITABLE
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.probe.composites import FORMS, NAMES, CompositeOutcomes, Composites, Family
from crosswalk.emu.report.composites import CompositeCase, composite_case
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import error_names
from crosswalk.walker.translate import walk

__all__ = ["CompositeFinding", "findings_in", "findings_of", "gathered_of", "judged_case"]


@dataclass(frozen=True, slots=True)
class CompositeFinding:
    """Divergences of composites with one signature in one address space, and a case of them.

    The case holds the entries of its walks; `allowed` and `seen`, of one row, are what was said
    and seen.
    """

    signature: Signature
    count: int
    case: CompositeCase
    allowed: list[AllowedOutcome]
    seen: CompositeOutcomes


def findings_of(
    memory: PhysicalMemory, context: PagingContext, composites: Composites, judged: CompositeVerdict
) -> tuple[CompositeFinding, ...]:
    """Return what diverges and isn't known, by signature, in the order of the composites."""
    return tuple(
        _finding(memory, context, composites, judged, signature, rows)
        for signature, rows in _by_signature(composites, judged).items()
    )


def gathered_of(
    memory: PhysicalMemory, context: PagingContext, composites: Composites, judged: CompositeVerdict
) -> tuple[CompositeFinding | Caseless, ...]:
    """Return the same; a finding whose case can't be made is there without, and why not."""
    found: list[CompositeFinding | Caseless] = []
    failed: list[Caseless] = []
    for signature, rows in _by_signature(composites, judged).items():
        made = attempted(
            WRITABLE,
            lambda each=signature, rows=rows: _finding(  # type: ignore[misc]  # Bound now.
                memory, context, composites, judged, each, rows
            ),
            failed,
        )
        found.append(Caseless(signature, len(rows)) if made is None else made)
    return (*found, *failed)


def _by_signature(composites: Composites, judged: CompositeVerdict) -> dict[Signature, list[int]]:
    """Return the rows that diverge and aren't known, by signature."""
    found: dict[Signature, list[int]] = {}
    for row in np.flatnonzero(judged.differ).tolist():
        found.setdefault(_signature(judged, composites, row), []).append(row)
    return found


def _finding(
    memory: PhysicalMemory,
    context: PagingContext,
    composites: Composites,
    judged: CompositeVerdict,
    signature: Signature,
    rows: list[int],
) -> CompositeFinding:
    """Return the finding that these rows show, with a case of the first."""
    first = slice(rows[0], rows[0] + 1)
    one = composites.take(first)
    words: dict[int, int] = {}
    for va in (int(one.va[0]), int(one.second_va()[0])):
        # A walk that leaves the memory reads zeros there, which are no words of a case.
        words |= {pa: word for pa, word in walk(memory, context, va).words if word}
    allowed = [option.take(first) for option in judged.allowed]
    case = composite_case(context, tuple(memory.ranges), words, one)
    return CompositeFinding(signature, len(rows), case, allowed, judged.seen.take(first))


def findings_in(stand: CompositeChecker, case: CompositeCase) -> tuple[CompositeFinding, ...]:
    """Return what a case's composite shows, one at the most; raises as `judged_case`."""
    memory, context = case.case.memory(), case.case.context()
    return findings_of(memory, context, case.composite, judged_case(stand, case))


def judged_case(stand: CompositeChecker, case: CompositeCase) -> CompositeVerdict:
    """Return what becomes of a case's composite; raises as `CompositeChecker.judge` does."""
    return stand.judge(case.case.memory(), case.case.context(), case.composite)


def _signature(judged: CompositeVerdict, composites: Composites, row: int) -> Signature:
    """Return which composite differs, and how: in the outcome, or only in the words changed."""
    name = NAMES[int(composites.form[row])]
    seen = judged.seen.take(slice(row, row + 1))
    allowed = [option.take(slice(row, row + 1)) for option in judged.allowed]
    said = [_text(option, name) for option in allowed if option.valid[0]]
    witness, truth = WALKER, _text(seen, name)
    if is_allowed(allowed, seen)[0]:
        # The manuals allow it, but it isn't what the emulated CPU is stated to do.
        witness, said = SECOND_WALK, [_text(judged.stated.take(slice(row, row + 1)), name)]
    if truth in said:
        return Signature(witness, f"{name}: address, CR2, A or D", "another", truth)
    return Signature(witness, name, " or ".join(said), truth)


def _text(row: AllowedOutcome | CompositeOutcomes, name: str) -> str:
    count = 2 if FORMS[name].family is Family.TWICE else 1
    return " then ".join(_answer(row, at) for at in range(count))


def _answer(row: AllowedOutcome | CompositeOutcomes, at: int) -> str:
    kind = Kind(row.kind[0, at])
    if kind is Kind.PAGE_FAULT:
        return f"#PF {error_names(int(row.error_code[0, at]))}"
    return "ok" if kind is Kind.OK else "#GP"
