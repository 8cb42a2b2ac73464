"""Cases, format crosswalk-case/1: everything needed to reproduce one result."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from mmap import mmap
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.documents import (
    AccessName,
    CpuJson,
    Document,
    Hex64,
    OutcomeJson,
    StateJson,
    document_bytes,
    json_block,
    json_line,
    numbers,
    outcome_of,
    outcome_record,
    read_document,
    words_of,
)
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.judged import AnswerJson, JudgedJson, JudgeJson, JudgesJson
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.memory import FRAME, SparseWords
from crosswalk.walker.outcome import Outcome, PageFault, Translation

__all__ = [
    "ACCESS_NAMES",
    "ACCESS_TYPES",
    "FORMAT",
    "MAX_RAM_RANGES",
    "MAX_TABLES",
    "Case",
    "CaseJson",
    "Cpu",
    "Probe",
    "case_of",
    "cpu_document",
    "dump_case",
    "load_case",
    "parse_case",
    "state_of",
    "state_parts",
]

FORMAT = "crosswalk-case/1"

MAX_RAM_RANGES = 1024
"""The most RAM ranges a case may list: every look-up passes over them."""

MAX_TABLES = 1 << 16
"""The most frames that the entries of a case may lie in: 4 KiB of memory each."""

_PHYSICAL_BITS = 52
_DEFAULT = PagingContext(cr3=0)
ACCESS_NAMES: dict[AccessType, AccessName] = {
    AccessType.READ: "read",
    AccessType.WRITE: "write",
    AccessType.EXECUTE: "execute",
}
"""How case files name the kinds of access."""

ACCESS_TYPES = {name: kind for kind, name in ACCESS_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The registers and features of a case: those of `PagingContext`, not yet judged."""

    cr3: int
    cr0: int = _DEFAULT.cr0
    cr4: int = _DEFAULT.cr4
    efer: int = _DEFAULT.efer
    pkru: int = _DEFAULT.pkru
    pkrs: int = _DEFAULT.pkrs
    maxphyaddr: int = _DEFAULT.maxphyaddr
    page1gb: bool = _DEFAULT.page1gb
    vendor: Vendor = _DEFAULT.vendor
    encryption_mask: int = _DEFAULT.encryption_mask

    @classmethod
    def from_context(cls, context: PagingContext) -> "Cpu":
        """Return the registers and features of `context`; its AC belongs to each probe."""
        return cls(**{item.name: getattr(context, item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One access, at linear address `va` with privilege level `cpl` and RFLAGS.AC `ac`.

    Of an outcome a case keeps what can be observed: neither page sizes nor rights. `judged` is what
    judges said, by name.
    """

    va: int
    access: AccessName
    cpl: int = 0
    ac: bool = False
    predicted: Outcome | None = None
    observed: Outcome | None = None
    judged: Mapping[str, JudgedJson] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls, access: Access, predicted: Outcome | None = None, observed: Outcome | None = None
    ) -> "Probe":
        """Return a probe of an access; one whose AC is the context's has it clear."""
        return cls(
            va=access.va,
            access=ACCESS_NAMES[access.type],
            cpl=access.cpl,
            ac=bool(access.ac),
            predicted=_bare(predicted),
            observed=_bare(observed),
        )

    @property
    def asked(self) -> Access:
        """The access that is asked for."""
        return Access(self.va, ACCESS_TYPES[self.access], self.cpl, self.ac)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A state of the machine and the accesses to try, each from that state with an empty TLB.

    `ram` are the backed physical ranges as (start, size) in bytes. `entries` are the non-zero
    8-byte words of the paging structures by physical address (all other RAM is zero); treat
    it as read-only. `seed`, `note` and `walker` say where the case comes from, `judges` who judged
    its probes.

    Raises `BadInput`, with the place in the case file's notation, where a value doesn't fit
    its width, ranges overlap, an entry lies outside RAM, or an outcome's fields aren't its
    own; `LimitExceeded` beyond `MAX_RAM_RANGES`. Whether the registers describe a
    paging mode is for `context` to say.
    """

    cpu: Cpu
    ram: tuple[tuple[int, int], ...]
    entries: Mapping[int, int] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    seed: int | None = None
    note: str | None = None
    walker: str | None = None
    judges: Mapping[str, JudgeJson] = field(default_factory=dict)
    format: str = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise BadInput(f"$.format: {self.format!r} is not {FORMAT!r}")
        for name in ("cr0", "cr3", "cr4", "efer", "encryption_mask"):
            _fits(f"$.cpu.{name}", getattr(self.cpu, name), 64)
        for name in ("pkru", "pkrs"):
            _fits(f"$.cpu.{name}", getattr(self.cpu, name), 32)
        ram = _checked_ram(self.ram)
        _check_words("$.entries", self.entries.items(), ram)
        for index, probe in enumerate(self.probes):
            _check_probe(f"$.probes[{index}]", probe, ram)
        if self.seed is not None:
            _fits("$.seed", self.seed, 64)
        for name in ("note", "walker"):
            text = getattr(self, name)
            if text is not None and not _is_unicode(text):
                raise BadInput(f"$.{name}: not valid Unicode text")

    def context(self) -> PagingContext:
        """Return the registers as a context with AC clear; `BadInput` as `PagingContext` does."""
        values = {item.name: getattr(self.cpu, item.name) for item in fields(Cpu)}
        return PagingContext(**values)

    def memory(self) -> SparseWords:
        """Return RAM with the entries in it; `LimitExceeded` beyond `MAX_TABLES` frames."""
        frames = len({pa // FRAME for pa in self.entries})
        if frames > MAX_TABLES:
            raise LimitExceeded(f"$.entries: in {frames} frames; at most {MAX_TABLES} are read")
        return SparseWords(self.ram, self.entries)


def _fits(place: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise BadInput(f"{place}: {value:#x} does not fit in {bits} bits")


def _is_unicode(text: str) -> bool:
    # JSON is UTF-8, which has no form for half of a surrogate pair.
    return text == text.encode("utf-8", "replace").decode()


def _checked_ram(ram: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Return the ranges as (start, end) in order of address."""
    if len(ram) > MAX_RAM_RANGES:
        raise LimitExceeded(f"$.ram: {len(ram)} ranges; at most {MAX_RAM_RANGES} are read")
    for index, (start, size) in enumerate(ram):
        place = f"$.ram[{index}]"
        for what, value in (("start", start), ("size", size)):
            _fits(place, value, 64)
            if value % FRAME:
                raise BadInput(f"{place}: {what} {value:#x} is not a multiple of {FRAME:#x}")
        if not size:
            raise BadInput(f"{place}: size is 0")
        if start + size > 1 << _PHYSICAL_BITS:
            raise BadInput(f"{place}: ends at {start + size:#x}, beyond {_PHYSICAL_BITS} bits")
    order = sorted(range(len(ram)), key=ram.__getitem__)
    for first, second in pairwise(order):
        if sum(ram[first]) > ram[second][0]:
            raise BadInput(f"$.ram[{second}]: overlaps $.ram[{first}]")
    return [(ram[index][0], sum(ram[index])) for index in order]


def _check_words(place: str, words: Iterable[tuple[int, int]], ram: list[tuple[int, int]]) -> None:
    starts = [start for start, _ in ram]
    for pa, word in words:
        if pa < 0 or pa % 8:
            raise BadInput(f'{place}["{pa:#x}"]: the address is not a multiple of 8')
        at = bisect_right(starts, pa) - 1
        if at < 0 or pa >= ram[at][1]:
            raise BadInput(f'{place}["{pa:#x}"]: the address is outside $.ram')
        if not 0 <= word < 1 << 64:
            raise BadInput(f'{place}["{pa:#x}"]: {word:#x} does not fit in 64 bits')


def _check_probe(place: str, probe: Probe, ram: list[tuple[int, int]]) -> None:
    _fits(f"{place}.va", probe.va, 64)
    if probe.cpl not in (0, 3):
        raise BadInput(f"{place}.cpl: {probe.cpl} is neither 0 nor 3")
    for name in ("predicted", "observed"):
        record = getattr(probe, name)
        if record is not None:
            _check_outcome(f"{place}.{name}", record, ram)


def _check_outcome(place: str, outcome: Outcome, ram: list[tuple[int, int]]) -> None:
    if isinstance(outcome, Translation):
        _fits(f"{place}.pa", outcome.pa, _PHYSICAL_BITS)
    if isinstance(outcome, PageFault):
        _fits(f"{place}.error_code", outcome.error_code, 32)
        _fits(f"{place}.cr2", outcome.cr2, 64)
    _check_words(f"{place}.entries", outcome.entries, ram)


def _bare(outcome: Outcome | None) -> Outcome | None:
    if isinstance(outcome, Translation):
        return Translation(outcome.pa, entries=outcome.entries)
    return outcome


class ProbeJson(Document, frozen=True):
    """The object at `$.probes[…]`."""

    va: Hex64
    access: AccessName
    cpl: Literal[0, 3]
    ac: bool
    predicted: OutcomeJson | UnsetType = UNSET
    observed: OutcomeJson | UnsetType = UNSET
    judged: dict[str, JudgedJson] | UnsetType = UNSET


class CaseJson(StateJson, frozen=True, kw_only=True):
    """A document of the format crosswalk-case/1."""

    format: Literal["crosswalk-case/1"]
    probes: list[ProbeJson]
    seed: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    note: str | UnsetType = UNSET
    walker: str | UnsetType = UNSET
    judges: JudgesJson | UnsetType = UNSET


def load_case(path: str | os.PathLike[str]) -> Case:
    """Return the case in the file at `path`.

    Raises `BadInput` for a file that can't be read or isn't a valid case, in one line that
    names the file and the place in it, and `LimitExceeded` beyond `MAX_CASE_BYTES`.
    """
    file = map_file(path)
    return parse_case(file.data, file.name)


def parse_case(data: bytes | mmap, name: str) -> Case:
    """Return the case that `data` holds as JSON; `name` is what errors call it.

    Raises as `load_case` does.
    """
    with errors_named(name):
        return case_of(read_document(data, CaseJson))


def case_of(document: CaseJson) -> Case:
    """Return the case of a document; raises as `Case`."""
    return Case(
        **state_of(document),
        probes=tuple(
            Probe(
                va=int(each.va, 16),
                access=each.access,
                cpl=each.cpl,
                ac=each.ac,
                predicted=outcome_of(f"$.probes[{at}].predicted", each.predicted),
                observed=outcome_of(f"$.probes[{at}].observed", each.observed),
                judged=_judged(f"$.probes[{at}].judged", each.judged),
            )
            for at, each in enumerate(document.probes)
        ),
        seed=None if document.seed is UNSET else document.seed,
        note=None if document.note is UNSET else document.note,
        walker=None if document.walker is UNSET else document.walker,
        judges={} if document.judges is UNSET else document.judges,
    )


def _judged(place: str, document: dict[str, JudgedJson] | UnsetType) -> dict[str, JudgedJson]:
    """Return what judges said as it is, its words checked."""
    found = {} if document is UNSET else document
    for name, each in found.items():
        if isinstance(each, AnswerJson):
            words_of(f'{place}["{one_line(name)}"].entries', each.entries)
    return found


def state_of(document: StateJson) -> dict[str, Any]:
    """Return the state of a document as arguments of `Case`."""
    return {
        "cpu": Cpu(**numbers(document.cpu)),
        "ram": tuple((int(start, 16), int(size, 16)) for start, size in document.ram),
        "entries": words_of("$.entries", document.entries),
    }


def dump_case(case: Case) -> bytes:
    """Return `case` as JSON in UTF-8, ending in a newline.

    Equal cases give equal bytes: keys in one order, entries by address and one a line, hex in
    lower case without leading zeros, all of `cpu` written out, but for an encryption mask of 0.
    """
    parts = {"format": json_line(case.format)}
    for name in ("seed", "note", "walker"):
        if getattr(case, name) is not None:
            parts[name] = json_line(getattr(case, name))
    parts |= state_parts(case.cpu, case.ram, case.entries)
    if case.judges:
        parts["judges"] = json_line(dict(case.judges))
    parts["probes"] = json_block("[", map(_probe_text, case.probes), "]")
    return document_bytes(parts)


def state_parts(
    cpu: Cpu, ram: Iterable[tuple[int, int]], entries: Mapping[int, int]
) -> dict[str, str]:
    """Return the members of a document that hold a state, as `document_bytes` takes them."""
    words = (f'"{pa:#x}": "{word:#x}"' for pa, word in sorted(entries.items()))
    return {
        "cpu": json_line(cpu_document(cpu)),
        "ram": json_line([[hex(start), hex(size)] for start, size in ram]),
        "entries": json_block("{", words, "}"),
    }


def cpu_document(cpu: Cpu) -> CpuJson:
    """Return the object at `$.cpu`, without an IA32_PKRS and an encryption mask of 0."""
    names = ["cr0", "cr3", "cr4", "efer", "pkru"]
    names += (name for name in ("pkrs", "encryption_mask") if getattr(cpu, name))
    registers = {name: hex(getattr(cpu, name)) for name in names}
    return CpuJson(maxphyaddr=cpu.maxphyaddr, page1gb=cpu.page1gb, vendor=cpu.vendor, **registers)


def _probe_text(probe: Probe) -> str:
    access = {"va": hex(probe.va), "access": probe.access, "cpl": probe.cpl, "ac": probe.ac}
    text = json_line(access).removesuffix("}")
    for name, outcome in (("predicted", probe.predicted), ("observed", probe.observed)):
        if outcome is not None:
            text += f',\n     "{name}": {json_line(outcome_record(outcome, entries=False))}'
    if probe.judged:
        text += f',\n     "judged": {json_line(dict(probe.judged))}'
    return text + "}"
