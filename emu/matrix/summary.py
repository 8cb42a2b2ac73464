"""What all units together came to, and its file, from which a run goes on where it ended."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Annotated

import msgspec

from crosswalk.emu.matrix.run import Crash
from crosswalk.emu.matrix.tlb.summary import Stale
from crosswalk.emu.matrix.tlb.unit import SequenceResult
from crosswalk.emu.matrix.unit import Result
from crosswalk.emu.report.composite_case import CompositeCase, dump_composite
from crosswalk.walker.columns import Kind
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, dump_case

__all__ = ["Group", "Summary", "load_summary", "version"]

_FORMAT = "crosswalk-matrix/1"


class Group(msgspec.Struct, forbid_unknown_fields=True):
    """Divergences of one signature: how many, and a case file of one.

    It is the first one's, until it is `reduced`.
    """

    signature: str
    count: int
    case: str
    reduced: bool = False


class Summary(msgspec.Struct, forbid_unknown_fields=True):
    """What the first `units` units came to.

    `select` is the choice as it was given, `version` says by which program. By section,
    `combinations` counts what was tried and `outcomes` what was observed, by `Kind`; `groups` are
    by slug of their signature. `predicted_only` counts, by feature, what the emulated CPU lacks it
    for and nothing is wrong with; `masked` what was asked with an encryption mask taken off.
    `tlb` has the sequences, apart from all else.
    """

    select: str
    units: Annotated[int, msgspec.Meta(ge=0)] = 0
    combinations: dict[str, int] = {}
    outcomes: dict[str, list[int]] = {}
    divergent: int = 0
    known: dict[str, int] = {}
    groups: dict[str, Group] = {}
    predicted_only: dict[str, int] = {}
    masked: int = 0
    crashes: list[str] = []
    seconds: float = 0.0
    tlb: Stale = msgspec.field(default_factory=Stale)
    version: str = ""
    format: str = _FORMAT

    @property
    def probes(self) -> int:
        """The number of combinations that agree, diverge, or are known to diverge."""
        return sum(self.combinations.values()) - sum(self.predicted_only.values())

    @property
    def agreements(self) -> int:
        """The number of combinations of which walker and emulated CPU say the same."""
        return self.probes - self.divergent - sum(self.known.values())

    def add(self, result: Result | SequenceResult | Crash) -> None:
        """Add the next unit's result."""
        self.units += 1
        if isinstance(result, Crash):
            unit = result.unit
            what = "sequences" if unit.section.startswith("tlb-") else "control states"
            self.crashes.append(
                f"{unit.section}, {what} {unit.first} to {unit.last - 1}: {result.how}"
            )
            return
        if isinstance(result, SequenceResult):
            self.tlb.add(result)
            return
        name = result.unit.section
        self.combinations[name] = self.combinations.get(name, 0) + result.unit.combinations
        counts = self.outcomes.setdefault(name, [0] * len(Kind))
        for kind, count in enumerate(result.outcomes):
            counts[kind] += count
        self.divergent += result.divergent
        for known, count in result.known.items():
            self.known[known] = self.known.get(known, 0) + count
        for feature, count in result.predicted_only.items():
            self.predicted_only[feature] = self.predicted_only.get(feature, 0) + count
        self.masked += result.masked
        for finding in result.findings:
            signature = finding.signature
            case = _file(finding.case)
            group = self.groups.setdefault(signature.slug, Group(str(signature), 0, case))
            group.count += finding.count

    def dump(self) -> bytes:
        """Return the summary as a file has it."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted")) + b"\n"


def _file(case: Case | CompositeCase) -> str:
    data = dump_composite(case) if isinstance(case, CompositeCase) else dump_case(case)
    return data.decode()


def version() -> str:
    """Return what tells this program from any other: a digest of all its sources."""
    digest = hashlib.sha256()
    for package in ("emu", "guest", "walker"):
        root = Path(str(import_module(f"crosswalk.{package}").__file__)).parent
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".s")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load_summary(path: Path, select: str, units: int) -> Summary:
    """Return what the file says of this choice; nothing yet where there is no file.

    `BadInput` for a file that is none, or is about another choice, or was made by another
    version of the program, whose results would be mixed with this one's.
    """
    now = version()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Summary(select, version=now)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    try:
        summary = msgspec.json.decode(data, type=Summary)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{path}: not a state of the matrix: {error}") from error
    if summary.format != _FORMAT:
        raise BadInput(f"{path}: not a state of the matrix: format {summary.format!r}")
    if summary.select != select:
        raise BadInput(f"{path}: a state of --select {summary.select!r}, not of {select!r}")
    if summary.version != now or summary.units > units:
        raise BadInput(f"{path}: a state of another version of Crosswalk; remove it to begin anew")
    return summary
