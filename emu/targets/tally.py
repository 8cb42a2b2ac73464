"""How many questions a walker under test was asked, and how many it answered."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.walker.context import PagingMode

__all__ = ["Key", "Tally", "by_claim", "by_mode"]

Key = tuple[PagingMode, Capability | None]
"""A paging mode and a claim; without a claim, the walker as a whole."""


@dataclass(slots=True)
class Tally:
    """Questions asked, answered and declined, by paging mode and claim.

    A question is an access that is put to a claim. One put to the walker as a whole (claim None)
    counts once, however many claims it is put to, and is answered where any of them is. What is
    neither answered nor declined failed: the walker crashed, hung, or said what is no answer.
    """

    asked: Counter[Key] = field(default_factory=Counter)
    answered: Counter[Key] = field(default_factory=Counter)
    declined: Counter[Key] = field(default_factory=Counter)

    def add(
        self,
        mode: PagingMode,
        claim: Capability | None,
        answered: int,
        declined: int,
        failed: int = 0,
    ) -> None:
        """Count questions that were answered, that were declined, and that the walker failed at."""
        self.asked[mode, claim] += answered + declined + failed
        self.answered[mode, claim] += answered
        self.declined[mode, claim] += declined

    def __iadd__(self, other: "Tally") -> Self:
        """Add the questions of another tally."""
        self.asked.update(other.asked)
        self.answered.update(other.answered)
        self.declined.update(other.declined)
        return self

    @property
    def total(self) -> tuple[int, int, int]:
        """The questions asked, answered and declined by the walker as a whole, in all modes."""
        asked, answered, declined = (
            sum(count for (_, claim), count in column.items() if claim is None)
            for column in (self.asked, self.answered, self.declined)
        )
        return asked, answered, declined

    @property
    def unanswered(self) -> tuple[Capability, ...]:
        """The claims that were asked and never answered, in any mode."""
        asked, answered = by_claim(self.asked), by_claim(self.answered)
        return tuple(claim for claim in Capability if asked[claim] and not answered[claim])

    @property
    def verdict(self) -> str:
        """Which claims nothing was judged of, as a line; empty if each was answered."""
        return f"nothing judged of: {', '.join(self.unanswered)}" if self.unanswered else ""

    def record(self) -> dict[str, dict[str, object]]:
        """Return the numbers of questions as JSON has them: by mode, and by claim."""
        columns = {"asked": self.asked, "answered": self.answered, "declined": self.declined}
        modes = [mode for mode in PagingMode if self.asked[mode, None]]
        counts: dict[str, dict[str, object]] = {
            name: {mode.slug: column[mode, None] for mode in modes}
            for name, column in columns.items()
        }
        claims = {name: by_claim(column) for name, column in columns.items()}
        counts["claims"] = {
            claim.value: {name: column[claim] for name, column in claims.items()}
            for claim in Capability
            if claims["asked"][claim]
        }
        return counts


def by_mode(counts: Mapping[Key, int]) -> Counter[PagingMode]:
    """Return how many questions to the walker as a whole there are in each mode."""
    return Counter({mode: count for (mode, claim), count in counts.items() if claim is None})


def by_claim(counts: Mapping[Key, int]) -> Counter[Capability]:
    """Return how many questions there are to each claim, in all modes."""
    found: Counter[Capability] = Counter()
    for (_, claim), count in counts.items():
        if claim is not None:
            found[claim] += count
    return found
