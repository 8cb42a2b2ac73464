"""What the two dimensions of the second walk share: memory with marks, and how a walk ends."""

from dataclasses import dataclass, field

from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.outcome import NestedOutcome

__all__ = ["Fatal", "Refused", "Words"]


class Refused(Exception):
    """The host's tables refuse an access: the outcome, without the words that were changed."""

    def __init__(self, outcome: NestedOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Fatal(Exception):
    """The access ends the emulator's process."""


@dataclass(slots=True)
class Words:
    """Physical memory, and the bits that a walk sets in its words."""

    memory: PhysicalMemory
    marks: dict[int, int] = field(default_factory=dict)

    def word(self, pa: int) -> int:
        """Return a word as it was; where there is no memory, entries are not present."""
        return self.memory.word(pa) or 0

    def marked(self, pa: int) -> int:
        """Return a word as it is now."""
        return self.word(pa) | self.marks.get(pa, 0)

    def mark(self, pa: int, bits: int) -> None:
        """Set bits of a word."""
        self.marks[pa] = self.marks.get(pa, 0) | bits

    @property
    def entries(self) -> tuple[tuple[int, int], ...]:
        """The words that the marks change, as they are then."""
        after = ((pa, self.marked(pa)) for pa in sorted(self.marks))
        return tuple((pa, word) for pa, word in after if word != self.word(pa))
