"""What the walk in two dimensions says of an access by the guest."""

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_EFER, Exit
from crosswalk.emu.protect.events import Fault, Met
from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedPageFault
from crosswalk.walker.nested.translate import translate_nested
from crosswalk.walker.outcome import GeneralProtection, PageFault

__all__ = ["foretold"]

_CR0, _CR4 = 0x8000_0001, 0x20
_CAUSE = 0x1F
_PROTECTION, _PAGE_FAULT = 13, 14


def foretold(
    memory: PhysicalMemory, context: PagingContext, nested_cr3: int, access: Access
) -> Met | None:
    """Return what a guest with these registers meets with an access; None if it succeeds."""
    host = PagingContext(
        cr0=_CR0, cr3=nested_cr3, cr4=_CR4, efer=HOST_EFER, pkru=0, maxphyaddr=MAXPHYADDR
    )
    outcome = translate_nested(memory, NestedContext(context, host), access)
    if isinstance(outcome, NestedPageFault):
        return Exit(ExitCode.NPF, outcome.error_code & _CAUSE, outcome.gpa)
    if isinstance(outcome, PageFault):
        return Fault(_PAGE_FAULT, outcome.error_code, outcome.cr2)
    if isinstance(outcome, GeneralProtection):
        return Fault(_PROTECTION, 0, 0)
    return None
