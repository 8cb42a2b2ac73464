"""What a check found, as a whole and by piece."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.check.listing import ListingDivergence
from crosswalk.emu.check.selection import Place
from crosswalk.emu.check.survey import Survey
from crosswalk.emu.probe import FEATURES
from crosswalk.emu.probe.trampoline import CR3_UNDER_TEST
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind

__all__ = ["KEPT_DIVERGENCES", "Lost", "Tally", "Verdict", "total_of"]

Key = TypeVar("Key")

KEPT_DIVERGENCES = 1000
"""How many divergences of each sort a verdict keeps in full; all are counted."""

_TARGETS = "pages, holes and entries"


@dataclass(frozen=True, slots=True)
class Lost:
    """A piece of a check whose process ended, twice: `how`, and the addresses it was about."""

    how: str
    first: int
    last: int
    targets: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    `probes` accesses were asked of the emulated CPU and answered. `counts` has their number for
    each (place, type, CPL, predicted outcome); `divergent` diverge for no known reason, of which
    `divergences` and `listing` are the first `KEPT_DIVERGENCES` each: from the predicted outcome,
    and from the walk's list. `known` is the number that each known emulator divergence explains.
    `predicted_only` counts accesses by what the emulated CPU lacks for them; they are no probes.
    `not_asked` counts, by words for what and why, what wasn't accessed at all. Of `mappings` that
    the walk lists `checked` were accessed. `lost` are pieces whose process ended without a result.
    `roots` counts the probes by the root that they were made under: the CR3 under test, or a copy
    and why (`crosswalk.emu.probe.trampoline`). `seconds` is the time that the probes took.
    """

    probes: int
    divergent: int
    divergences: tuple[Divergence, ...]
    known: dict[str, int]
    counts: dict[tuple[Place, AccessType, int, Kind], int]
    seconds: float
    listing: tuple[ListingDivergence, ...] = ()
    predicted_only: dict[str, int] = field(default_factory=dict)
    not_asked: dict[str, int] = field(default_factory=dict)
    mappings: int = 0
    checked: int = 0
    lost: tuple[Lost, ...] = ()
    roots: dict[str, int] = field(default_factory=dict)

    @property
    def copied(self) -> dict[str, int]:
        """The probes that were made under a copy of the root, by reason."""
        return {name: count for name, count in self.roots.items() if name != CR3_UNDER_TEST}

    @property
    def agreements(self) -> int:
        """The number of accesses of which walker and CPU say the same."""
        return self.probes - self.divergent - sum(self.known.values())


class Tally:
    """The pieces of a survey added up, in their order; memory doesn't grow with their number."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._total = Verdict(0, 0, (), {}, {}, 0.0)
        self._lost: list[Lost] = []

    @property
    def probes(self) -> int:
        """The number of probes so far."""
        return self._total.probes

    def add(self, part: Verdict | Lost) -> None:
        """Add the verdict of the next piece, or that there is none."""
        if isinstance(part, Lost):
            self._lost.append(part)
            return
        total = self._total
        self._total = Verdict(
            probes=total.probes + part.probes,
            divergent=total.divergent + part.divergent,
            divergences=(*total.divergences, *part.divergences)[:KEPT_DIVERGENCES],
            known=_sum(total.known, part.known),
            counts=_sum(total.counts, part.counts),
            seconds=total.seconds + part.seconds,
            listing=(*total.listing, *part.listing)[:KEPT_DIVERGENCES],
            predicted_only=_sum(total.predicted_only, part.predicted_only),
            roots=_sum(total.roots, part.roots),
        )

    def verdict(self, seconds: float | None = None) -> Verdict:
        """Return the verdict of all pieces, the survey being at its end.

        `seconds` stand for those of the pieces, which may have been checked side by side.
        """
        total, not_asked = self._total, Counter(self._survey.beyond)
        for each in self._lost:
            not_asked[f"{_TARGETS}: {each.how}"] += each.targets
        lacks = total.predicted_only
        return replace(
            total,
            known=dict(sorted(total.known.items())),
            seconds=total.seconds if seconds is None else seconds,
            predicted_only={name: lacks[name] for name in FEATURES if name in lacks},
            not_asked=dict(not_asked),
            mappings=self._survey.mappings,
            checked=self._survey.taken,
            lost=tuple(self._lost),
            roots=dict(sorted(total.roots.items())),
        )


def total_of(verdicts: Iterable[Verdict], seconds: float) -> Verdict:
    """Return the verdicts of several address spaces as one, of the divergences the first ones."""
    total = Verdict(0, 0, (), {}, {}, 0.0)
    for each in verdicts:
        total = Verdict(
            probes=total.probes + each.probes,
            divergent=total.divergent + each.divergent,
            divergences=(*total.divergences, *each.divergences)[:KEPT_DIVERGENCES],
            known=_sum(total.known, each.known),
            counts=_sum(total.counts, each.counts),
            seconds=seconds,
            listing=(*total.listing, *each.listing)[:KEPT_DIVERGENCES],
            predicted_only=_sum(total.predicted_only, each.predicted_only),
            not_asked=_sum(total.not_asked, each.not_asked),
            mappings=total.mappings + each.mappings,
            checked=total.checked + each.checked,
            lost=(*total.lost, *each.lost),
            roots=_sum(total.roots, each.roots),
        )
    lacks = total.predicted_only
    return replace(
        total,
        known=dict(sorted(total.known.items())),
        predicted_only={name: lacks[name] for name in FEATURES if name in lacks},
        roots=dict(sorted(total.roots.items())),
    )


def _sum(one: dict[Key, int], other: dict[Key, int]) -> dict[Key, int]:
    return dict(Counter(one) + Counter(other))
