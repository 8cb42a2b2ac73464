"""When protection of a kernel begins: its own moment, and one that isn't too late.

A kernel is on its own until it starts the first process. What `run_init_process` calls is that
process; in its first instruction no system call has been made. Later on a process may have had the
kernel do anything.
"""

from collections.abc import Mapping

from crosswalk.emu.load.points import Point, PointKind
from crosswalk.walker.errors import BadInput

__all__ = ["DEFAULT_SYMBOL", "begins_at", "require_early"]

DEFAULT_SYMBOL = "run_init_process"
"""The function of Linux by which the kernel's own thread becomes the first process."""


def begins_at(symbols: Mapping[str, int] | None) -> Point:
    """Return the kernel's own moment: its symbol's point, or `user` where it isn't known."""
    if symbols is not None and DEFAULT_SYMBOL in symbols:
        return Point(PointKind.SYMBOL, DEFAULT_SYMBOL, symbols[DEFAULT_SYMBOL])
    return Point(PointKind.USER)


def require_early(point: Point, system_calls: int, *, at_least: bool = False) -> None:
    """Raise `BadInput` where system calls had been made at a point; `at_least` so many."""
    if not system_calls:
        return
    number = f"{'at least ' if at_least else ''}{system_calls:,}"
    calls = f"system call{'s' * (system_calls > 1)} had been made"
    raise BadInput(f"--protect-at {point} is too late: {number} {calls}")
