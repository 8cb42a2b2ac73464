"""What a case is: everything needed to reproduce one result, as checked values."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Literal

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.memory import FRAME, SparseWords

__all__ = [
    "FORMAT",
    "MAX_RAM_RANGES",
    "MAX_TABLES",
    "AccessName",
    "Case",
    "Cpu",
    "OutcomeName",
    "OutcomeRecord",
    "Probe",
]

FORMAT = "crosswalk-case/1"

MAX_RAM_RANGES = 1024
"""The most RAM ranges a case may list: every look-up passes over them."""

MAX_TABLES = 1 << 16
"""The most frames that the entries of a case may lie in: 4 KiB of memory each."""

AccessName = Literal["read", "write", "execute"]
OutcomeName = Literal["ok", "page_fault", "general_protection"]

_PHYSICAL_BITS = 52
_DEFAULT = PagingContext(cr3=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The registers and features of a case: those of `PagingContext`, not yet judged."""

    cr3: int
    cr0: int = _DEFAULT.cr0
    cr4: int = _DEFAULT.cr4
    efer: int = _DEFAULT.efer
    pkru: int = _DEFAULT.pkru
    maxphyaddr: int = _DEFAULT.maxphyaddr
    page1gb: bool = _DEFAULT.page1gb
    vendor: Vendor = _DEFAULT.vendor
    encryption_mask: int = _DEFAULT.encryption_mask

    @classmethod
    def from_context(cls, context: PagingContext) -> "Cpu":
        """Return the registers and features of `context`; its AC belongs to each probe."""
        return cls(**{item.name: getattr(context, item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRecord:
    """What an access did, or is said to do.

    `pa` is there for "ok" alone, `error_code` (32 bits) and `cr2` for "page_fault" alone.
    `entries` are the 8-byte words that the access changed, by physical address, with the
    values they changed to; treat it as read-only.
    """

    outcome: OutcomeName
    pa: int | None = None
    error_code: int | None = None
    cr2: int | None = None
    entries: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One access, at linear address `va` with privilege level `cpl` and RFLAGS.AC `ac`."""

    va: int
    access: AccessName
    cpl: int = 0
    ac: bool = False
    predicted: OutcomeRecord | None = None
    observed: OutcomeRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A state of the machine and the accesses to try, each from that state with an empty TLB.

    `ram` are the backed physical ranges as (start, size) in bytes. `entries` are the non-zero
    8-byte words of the paging structures by physical address (all other RAM is zero); treat
    it as read-only. `seed`, `note` and `walker` say where the case comes from.

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
    format: str = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise BadInput(f"$.format: {self.format!r} is not {FORMAT!r}")
        for name in ("cr0", "cr3", "cr4", "efer", "encryption_mask"):
            _fits(f"$.cpu.{name}", getattr(self.cpu, name), 64)
        _fits("$.cpu.pkru", self.cpu.pkru, 32)
        ram = _checked_ram(self.ram)
        _check_words("$.entries", self.entries, ram)
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


def _check_words(place: str, words: Mapping[int, int], ram: list[tuple[int, int]]) -> None:
    starts = [start for start, _ in ram]
    for pa, word in words.items():
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


_NEEDED: dict[str, tuple[str, ...]] = {
    "ok": ("pa",),
    "page_fault": ("error_code", "cr2"),
    "general_protection": (),
}
_WIDTHS = {"pa": _PHYSICAL_BITS, "error_code": 32, "cr2": 64}


def _check_outcome(place: str, record: OutcomeRecord, ram: list[tuple[int, int]]) -> None:
    needed = _NEEDED[record.outcome]
    for name, bits in _WIDTHS.items():
        value = getattr(record, name)
        if value is None and name in needed:
            raise BadInput(f"{place}: {record.outcome} needs {name}")
        if value is not None and name not in needed:
            raise BadInput(f"{place}.{name}: {record.outcome} has no {name}")
        if value is not None:
            _fits(f"{place}.{name}", value, bits)
    _check_words(f"{place}.entries", record.entries, ram)
