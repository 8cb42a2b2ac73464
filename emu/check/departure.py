"""What an entry of the registry is: one known departure of an emulator from the manuals."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from crosswalk.emu.check.emulated_rules import Rules
from crosswalk.emu.check.nested_deviations import MANUAL, Deviation
from crosswalk.walker.tlb import Sequence

__all__ = [
    "BOCHS",
    "KVM",
    "MTTCG",
    "QEMU",
    "UNICORN",
    "X86ISA",
    "Departure",
    "Scope",
    "SequenceTest",
]

SequenceTest = Callable[[Sequence, int, str], bool]
"""Says of a violation in a sequence, at this step and for this cause, whether it is one."""

UNICORN, QEMU, MTTCG = "unicorn", "qemu", "qemu-mttcg"
KVM, BOCHS, X86ISA = "kvm", "bochs", "x86isa"
"""Judges by what `crosswalk judge --with` calls them, without a path."""


class Scope(StrEnum):
    """What it takes to see a departure; the values are folders of tests/cases."""

    ACCESS = "known"
    """An access of one byte."""
    COMPOSITE = "composite"
    """An access that is more than that."""
    SEQUENCE = "known-sequences"
    """Changes, invalidations and accesses in a row."""
    NESTED = "nested"
    """An access by a guest under nested paging; there are no files of these."""


_OTHERS = "judges"
"""The folder of tests/cases of what other judges show, and Unicorn doesn't."""


def _unchanged(rules: Rules) -> Rules:
    return rules


def _never(*_of: object) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Departure:
    """One departure: what differs, where the manual has it, and why the emulator does it.

    `judges` are those that show it; where not all versions do, `since` and `until` are the first
    and the last that does, as in "3.1". `change` makes the rules that these go by of
    the manuals'. `explains` tells of a violation at a step of a sequence, for a cause, whether it
    is an instance. `deviation` is what the walk in two dimensions does otherwise. Of other judges'
    such, `pair` has the kind of tables and the number of the pair of `crosswalk nested` whose first
    access shows it, of seed 0.
    """

    id: str
    scope: Scope
    differs: str
    manual: str
    reason: str
    change: Callable[[Rules], Rules] = _unchanged
    explains: SequenceTest = _never
    deviation: Deviation = MANUAL
    judges: frozenset[str] = frozenset({UNICORN})
    since: str = ""
    until: str = ""
    pair: tuple[str, int] | None = None

    def shown_by(self, who: str) -> bool:
        """Return whether a judge shows it: a name, or name and version ("bochs 3.1")."""
        kind, _, version = who.partition(" ")
        if kind not in self.judges or not version:
            return kind in self.judges
        number = _number(version)
        first = not self.since or _number(self.since) <= number
        return first and (not self.until or number[:2] <= _number(self.until))

    @property
    def command(self) -> str:
        """The options of `crosswalk nested` with which its pair shows it, but --with."""
        if self.pair is None:
            return ""
        tables, number = self.pair
        given = "" if tables == "npt" else f"--tables {tables} "
        return f"{given}--accesses 1 --pair {number}"

    @property
    def case(self) -> str:
        """The name of its file in its folder."""
        return f"{self.id}.json"

    @property
    def folder(self) -> str:
        """The folder of tests/cases that its file is in."""
        return str(self.scope) if UNICORN in self.judges else _OTHERS


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
