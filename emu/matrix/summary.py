"""The sum of all units' results, and its file, from which a run goes on where it ended."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.check.departures import is_name
from crosswalk.emu.findings.findings import Caseless, CompositeFinding, findings_in, judged_case
from crosswalk.emu.fuzz.campaign.version import source_digest
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.composite import reduced_composite
from crosswalk.emu.fuzz.reduce.interesting import (
    composite_reduced_to,
    reduced_to,
    signatures_of,
)
from crosswalk.emu.fuzz.reduce.judge_trial import JudgeTrial
from crosswalk.emu.matrix.asking import EMULATED, Asking
from crosswalk.emu.matrix.run import Crash
from crosswalk.emu.matrix.unit import AnyFinding, Result, Violation
from crosswalk.emu.probe.scope import FEATURES
from crosswalk.emu.report.composites import CompositeCase, dump_composite, parse_composite
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.case import parse_case
from crosswalk.walker.formats.documents import Count
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import one_line, printable

__all__ = ["Group", "SequenceSummary", "Summary", "load_summary", "reduced_cases"]


class Group(msgspec.Struct, forbid_unknown_fields=True):
    """Divergences of one signature: how many, and a case file of one.

    It is the first one's, until it is `reduced`; empty where none can be made.
    """

    signature: str
    count: Count
    case: str
    reduced: bool = False


class SequenceGroup(msgspec.Struct, forbid_unknown_fields=True):
    """Violations of one cause: how many; the first one's name and file."""

    cause: str
    count: Count
    select: str
    sequence: str


class SequenceSummary(msgspec.Struct, forbid_unknown_fields=True):
    """Counts by section: sequences, then accesses: forced, fresh, stale, known, violations.

    An access is forced if one outcome is allowed; if several are, it is fresh where it had that
    of the tables in memory, stale where it had one of something cached before.
    """

    sections: dict[str, Annotated[list[Count], msgspec.Meta(min_length=6, max_length=6)]] = {}
    known: dict[str, Count] = {}
    groups: dict[str, SequenceGroup] = {}
    not_shown: dict[str, Count] = {}
    not_exportable: dict[str, Count] = {}

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
        """The number of outcomes that are neither allowed nor known."""
        return self.total(5)

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
            "not_shown": self.not_shown,
            "not_exportable": self.not_exportable,
        }


class Summary(msgspec.Struct, forbid_unknown_fields=True):
    """The results of the first `units` units.

    `select` is the choice as it was given, `asking` who is asked, `version` the program's. By
    section, `combinations`
    counts the accesses, `outcomes` the observed ones by `Kind`; `groups` are by slug of their
    signature. `predicted_only` counts, by feature, the accesses that the emulated CPU lacks it for
    and whose prediction is the intended outcome; `masked` those made with an encryption mask
    removed. Of a judge `not_shown` and `not_exportable` count, by reason, what it has no outcome
    for, and `unproved` the accesses of which it doesn't show which address they reached. `tlb` has
    the sequences, apart from all else.
    """

    select: str
    asking: Asking = EMULATED
    units: Count = 0
    combinations: dict[str, Count] = {}
    outcomes: dict[str, Annotated[list[Count], msgspec.Meta(min_length=3, max_length=3)]] = {}
    divergent: Count = 0
    known: dict[str, Count] = {}
    groups: dict[str, Group] = {}
    predicted_only: dict[str, Count] = {}
    masked: Count = 0
    not_shown: dict[str, Count] = {}
    not_exportable: dict[str, Count] = {}
    unproved: Count = 0
    crashes: list[str] = []
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    tlb: SequenceSummary = msgspec.field(default_factory=SequenceSummary)
    version: str = ""
    format: Literal["crosswalk-matrix/1"] = "crosswalk-matrix/1"

    @property
    def probes(self) -> int:
        """The number of combinations that agree, diverge, or are known to diverge."""
        beyond = (self.predicted_only, self.not_shown, self.not_exportable)
        return sum(self.combinations.values()) - sum(sum(each.values()) for each in beyond)

    @property
    def agreements(self) -> int:
        """The number of combinations for which the walker and who is asked agree."""
        return self.probes - self.divergent - sum(self.known.values())

    def add(self, result: Result | Crash) -> None:
        """Add the next unit's result."""
        self.units += 1
        unit = result.unit
        if isinstance(result, Crash):
            self.crashes.append(f"{unit}: {result.how}")
            return
        sequences = unit.of_sequences
        known = dict(sorted(result.known.items()))
        _add(self.tlb.known if sequences else self.known, known)
        for finding in result.findings.values():
            self._group(finding).count += finding.count
        of = self.tlb if sequences else self
        _add(of.not_shown, dict(sorted(result.not_shown.items())))
        _add(of.not_exportable, dict(sorted(result.not_exportable.items())))
        if sequences:
            row = (unit.combinations, *result.counts, sum(known.values()), result.divergent)
            _add_row(self.tlb.sections, unit.section, row)
            return
        _add(self.combinations, {unit.section: unit.combinations})
        _add_row(self.outcomes, unit.section, result.counts)
        self.divergent += result.divergent
        lacking = result.predicted_only
        _add(self.predicted_only, {name: lacking[name] for name in FEATURES if lacking[name]})
        self.masked += result.masked
        self.unproved += result.unproved

    def _group(self, finding: AnyFinding) -> Group | SequenceGroup:
        """Return the group of a finding; if there is none yet, an empty one with its case."""
        if isinstance(finding, Violation):
            slug = "".join(
                letter if letter.isalnum() else "-" for letter in finding.signature.lower()
            )
            first = SequenceGroup(finding.signature, 0, finding.select, finding.sequence.decode())
            return self.tlb.groups.setdefault(slug, first)
        if isinstance(finding, Caseless):
            case = b""
        elif isinstance(finding, CompositeFinding):
            case = dump_composite(finding.case)
        else:
            case = dump_case(finding.case)
        signature = finding.signature
        group = Group(str(signature), 0, case.decode(), reduced=not case)
        return self.groups.setdefault(signature.slug, group)

    def dump(self) -> bytes:
        """Return the summary as a file has it."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted")) + b"\n"


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _add_row(table: dict[str, list[int]], name: str, row: Iterable[int]) -> None:
    row = list(row)
    table[name] = [sum(pair) for pair in zip(table.get(name, [0] * len(row)), row, strict=True)]


def load_summary(path: Path, select: str, units: int, asking: Asking = EMULATED) -> Summary:
    """Return the state in a file, for this choice; an empty one where there is no file.

    `BadInput` for another file, a state of another choice or of another judge, or one made by
    another version of the program, whose results can't be added to this one's.
    """
    now = source_digest()
    if not path.exists():
        return Summary(select, asking, version=now)
    data = read_file(path)
    try:
        summary = msgspec.json.decode(data, type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a state of the matrix: {one_line(str(error))}") from error
    if summary.select != select:
        raise BadInput(f"{path}: a state of --select {summary.select!r}, not of {select!r}")
    if summary.asking != asking:
        raise BadInput(f"{path}: a state of {_text(summary.asking)}, not of {_text(asking)}")
    if summary.version != now or summary.units > units:
        raise BadInput(f"{path}: a state of another version of Crosswalk; remove it to begin anew")
    for name in (*summary.known, *summary.tlb.known):
        if not is_name(name):
            raise BadInput(f"{path}: not a state of the matrix: it counts {one_line(name)!r}")
    return summary


def _text(asking: Asking) -> str:
    """Return who is asked, and what, in words."""
    which = " in portable places" * asking.portable + " for pairs of values" * asking.pairs
    if asking.judge is None:
        return f"the emulated CPU{which}"
    return f"--judge {printable(asking.judge)} ({printable(asking.version)}){which}"


def reduced_cases(
    summary: Summary, predict: Predictor = translate_many
) -> Iterator[tuple[str, str]]:
    """Yield the slug of each group that was not reduced yet, and its case's file, reduced.

    A case that doesn't show its group by itself is left as it was found: then the fault is the
    testbed's, or the walker isn't the one that was compared. May crash the process, unless a judge
    is asked.
    """
    groups = {slug: group for slug, group in summary.groups.items() if not group.reduced}
    if summary.asking.judge is not None:
        trial = JudgeTrial(summary.asking.judge)
        try:
            for slug, group in groups.items():
                yield slug, _reduced_with(trial, slug, group.case)
        finally:
            trial.close()
        return
    executor, stand = Executor(predict), CompositeChecker(predict)
    for slug, group in groups.items():
        yield slug, _reduced(executor, stand, slug, group.case)


def _reduced_with(trial: JudgeTrial, slug: str, text: str) -> str:
    """Return the file of a judge's case, reduced with the judge."""
    composite = parse_composite(text.encode(), slug)
    if composite is not None:
        for signature in trial.composite_signatures(composite):
            if signature.slug == slug:
                return composite_reduced_to(trial, composite, signature)[1].decode()
        return text
    case = parse_case(text.encode(), slug)
    for signature in signatures_of(trial, case):
        if signature.slug == slug:
            return dump_case(reduced_to(trial, case, signature).case).decode()
    return text


def _reduced(executor: Executor, stand: CompositeChecker, slug: str, text: str) -> str:
    composite = parse_composite(text.encode(), slug)
    if composite is not None:

        def shows(case: CompositeCase) -> bool:
            return any(each.signature.slug == slug for each in findings_in(stand, case))

        if shows(composite):
            composite = reduced_composite(composite, shows).case
        judged = judged_case(stand, composite)
        return dump_composite(composite, judged.allowed, judged.seen).decode()
    case = parse_case(text.encode(), slug)
    for signature in signatures_of(executor, case):
        if signature.slug == slug:
            return dump_case(reduced_to(executor, case, signature).case).decode()
    return text
