"""Whether a smaller case still shows the same: by trying it, prediction and emulator and all."""

from dataclasses import replace

from emu.fuzz.attempt import Tester
from emu.fuzz.findings import Finding
from emu.fuzz.layout_case import case_layout
from emu.fuzz.reduce.reducer import Reduced, reduce_case, too_many
from emu.fuzz.reduce.trial import Trial
from emu.fuzz.signature import Signature
from walker.source import Case

__all__ = ["MAX_HANGING", "reduced_to", "signature_to_keep", "signatures_of"]

MAX_HANGING = 24
"""How many cases that hang are waited for at the most: each costs seconds."""


def signatures_of(by: Tester | Trial, case: Case) -> list[Signature]:
    """Return what a case shows, in order; raises as `Tester.findings` does, and `Case.context`."""
    return sorted(each.signature for each in _findings(by, case))


def signature_to_keep(by: Tester | Trial, case: Case) -> Signature | None:
    """Return which of the signatures that a case shows it is about, None if it shows none.

    That is the one that its note names, or else the first.
    """
    found = signatures_of(by, case)
    named = [each for each in found if case.note is not None and case.note.startswith(str(each))]
    return next(iter(named or found), None)


def reduced_to(by: Tester | Trial, case: Case, signature: Signature) -> Reduced:
    """Return the case reduced while it shows this signature, with what was said and seen then."""
    bare = replace(
        case, probes=tuple(replace(each, predicted=None, observed=None) for each in case.probes)
    )

    def shows(case: Case) -> bool:
        return signature in signatures_of(by, case)

    def enough(tries: int) -> bool:
        return too_many(tries) or (isinstance(by, Trial) and by.hung >= MAX_HANGING)

    reduced = reduce_case(bare, shows, enough)
    for finding in _findings(by, reduced.case):
        if finding.signature == signature and len(reduced.case.probes) == 1:
            told = replace(reduced.case, probes=finding.case.probes)
            return Reduced(told, reduced.tries, reduced.done)
    return reduced


def _findings(by: Tester | Trial, case: Case) -> tuple[Finding, ...]:
    return by.findings(case) if isinstance(by, Trial) else by.findings(case_layout(case)).all()
