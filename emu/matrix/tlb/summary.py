"""What all sequences together came to, apart from single accesses; for people and machines."""

from collections.abc import Iterator

import msgspec

from crosswalk.emu.check import differs
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.tlb.section import SequenceSection
from crosswalk.emu.matrix.tlb.unit import SequenceResult

__all__ = ["SequenceGroup", "Stale", "sequence_list", "sequence_record"]


class SequenceGroup(msgspec.Struct, forbid_unknown_fields=True):
    """Violations of one cause: how many; the first one's name and file."""

    cause: str
    count: int
    select: str
    sequence: str


class Stale(msgspec.Struct, forbid_unknown_fields=True):
    """Counts by section: sequences, then accesses: forced, fresh, stale, known, violations.

    An access is forced if one outcome is allowed; if several are, it is fresh where it had that
    of the tables in memory, stale where it had one of something cached before.
    """

    sections: dict[str, list[int]] = {}
    known: dict[str, int] = {}
    groups: dict[str, SequenceGroup] = {}

    def total(self, column: int) -> int:
        """Return the sum of one of the counts."""
        return sum(counts[column] for counts in self.sections.values())

    @property
    def sequences(self) -> int:
        """The number of sequences run."""
        return self.total(0)

    @property
    def accesses(self) -> int:
        """The number of accesses judged, and of steps that stopped a sequence."""
        return sum(self.total(column) for column in range(1, 6))

    @property
    def violations(self) -> int:
        """The number of outcomes that aren't allowed, nor known."""
        return self.total(5)

    def add(self, result: SequenceResult) -> None:
        """Add a unit's result."""
        counts = self.sections.setdefault(result.unit.section, [0] * 6)
        known = sum(result.known.values())
        violations = sum(departure.count for departure in result.departures)
        row = (
            result.unit.combinations,
            result.forced,
            result.fresh,
            result.stale,
            known,
            violations,
        )
        for column, count in enumerate(row):
            counts[column] += count
        for name, count in result.known.items():
            self.known[name] = self.known.get(name, 0) + count
        for each in result.departures:
            group = self.groups.setdefault(
                _slug(each.cause),
                SequenceGroup(each.cause, 0, each.select, each.sequence.decode()),
            )
            group.count += each.count

    def record(self) -> dict[str, object]:
        """Return what `--json` prints of it."""
        return {
            "sequences": self.sequences,
            "accesses": self.accesses,
            "forced": self.total(1),
            "fresh": self.total(2),
            "stale": self.total(3),
            "known": self.known,
            "violations": self.violations,
            "groups": {
                slug: {"cause": group.cause, "count": group.count, "select": group.select}
                for slug, group in self.groups.items()
            },
            "sections": {name: counts[0] for name, counts in self.sections.items()},
        }

    def lines(self) -> Iterator[str]:
        """Yield the counts by section, and every group of violations."""
        heads = ("sequences", "forced", "fresh", "stale", "known", "violated")
        yield f"{'':<18}{heads[0]:>14}" + "".join(f"{head:>10}" for head in heads[1:])
        for name, counts in self.sections.items():
            yield f"{name:<18}{counts[0]:>14,}" + "".join(
                f"{format(count, ',') if count else '·':>10}" for count in counts[1:]
            )
        yield ""
        yield (
            f"{self.sequences:,} sequences, {self.accesses:,} accesses: {self.total(1):,} with one "
            f"allowed outcome, {self.total(2):,} fresh, {self.total(3):,} stale where either is "
            f"allowed, {self.violations:,} violate what is"
        )
        for name, count in self.known.items():
            yield f"{count:,} known emulator divergences, {name}: {differs(name)}"
        for slug, group in self.groups.items():
            yield f"{group.count:,} × {group.cause} ({slug})"
            yield f"  first: crosswalk matrix --select {group.select}"


def _slug(cause: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in cause.lower())


def sequence_list(section: SequenceSection, choice: Choice) -> Iterator[str]:
    """Yield a section's dimensions, its size, and why it leaves out what it does."""
    count = sum(1 for _ in section.combinations(choice))
    if not count:
        return
    yield f"{section.name}: {count:,} sequences"
    yield f"  {section.covers}"
    for name, values in section.dimensions.items():
        shown = " ".join(values) if len(values) < 40 else f"{values[0]} to {values[-1]}"
        yield f"  {name:<11}{len(values):>5}  {shown}"
    for reason in section.pruned:
        yield f"  left out: {reason}"


def sequence_record(section: SequenceSection, choice: Choice) -> dict[str, object]:
    """Return a section as `matrix --list --json` prints it."""
    return {
        "section": section.name,
        "covers": section.covers,
        "dimensions": {name: len(values) for name, values in section.dimensions.items()},
        "sequences": sum(1 for _ in section.combinations(choice)),
        "pruned": list(section.pruned),
    }
