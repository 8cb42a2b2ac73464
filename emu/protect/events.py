"""What a guest meets instead of the end of an operation."""

from dataclasses import dataclass

from crosswalk.emu.cpu.svm.exits import exit_name
from crosswalk.emu.cpu.svm.host import Exit

__all__ = ["Fault", "Met", "described"]


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception of the guest's own; `cr2` is 0 unless it is a page fault."""

    vector: int
    error_code: int
    cr2: int


Met = Exit | Fault


def described(met: Met) -> str:
    """Return what the guest met in a few words."""
    if isinstance(met, Fault):
        return f"vector {met.vector}, error code {met.error_code:#x}, at {met.cr2:#x}"
    where = "" if met.gpa is None else f" at {met.gpa:#x}, error code {met.error_code:#x}"
    return f"exit {exit_name(met.code)}{where}"
