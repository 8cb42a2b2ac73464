"""Whether a smaller case still shows the same: by trying it, prediction and emulator and all."""

from collections.abc import Callable

from emu.fuzz.attempt import Tester
from emu.fuzz.layout_case import case_layout
from emu.fuzz.signature import Signature
from walker.source import Case

__all__ = ["shows", "signatures_of"]


def signatures_of(tester: Tester, case: Case) -> list[Signature]:
    """Return what a case shows, in order; raises as `Tester.findings` does, and `Case.context`."""
    return sorted(tester.findings(case_layout(case)).signatures)


def shows(tester: Tester, signature: Signature) -> Callable[[Case], bool]:
    """Return what tells whether a case shows this signature."""
    return lambda case: signature in signatures_of(tester, case)
