"""Points of a boot: when it is checked, saved or protected."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from crosswalk.walker.errors import BadInput

__all__ = ["Point", "PointKind", "parse_point"]


class PointKind(StrEnum):
    """How a point is defined."""

    CONSOLE = "console"
    CR3 = "cr3"
    INSTRUCTIONS = "instructions"
    SYMBOL = "symbol"
    SYSCALL = "syscall"
    USER = "user"
    IDLE = "idle"
    EXIT = "exit"


_FORMS = "console:TEXT, cr3:N, instructions:N, symbol:NAME, syscall:N, user, idle, exit"
_COUNTED = (PointKind.CR3, PointKind.INSTRUCTIONS, PointKind.SYSCALL)
_ALONE = (PointKind.USER, PointKind.IDLE, PointKind.EXIT)
_COUNT = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Point:
    """The first moment at which a condition holds.

    By kind: the console has shown `text`; CR3 has been loaded `number` times since the entry;
    that many instructions have been begun; the instruction at linear address `number`, of the
    symbol `text`, is next; `number` system calls have been made, the first instruction of the last
    one's handler being next; the first instruction at privilege level 3 is next; only timer
    ticks occur any more; or the guest has exited.
    """

    kind: PointKind
    text: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.kind in _ALONE:
            return self.kind.value
        return f"{self.kind.value}:{self.number if self.kind in _COUNTED else self.text}"


def parse_point(text: str, symbols: Mapping[str, int] | None = None) -> Point:
    """Return the point that `text` names; `symbols` are linear addresses by name.

    Raises `BadInput` for what is no point, and for a symbol that isn't known.
    """
    kind, colon, value = text.partition(":")
    if text in _ALONE:
        return Point(PointKind(text))
    if kind not in list(PointKind) or not colon or not value or kind in _ALONE:
        raise BadInput(f"{text!r} is no point of a boot ({_FORMS})")
    if kind in _COUNTED:
        if not _COUNT.fullmatch(value) or not 0 < int(value) < 1 << 63:
            raise BadInput(f"{text!r}: {value!r} is no positive number")
        return Point(PointKind(kind), number=int(value))
    if kind == PointKind.CONSOLE:
        return Point(PointKind.CONSOLE, value)
    if symbols is None:
        raise BadInput(f"{text!r}: no symbols are known; --system-map FILE takes those of a file")
    if value not in symbols:
        raise BadInput(f"{text!r}: no such symbol")
    return Point(PointKind.SYMBOL, value, symbols[value])
