"""What a guest's own hypervisor maps for its guest, where a boot has reached a point."""

from dataclasses import dataclass

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.cpu.svm.hypervisor import ControlRegisters, NestedRoot
from crosswalk.walker.architecture import EFER
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.nested.context import NestedContext

__all__ = ["NestedPaging", "host_paging", "nested_paging"]

# The rest says nothing of paging: SVME is set in each guest.
_EFER = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE


@dataclass(frozen=True, slots=True)
class NestedPaging:
    """Tables in two dimensions: the hypervisor's nested ones, and its guest's own.

    `context` is None where they can't be walked, and `unread` says why: the guest's paging is off,
    or one side isn't in IA-32e mode.
    """

    root: NestedRoot
    context: NestedContext | None
    unread: str = ""


def nested_paging(root: NestedRoot) -> NestedPaging:
    """Return the tables in two dimensions that these registers select."""
    try:
        guest = _context(root.guest, root.guest.cr3)
        return NestedPaging(root, NestedContext(guest, _context(root.host, root.nested_cr3)))
    except BadInput as error:
        return NestedPaging(root, None, str(error))


def host_paging(root: NestedRoot) -> PagingContext:
    """Return the hypervisor's own paging; `BadInput` where it isn't modelled."""
    return _context(root.host, root.host.cr3)


def _context(registers: ControlRegisters, cr3: int) -> PagingContext:
    return PagingContext(
        cr3=cr3,
        cr0=registers.cr0,
        cr4=registers.cr4,
        efer=registers.efer & _EFER,
        maxphyaddr=MAXPHYADDR,
        vendor=Vendor.AMD,
    )
