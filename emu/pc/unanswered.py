"""What a guest asked of hardware that isn't there: ports, MSRs and physical memory.

Such a question ends nothing by itself: reads give all ones, or 0 for an MSR, and writes do nothing.
But when a guest hangs or gives up, it is usually because of one of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from crosswalk.walker.memory import FRAME

__all__ = ["Asked", "Question", "Target", "Unanswered", "unanswered_lines", "unanswered_text"]

_KEPT = 4096
_SHOWN = 24


class Target(StrEnum):
    """What was asked."""

    PORT = "port"
    MSR = "MSR"
    MEMORY = "physical address"


_COUNTED = (
    (Target.PORT, "port", "ports"),
    (Target.MSR, "MSR", "MSRs"),
    (Target.MEMORY, "frame of memory", "frames of memory"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A read or write that nothing answered; `size` in bytes.

    `address` is the port, the MSR's number, or the first physical address asked in a frame.
    """

    target: Target
    address: int
    write: bool
    size: int


@dataclass(slots=True)
class Asked:
    """A question, how often it was asked, and RIP when it was asked first.

    For physical memory RIP is only that of the last block of code entered before, or of the last
    exception in it.
    """

    question: Question
    rip: int
    count: int = 1


class Unanswered:
    """All questions that nothing answered, in the order in which each was first asked.

    Accesses to physical memory in the same frame, in the same direction and of the same size are
    one question. `dropped` counts what was asked when there were already 4,096 different ones.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[Target, int, bool, int], Asked] = {}
        self.dropped = 0

    def note(
        self, target: Target, address: int, *, write: bool, size: int, rip: Callable[[], int]
    ) -> None:
        """Count a question; `rip` is called where it is a new one."""
        place = address // FRAME if target is Target.MEMORY else address
        key = (target, place, write, size)
        known = self._asked.get(key)
        if known is not None:
            known.count += 1
        elif len(self._asked) < _KEPT:
            self._asked[key] = Asked(Question(target, address, write, size), rip())
        else:
            self.dropped += 1

    def __iter__(self) -> Iterator[Asked]:
        """Yield each question, the one asked first before the others."""
        return iter(self._asked.values())

    def __len__(self) -> int:
        """Return how many different questions there are."""
        return len(self._asked)

    def records(self, name: Callable[[int], str | None]) -> list[dict[str, Any]]:
        """Return them as JSON has them, addresses in hexadecimal; `name` is what code is called."""
        return [
            {
                "target": asked.question.target.value,
                "address": f"{asked.question.address:#x}",
                "access": "write" if asked.question.write else "read",
                "size": asked.question.size,
                "count": asked.count,
                "rip": f"{asked.rip:#x}",
                "symbol": name(asked.rip),
            }
            for asked in self
        ]


def unanswered_text(unanswered: Unanswered) -> str:
    """Return in a line how much of what there was asked; "" where all was answered."""
    if not len(unanswered):
        return ""
    parts = []
    for target, one, more in _COUNTED:
        places = {_place(each.question) for each in unanswered if each.question.target is target}
        if places:
            parts.append(f"{len(places):,} {one if len(places) == 1 else more}")
    times = sum(each.count for each in unanswered) + unanswered.dropped
    often = "once" if times == 1 else f"{times:,} times in all"
    return f"asked of hardware that isn't there: {', '.join(parts)}; {often}"


def unanswered_lines(
    unanswered: Unanswered, name: Callable[[int], str | None], shown: int = _SHOWN
) -> Iterator[str]:
    """Yield a heading, and a line for each of the `shown` questions asked most often.

    Nothing where all were answered. `name` is what code is called.
    """
    if not len(unanswered):
        return
    # A stable sort: of equally frequent ones, the one asked first.
    often = sorted(unanswered, key=lambda asked: -asked.count)
    more = f", the {shown} most frequent of {len(often)}" if len(often) > shown else ""
    yield f"asked of hardware that isn't there{more}:"
    yield from (f"  {_line(asked, name(asked.rip))}" for asked in often[:shown])
    if unanswered.dropped:
        yield f"  and {unanswered.dropped:,} more accesses elsewhere"


def _place(question: Question) -> int:
    """Return the port or MSR, or the number of a frame of memory."""
    address = question.address
    return address // FRAME if question.target is Target.MEMORY else address


def _line(asked: Asked, name: str | None) -> str:
    question = asked.question
    verb = "written" if question.write else "read"
    times = "once" if asked.count == 1 else f"{asked.count:,} times"
    size = f"{question.size} byte" if question.size == 1 else f"{question.size} bytes"
    where = f"{question.target.value} {question.address:#x}"
    code = f"{asked.rip:#x}{f' ({name})' if name else ''}"
    return f"{where}, {size}, {verb} {times}, first by the code at {code}"
