"""A unit of work: some sequences of a section."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from crosswalk.emu.check.sequence_check import Judged, judge
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.tlb.section import SequenceSection
from crosswalk.emu.matrix.unit import Unit
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.sequences import Runner
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.tlb import Halted, Sequence, SequenceRecord, dump_sequence

__all__ = [
    "SEQUENCES",
    "Departure",
    "SequenceResult",
    "SequenceWorker",
    "recorded",
    "sequence_units",
]

SEQUENCES = 2000
"""The number of sequences that a unit has at the most."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Violations of one cause: how many, and of the first one its name and its file's content."""

    cause: str
    count: int
    select: str
    sequence: bytes


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What became of a unit: counts of accesses as in `Judged`; `known` by id."""

    unit: Unit
    forced: int
    fresh: int
    stale: int
    known: dict[str, int]
    departures: tuple[Departure, ...]


def sequence_units(section: SequenceSection, choice: Choice) -> Iterator[Unit]:
    """Yield the units of a section, in order; none if the choice leaves nothing of it."""
    count = sum(1 for _ in section.combinations(choice))
    for first in range(0, count, SEQUENCES):
        last = min(first + SEQUENCES, count)
        yield Unit(section.name, first, last, last - first)


class SequenceWorker:
    """Does units of sequences, one after the other; the engine is kept in between."""

    def __init__(self, sections: tuple[SequenceSection, ...], choice: Choice) -> None:
        self._sections = {section.name: section for section in sections}
        self._choice = choice
        self._runner = Runner()

    def do(self, unit: Unit) -> SequenceResult:
        """Run every sequence of a unit and hold it against the model; raises as `Runner.run`."""
        section = self._sections[unit.section]
        counts: Counter[str] = Counter()
        known: Counter[str] = Counter()
        departures: dict[str, Departure] = {}
        for named in islice(section.combinations(self._choice), unit.first, unit.last):
            sequence = section.make(named)
            try:
                observed = self._runner.run(sequence)
            except ProbeError as error:
                raise ProbeError(f"{section.text(named)}: {error}") from error
            judged = judge(sequence, observed)
            counts.update(forced=judged.forced, fresh=judged.fresh, stale=judged.stale)
            violation = judged.violation
            if violation is None:
                continue
            if violation.known is not None:
                known[violation.known] += 1
                continue
            cause = "; ".join(violation.causes)
            before = departures.get(cause)
            if before is None:
                name = section.text(named)
                record = recorded(sequence, observed, judged, name)
                departures[cause] = Departure(cause, 1, name, dump_sequence(record))
            else:
                departures[cause] = replace(before, count=before.count + 1)
        return SequenceResult(
            unit,
            counts["forced"],
            counts["fresh"],
            counts["stale"],
            dict(sorted(known.items())),
            tuple(departures.values()),
        )


def recorded(
    sequence: Sequence, observed: tuple[Outcome | Halted, ...], judged: Judged, note: str | None
) -> SequenceRecord:
    """Return a sequence with what is allowed and what was observed filled in."""
    return SequenceRecord(sequence, note, judged.allowed, observed)
