"""`crosswalk nested --with`: the machines whose virtualisation can be asked, by name."""

from crosswalk.emu.judges.nested.judge import OWN_FRAMES, NestedJudge
from crosswalk.emu.judges.nested.svm import Svm
from crosswalk.emu.judges.nested.vmx import Vmx
from crosswalk.emu.judges.registry import parted
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.monitor.machines import BochsHost, QemuHost
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.protection.policy import TableKind

__all__ = ["NESTED_JUDGES", "open_nested_judge"]

NESTED_JUDGES = {
    TableKind.NPT: ("unicorn", "qemu[:PATH]"),
    TableKind.EPT: ("bochs[:PATH]",),
    TableKind.EPT_MBEC: ("bochs[:PATH]",),
}
"""Who has each kind of tables, for help and for errors."""


_AMD = CpuWish(maxphyaddr=40, vendor=Vendor.AMD)


def open_nested_judge(text: str, tables: TableKind) -> NestedJudge:
    """Return the judge of these tables that `text` names, one of NESTED_JUDGES but Unicorn.

    Raises `BadInput` for others, and where it can't be had.
    """
    kind, path = parted(text) if text != "unicorn" else (text, "")
    if tables is TableKind.NPT and kind == "qemu":
        return NestedJudge(QemuHost(path, wish=_AMD, name=text), Svm(OWN_FRAMES))
    if tables is not TableKind.NPT and kind == "bochs":
        return NestedJudge(BochsHost(path, name=text), Vmx())
    raise BadInput(
        f"--tables {tables} --with {kind}: {kind} isn't asked about these tables; "
        f"there is --with {' or '.join(NESTED_JUDGES[tables])}"
    )
