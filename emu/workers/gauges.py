"""What a process uses, and how long it may take: CPU time of it and of all that it started."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Allowance", "Gauges", "family_seconds", "memory_kills"]

_TICKS = os.sysconf("SC_CLK_TCK")
_FIRST = 0.1  # Of the CPU time allowed: most answers come before anything is read.
_SHORTEST = 0.02  # Seconds between two looks: CPU time is counted in ticks of 10 ms.


def family_seconds(root: int) -> float | None:
    """Return the CPU time, in seconds, that all descendants of a process have used.

    Children that they waited for count; those whose end they ignore (SIGCHLD ignored) do only
    while they run. None where there is no /proc to read it from.
    """
    used: dict[int, tuple[int, int]] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended meanwhile.
            # The name of a program, in parentheses, may hold anything.
            words = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            number = int(folder.name)
            used[number] = sum(map(int, words[11:13])), sum(map(int, words[13:15]))
            children.setdefault(int(words[1]), []).append(number)
    if root not in used:
        return None
    ticks, found = used[root][1], list(children.get(root, ()))
    for number in found:
        ticks += sum(used[number])
        found += children.pop(number, ())
    return ticks / _TICKS


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory, None if unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


@dataclass(frozen=True, slots=True)
class Gauges:
    """Where times and numbers of the machine are read: a clock, in seconds, and the two above."""

    wall: Callable[[], float] = time.monotonic
    cpu: Callable[[int], float | None] = family_seconds
    memory_kills: Callable[[], int | None] = memory_kills


class Allowance:
    """The time that the descendants of a process have for one answer, from now on.

    `seconds` of CPU time, and `wall` seconds on the clock. CPU time is looked at after a tenth of
    `seconds` on the clock, and counts from there; again when one processor could have used it up.
    """

    def __init__(self, root: int, seconds: float, wall: float, gauges: Gauges) -> None:
        self._root, self._seconds, self._wall, self._gauges = root, seconds, wall, gauges
        self._began = gauges.wall()
        self._look = self._began + min(seconds * _FIRST, wall)
        self._base: float | None = None

    @property
    def left(self) -> float:
        """The seconds on the clock after which it has to be looked at again, 0 or more."""
        return max(0.0, min(self._look, self._began + self._wall) - self._gauges.wall())

    def exceeded(self) -> str:
        """Return in words which time is over, an empty text for none."""
        now = self._gauges.wall()
        if now - self._began >= self._wall:
            return f"{self._wall:g} s"
        if now < self._look:
            return ""
        spent = self._gauges.cpu(self._root)
        if spent is None:  # Then the clock alone bounds it.
            self._look = self._began + self._wall
            return ""
        self._base = spent if self._base is None else self._base
        rest = self._seconds - (spent - self._base)
        self._look = now + max(rest, _SHORTEST)
        return "" if rest > 0 else f"{self._seconds:g} s of CPU time"
