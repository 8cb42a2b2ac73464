"""The last word of a check: how much of an address space it speaks of, and the exit status."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crosswalk.emu.check import Verdict
from crosswalk.walker.unfollowed import Unfollowed

__all__ = ["Conclusion", "Extent", "agreement", "conclude", "counted"]


@dataclass(frozen=True, slots=True)
class Extent:
    """What is known of an address space apart from the verdict of its check.

    `mappings` is the number in all of it, `unfollowed` what the walk couldn't follow. `complete`
    says that there is no memory but the one at hand, so that tables outside are none. `wide` is
    the number of entries that need more bits than the assumed MAXPHYADDR has. The address space
    is one of `spaces`; `roots` says in words which ones they are, where they are several. `masked`
    says that they have an encryption mask. `partial` says that the user lets a part pass. `between`
    are the addresses [start, end) that were asked for, where they aren't all. `begins_as` is the
    other format that the file of a raw image begins as.
    """

    mappings: int
    unfollowed: Unfollowed
    complete: bool = True
    wide: int = 0
    assumed: tuple[str, ...] = ()
    spaces: int = 1
    masked: bool = False
    partial: bool = False
    between: tuple[int, int] | None = None
    begins_as: str = ""
    roots: str = ""

    @property
    def not_asked(self) -> dict[str, int]:
        """Counts of what wasn't asked because SOURCE lacks it, by reason."""
        outside = 0 if self.complete else self.unfollowed.outside
        reasons = {
            "entries that refer to tables outside SOURCE": outside,
            "entries that need more bits than the assumed MAXPHYADDR": self.wide,
        }
        return {reason: count for reason, count in reasons.items() if count}

    @property
    def nonsense(self) -> bool:
        """Whether most of what was taken for tables makes no sense, and may be none."""
        return not self.complete and self.unfollowed.implausible

    @property
    def whole(self) -> bool:
        """Whether all that SOURCE refers to could be looked at."""
        return not (self.not_asked or self.nonsense or self.begins_as)

    def conditions(self) -> Iterator[str]:
        """Yield what a verdict about this address space is to be read with."""
        if self.begins_as:
            yield f"the file begins as another kind ({self.begins_as})"
        if self.nonsense:
            yield "most entries make no sense"
        if not self.mappings:
            yield "no mapping"
        if self.between is not None:
            start, end = self.between
            yield f"from {start:#x} to {end - 1:#x} alone"
        if self.roots:
            yield f"under {self.roots}"
        if self.spaces > 1:
            yield f"1 of {self.spaces} address spaces"
        if self.masked:
            yield "with the mask taken off"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The word for a verdict, and the exit status; `advice` is a line for people, or nothing."""

    status: int
    text: str
    advice: str = ""


def conclude(verdict: Verdict, extent: Extent, broken: int = 0, accepted: int = 0) -> Conclusion:
    """Return the last word of a check.

    `broken` is the number of mismatches with a guest's intended pages, `accepted` that of probes
    with which a walker under test disagrees, and isn't to fail. Only what was asked and
    answered is agreement; 1 is a divergence, whatever else; 2 that nothing was asked, or not all
    that SOURCE refers to could be looked at.
    """
    clauses = list(_clauses(verdict, extent))
    agreed = f"{verdict.agreements:,} probes agree"
    advice = ""
    if verdict.divergent or broken:
        status, words = 1, ["FAILED"]
    elif not verdict.probes:
        status, words = 2, ["nothing asked", *clauses]
    elif verdict.lost:
        status, words = 2, ["not finished", agreed, *clauses]
    elif not extent.whole and extent.partial:
        status, words = 0, ["partial", agreed, *clauses]
    elif not extent.whole:
        status, words = 2, ["not whole", agreed, *clauses]
        width = " give --maxphyaddr, or" if extent.wide else ""
        advice = f"not all that SOURCE refers to could be looked at:{width} --partial lets it pass"
    else:
        status, words = 0, [_agreement(verdict, accepted), *clauses]
    return Conclusion(status, "; ".join(words), advice)


def agreement(agreements: int, asked: int, beyond: int, accepted: int = 0) -> str:
    """Return the word agreement, with how far it goes if that isn't all the way.

    `asked` accesses were made, of which so many `agreements`; the others are known divergences or
    `accepted`, and where there are no others, that is said. `beyond` are accesses that couldn't be
    made.
    """
    if accepted and agreements <= 0:
        return "nothing but findings that are accepted"
    text = "agreement" if agreements else "known divergences alone"
    far = beyond or accepted
    return f"{text} on {agreements:,} of {asked + beyond:,} probes" if far else text


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by name in words, as a clause of a verdict has them."""
    return ", ".join(f"{count:,} ({name})" for name, count in counts.items())


def _agreement(verdict: Verdict, accepted: int) -> str:
    """Return the word, with how far it goes in probes and in mappings."""
    beyond = sum(verdict.predicted_only.values())
    text = agreement(verdict.agreements - accepted, verdict.probes, beyond, accepted)
    if verdict.checked < verdict.mappings:
        joint = ", " if beyond or accepted else " on "
        text += f"{joint}{verdict.checked:,} of {verdict.mappings:,} mappings"
    return text


def _clauses(verdict: Verdict, extent: Extent) -> Iterator[str]:
    """Yield what a verdict doesn't speak of, or only with a condition."""
    if verdict.known:
        yield f"known divergences: {sum(verdict.known.values()):,}"
    if verdict.predicted_only:
        yield f"predicted only: {counted(verdict.predicted_only)}"
    not_asked = verdict.not_asked | extent.not_asked
    if not_asked:
        yield f"not asked: {counted(not_asked)}"
    if verdict.copied:
        yield f"{sum(verdict.copied.values()):,} under a copy of the root"
    yield from extent.conditions()
