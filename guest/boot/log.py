"""Answers of a boot image, read back: records of 8-byte words, little-endian.

    record     head, words, checksum
    head       MARK | number of words << 16 | kind << 32 | number << 40 | check << 56

Records are numbered from 0 (16 bits, then again), and the first is a greeting with the digest of
the image. Text of firmware may come before it. A word of zeros ends the log, as in memory that
nothing was written to. `check` is that of the head alone: what ends in the middle of a record ended
there, and what has no head was garbled.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from crosswalk.guest.boot.programs import (
    BootLog,
    CpuFacts,
    Op,
    Program,
    ProgramResult,
    Run,
    RunResult,
    StepResult,
)
from crosswalk.guest.boot.screen import from_screen
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import printable

__all__ = [
    "FEATURE_BITS",
    "MARK",
    "MOST_STRAYS",
    "NO_VECTOR",
    "Kind",
    "NoRecords",
    "Refusal",
    "came_to_end",
    "read_log",
    "read_logs",
    "results_bound",
    "words_bound",
]

MARK = 0xB0C5

MOST_STRAYS = 8
"""So many strays of a program are reported at most."""

NO_VECTOR = 0xFF
"""The vector of a step without an exception."""

_Words = list[int]

_FORMAT = 1
_WORD = 8
_TAIL = 4096
_MARKED = MARK.to_bytes(2, "little")
_FNV, _PRIME, _ALL = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_NUMBERS = 1 << 16
_CHECKED, _MIX = (1 << 56) - 1, 0x9E3779B97F4A7C15


class Kind(IntEnum):
    """What a record says."""

    GREETING = 1
    """Format, then the digest of the image in four words."""
    CPU = 2
    """CPUID: EAX, EBX, ECX, EDX of each of `_LEAVES`."""
    RAM = 3
    """Start and end of each range of RAM."""
    RUN = 4
    """A run begins: its number and its tag."""
    REFUSED = 5
    """A `Refusal` and its value: why the run has no (more) programs."""
    PROGRAM = 6
    """What came of a program."""
    END = 7
    """The image came to its end."""
    TRAPPED = 8
    """An exception nobody expected: vector, error code, RIP as an offset, CR2."""


class Refusal(IntEnum):
    """Why a run isn't done."""

    NO_RAM = 1
    RUNNER = 2
    WINDOW = 3
    NOT_HELD = 4
    CR0 = 5
    CR3 = 6
    CR4 = 7
    EFER = 8
    PKRS = 9
    STEP = 10
    WIDTH = 11
    FEATURE = 12


class NoRecords(BadInput):
    """What should be a log has no greeting: no image was booted, or none of this format."""


_SAYS = {
    Refusal.NO_RAM: "no RAM at {:#x}",
    Refusal.RUNNER: "the runner lies at {:#x}",
    Refusal.WINDOW: "{:#x} is above 4 GiB, more than the runner can show without 1-GiB pages",
    Refusal.NOT_HELD: "{:#x} doesn't hold what was written there",
    Refusal.CR0: "CR0 = {:#x} refused",
    Refusal.CR3: "CR3 refused",
    Refusal.CR4: "CR4 = {:#x} refused",
    Refusal.EFER: "EFER = {:#x} refused",
    Refusal.PKRS: "IA32_PKRS = {:#x} refused",
    Refusal.STEP: "no step of kind {} in this paging mode",
    Refusal.WIDTH: "MAXPHYADDR is above {}",
    Refusal.FEATURE: "the CPU has no {}",
}

# Flags of a step's word: vector | flags << 8 | error code << 32.
_AT_ACCESS, _BEHIND, _HAS_CR2, _HAS_SEEN, _TORN = 1, 2, 4, 8, 16

_LEAVES = (
    (0, 0),
    (1, 0),
    (7, 0),
    (7, 1),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0008, 0),
)
"""Leaf and subleaf, in the order of a record of kind CPU."""

_EAX, _EBX, _ECX, _EDX = range(4)
_EXTENDED = 0x8000_0000
_FEATURES = {
    "la57": (7, 0, _ECX, 16),
    "pku": (7, 0, _ECX, 3),
    "pks": (7, 0, _ECX, 31),
    "smep": (7, 0, _EBX, 7),
    "smap": (7, 0, _EBX, 20),
    "nx": (0x8000_0001, 0, _EDX, 20),
    "pdpe1gb": (0x8000_0001, 0, _EDX, 26),
    "pcid": (1, 0, _ECX, 17),
    "invpcid": (7, 0, _EBX, 10),
    "lass": (7, 1, _EAX, 6),
    "lam": (7, 1, _EAX, 26),
    "pge": (1, 0, _EDX, 13),
    "pse36": (1, 0, _EDX, 17),
    "umip": (7, 0, _ECX, 2),
    "fsgsbase": (7, 0, _EBX, 0),
    "hypervisor": (1, 0, _ECX, 31),
}
"""Leaf, subleaf, register and bit (Intel SDM vol. 2A, "CPUID—CPU Identification")."""


FEATURE_BITS = {
    name: (_LEAVES.index((leaf, subleaf)) * 4 + register) * 32 + bit
    for name, (leaf, subleaf, register, bit) in _FEATURES.items()
}
"""Which bit of a record of kind CPU each feature is."""

_FEATURE_AT = {at: name for name, at in FEATURE_BITS.items()}


def results_bound(runs: Sequence[Run]) -> int:
    """Return how many bytes the results of these runs take at most."""
    fixed = 8 * (3 * 2 + 5 + 2 * len(_LEAVES) + 2 * 256 + 2 * 2 + 4 + 1)
    return fixed + sum(
        8 * (4 + 4 + sum(2 + words_bound(program) for program in run.programs)) for run in runs
    )


def words_bound(program: Program) -> int:
    """Return how many words the record of a program has at most."""
    strays = 0 if all(step.op not in _WRITES for step in program.steps) else MOST_STRAYS
    looks = sum(step.op is Op.LOOK for step in program.steps)
    return 1 + 3 * len(program.steps) - looks + 2 * (len(program.watched) + strays)


_WRITES = frozenset({Op.WRITE, Op.WRITE8, Op.XADD, Op.CMPXCHG})


def read_log(data: bytes, *, digest: bytes | None = None) -> BootLog:
    """Return what an image answered, as far as it came.

    `data` is what it printed, or what lies in its area of memory. `digest` is that of the image
    whose answers these should be (`digest_of`).

    Raises `NoRecords` where no greeting is found; `BadInput` for that of another image; where it
    ends before the CPU is named; where a record is missing or broken, but for the end of the last;
    and for records that no runner writes.
    """
    found = _Reading()
    for number, record in enumerate(_records(data)):
        if record is None:
            raise BadInput(f"the log is damaged: record {number:,} is missing or broken")
        kind, words = record
        if number and kind == Kind.GREETING:
            if _digest(words) == found.digest:
                found.ended = "started again"
            break
        if not number and digest is not None and _digest(words) != digest:
            raise BadInput("the log is of another image: of other cases, or by another version")
        try:
            found.take(kind, words)
        except (IndexError, KeyError, ValueError, struct.error):
            raise BadInput(f"the log is damaged: no runner writes record {number:,}") from None
    if found.cpu is None:
        raise BadInput("the log ends before it names the CPU")
    runs = tuple(RunResult(tuple(run.programs), run.refused, run.tag) for run in found.runs)
    return BootLog(found.cpu, runs, found.complete, found.ended, found.digest)


def read_logs(data: bytes) -> list[BootLog]:
    """Return what is answered in each of some logs, one behind the other, with text between them.

    `data` is what one or more images printed, or the text of the lines that one showed on the
    screen (`screen.py`). Raises `BadInput` as `read_log` does, for any of them.
    """
    shown = from_screen(data)
    data = data if shown is None else shown
    found, at = list[BootLog](), 0
    while True:
        start = _find(data, at, Kind.GREETING)
        following = None if start is None else _find(data, start + 1, Kind.GREETING)
        if following is None:
            return [*found, read_log(data[at:])]
        # With the greeting behind it, by which it is known to have ended.
        behind = _record(data, following)
        found.append(read_log(data[at : behind.end if behind else following]))
        at = following


def came_to_end(data: bytes) -> bool:
    """Return whether an image's last record is among the last 4 KiB of what it answered so far.

    It is cheap, for looking at each part of a log that comes in; `BootLog.complete` is the proof.
    """
    return _find(data, max(0, len(data) - _TAIL), Kind.END) is not None


def _records(data: bytes) -> Iterator[tuple[int, _Words] | None]:
    """Yield kind and words of each record; None, the last, where one is missing or broken."""
    start = _find(data, 0, Kind.GREETING)
    if start is None:
        raise NoRecords("no answer of a boot image in it")
    at, number = start, 0
    while (record := _record(data, at)) and record.number == number % _NUMBERS:
        yield record.kind, record.words
        at, number = record.end, number + 1
    rest = data[at:]
    if not any(rest[:_WORD]):
        return
    following = _find(data, at)
    if following is not None:
        record = _record(data, following)
        again = record is not None and (record.kind, record.number) == (Kind.GREETING, 0)
        yield (record.kind, record.words) if record is not None and again else None
    elif not _is_cut(rest) and not _is_text(rest):
        yield None


class _Record(NamedTuple):
    kind: int
    number: int
    words: _Words
    end: int


def _find(data: bytes, start: int, kind: Kind | None = None) -> int | None:
    """Return where the first whole record from `start` on is, or the first one of a kind."""
    at = data.find(_MARKED, start)
    while at >= 0:
        record = _record(data, at)
        if record and kind in (None, record.kind):
            return at
        at = data.find(_MARKED, at + 1)
    return None


def _record(data: bytes, at: int) -> _Record | None:
    """Return the record there, or None where there is no whole one."""
    if len(data) - at < 2 * _WORD:
        return None
    (head,) = struct.unpack_from("<Q", data, at)
    count = head >> 16 & 0xFFFF
    end = at + (count + 2) * _WORD
    if not _is_head(head) or end > len(data):
        return None
    *words, checksum = struct.unpack_from(f"<{count + 1}Q", data, at + _WORD)
    if checksum != _checksum(head, words):
        return None
    return _Record(head >> 32 & 0xFF, head >> 40 & _NUMBERS - 1, words, end)


def _checksum(head: int, words: _Words) -> int:
    """Return FNV-1a of 64 bits, over words instead of bytes."""
    found = _FNV
    for word in (head, *words):
        found = (found ^ word) * _PRIME & _ALL
    return found


def _is_head(head: int) -> bool:
    return head & 0xFFFF == MARK and head >> 56 == ((head & _CHECKED) * _MIX & _ALL) >> 56


def _is_cut(rest: bytes) -> bool:
    """Whether this is the beginning of a record that goes on behind its end."""
    if len(rest) < _WORD:
        return _MARKED.startswith(rest[:2])
    (head,) = struct.unpack_from("<Q", rest)
    return _is_head(head) and len(rest) < ((head >> 16 & 0xFFFF) + 2) * _WORD


def _is_text(rest: bytes) -> bool:
    """Whether this is what firmware prints, escape sequences included."""
    return all(byte in b"\t\r\n\x1b" or 0x20 <= byte < 0x7F for byte in rest)


@dataclass(slots=True)
class _Run:
    tag: int
    refused: str | None = None
    programs: list[ProgramResult] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """What the records so far have said.

    `take` raises IndexError, KeyError or ValueError for nonsense.
    """

    cpuid: _Words = field(default_factory=list)
    cpu: CpuFacts | None = None
    runs: list[_Run] = field(default_factory=list)
    complete: bool = False
    ended: str | None = None
    digest: bytes = b""

    def take(self, kind: int, words: _Words) -> None:
        match Kind(kind):
            case Kind.GREETING:
                if words[0] != _FORMAT:
                    raise BadInput(f"the log is of format {words[0]:#x}, not {_FORMAT}")
                self.digest = _digest(words)
            case Kind.CPU:
                self.cpuid = words
            case Kind.RAM:
                self.cpu = _cpu(self.cpuid, words)
            case Kind.RUN:
                _, tag = words
                self.runs.append(_Run(tag))
            case Kind.REFUSED:
                refusal, value = Refusal(words[0]), words[1]
                what = _FEATURE_AT[value] if refusal is Refusal.FEATURE else value
                self.runs[-1].refused = _SAYS[refusal].format(what)
            case Kind.PROGRAM:
                self.runs[-1].programs.append(_program(words))
            case Kind.END:
                self.complete = True
            case Kind.TRAPPED:
                vector, error_code, rip, cr2 = words
                self.ended = (
                    f"the runner got exception {vector}, error code {error_code:#x}, "
                    f"at its offset {rip:#x}, CR2 = {cr2:#x}"
                )


def _digest(words: _Words) -> bytes:
    """Return the image's digest that a greeting has."""
    return np.array(words[1:5], "<u8").tobytes()


def _program(words: _Words) -> ProgramResult:
    rest = iter(words)
    try:
        counts = next(rest)
        steps = tuple(_step(rest) for _ in range(counts & 0xFFFF))
        changed = {next(rest): next(rest) for _ in range(counts >> 16 & 0xFFFF)}
        strays = {next(rest): next(rest) for _ in range(counts >> 32 & 0xFFFF)}
    except (StopIteration, RuntimeError):
        raise ValueError("too short") from None
    if next(rest, None) is not None:
        raise ValueError("too long")
    return ProgramResult(steps, changed, strays)


def _step(rest: Iterator[int]) -> StepResult:
    word = next(rest)
    flags = word >> 8 & 0xFF
    cr2 = next(rest) if flags & _HAS_CR2 else 0
    seen = next(rest) if flags & _HAS_SEEN else 0
    vector = word & 0xFF
    return StepResult(
        vector=None if vector == NO_VECTOR else vector,
        error_code=word >> 32,
        cr2=cr2,
        at_access=bool(flags & _AT_ACCESS),
        behind=bool(flags & _BEHIND),
        seen=seen,
        torn=bool(flags & _TORN),
    )


def _cpu(cpuid: _Words, ram: _Words) -> CpuFacts:
    registers = {
        leaf: struct.unpack("<4I", struct.pack("<2Q", *cpuid[2 * at : 2 * at + 2]))
        for at, leaf in enumerate(_LEAVES)
    }
    basic, extended = registers[0, 0][_EAX], registers[_EXTENDED, 0][_EAX]

    def said(leaf: int, subleaf: int = 0) -> tuple[int, ...]:
        most = extended if leaf >= _EXTENDED else basic
        return registers[leaf, subleaf] if leaf <= most else (0, 0, 0, 0)

    # What isn't there has no second subleaf, and answers with anything.
    subleaves = said(7)[_EAX]
    _, low, high, middle = said(0)
    signature = said(1)[_EAX]
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family in (6, 15):
        model |= signature >> 12 & 0xF0
    if family == 15:
        family += signature >> 20 & 0xFF
    brand = b"".join(
        struct.pack("<4I", *said(leaf)) for leaf in range(_EXTENDED + 2, _EXTENDED + 5)
    )
    return CpuFacts(
        vendor=_text(struct.pack("<3I", low, middle, high)),
        family=family,
        model=model,
        stepping=signature & 0xF,
        brand=_text(brand),
        maxphyaddr=said(_EXTENDED + 8)[_EAX] & 0xFF or 36,
        features=frozenset(
            name
            for name, (leaf, subleaf, register, bit) in _FEATURES.items()
            if subleaf <= subleaves and said(leaf, subleaf)[register] >> bit & 1
        ),
        ram=tuple(zip(ram[::2], ram[1::2], strict=True)),
    )


def _text(data: bytes) -> str:
    return printable(data.partition(b"\0")[0].decode("latin-1")).strip()
