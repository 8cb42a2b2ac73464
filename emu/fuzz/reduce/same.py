"""Whether a smaller case still shows the same: by trying it, prediction and emulator and all."""

from collections.abc import Callable
from dataclasses import replace

from emu.fuzz.attempt import Tester
from emu.fuzz.layout_case import case_layout
from emu.fuzz.reduce.reducer import Reduced, reduce_case
from emu.fuzz.signature import Signature
from walker.source import Case

__all__ = ["reduced_to", "shows", "signatures_of"]


def signatures_of(tester: Tester, case: Case) -> list[Signature]:
    """Return what a case shows, in order; raises as `Tester.findings` does, and `Case.context`."""
    return sorted(tester.findings(case_layout(case)).signatures)


def shows(tester: Tester, signature: Signature) -> Callable[[Case], bool]:
    """Return what tells whether a case shows this signature."""
    return lambda case: signature in signatures_of(tester, case)


def reduced_to(tester: Tester, case: Case, signature: Signature) -> Reduced:
    """Return the case reduced while it shows this signature, with what was said and seen then."""
    bare = replace(
        case, probes=tuple(replace(each, predicted=None, observed=None) for each in case.probes)
    )
    reduced = reduce_case(bare, shows(tester, signature))
    for finding in tester.findings(case_layout(reduced.case)).all():
        if finding.signature == signature and len(reduced.case.probes) == 1:
            told = replace(reduced.case, probes=finding.case.probes)
            return Reduced(told, reduced.tries, reduced.done)
    return reduced
