"""What a program's results say of an access: read for what they prove, and no more."""

import re
from dataclasses import dataclass, field

import numpy as np

from crosswalk.emu.judges.ends import MARKS
from crosswalk.emu.judges.judge import ELSEWHERE, Reason, Unjudged
from crosswalk.emu.judges.markers import byte_at, decode, markers, with_byte
from crosswalk.emu.judges.ways import Tables
from crosswalk.guest.boot.programs import ProgramResult, StepResult
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Kind

__all__ = [
    "REFUSED_CR3",
    "Answered",
    "Expected",
    "Found",
    "answer_of",
    "fault_of",
    "name_of",
    "named_by",
    "refusal_reason",
    "stored_at",
]

REFUSED_CR3 = "CR3 refused"
"""What a run says under PAE paging where a PDPTE has reserved bits: #GP."""

_VECTORS = {0: "#DE", 1: "#DB", 3: "#BP", 6: "#UD", 8: "#DF", 11: "#NP", 12: "#SS", 17: "#AC"}
_VECTORS |= {13: "#GP", 14: "#PF", 18: "#MC"}


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a run: `programs` has an answer, or why there is none, for each of its own.

    `refused` is why the machine did none of them.
    """

    programs: tuple[ProgramResult | Reason, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How an access's answer is read.

    `end` is the address that it may lead to, None where nothing that tells of itself lies there;
    `content` the word there before, `stored` the byte written. `marks` is the size of an entry
    if that word is one on the access's own walk, else 0; `alone` whether what is there is nowhere
    else that a walk could lead: the word, or the instruction of a fetch.
    `tables` are the address space's.
    """

    type: AccessType
    end: int | None
    content: int
    stored: int
    marks: int
    alone: bool
    tables: Tables


@dataclass(frozen=True, slots=True)
class Found:
    """An outcome, as in the columns of `Outcomes`; `changed` are words by address."""

    kind: Kind
    pa: int = 0
    error_code: int = 0
    cr2: int = 0
    changed: dict[int, int] = field(default_factory=dict)
    unproved: bool = False


def refusal_reason(text: str) -> Reason:
    """Return why the accesses of a run that a machine refused have no outcome."""
    exact = f"the machine says: {text}"
    return Reason(Unjudged.NOT_SHOWN, re.sub(r"0x[0-9a-f]+", "…", exact), exact)


def answer_of(expected: Expected, result: ProgramResult) -> Found | Reason:  # noqa: PLR0911  # One for each way.
    """Return the outcome of a single access, or why its result is none."""
    (step,) = result.steps
    changed = dict(result.changed)
    fault = fault_of(step)
    if isinstance(fault, Reason):
        return fault
    if fault is not None:
        return Found(fault.kind, 0, fault.error_code, fault.cr2, changed)
    if expected.type is AccessType.EXECUTE and not _fetched(step):
        # It ran something else than what was put where it should lead.
        return _to(expected, None, changed)
    if expected.end is None:
        read = expected.type is AccessType.READ
        strays = bool(result.strays) or (read and (_is_marker(step.seen) or step.torn))
        return Found(Kind.OK, ELSEWHERE if strays else 0, changed=changed, unproved=not strays)
    if expected.type is AccessType.EXECUTE:
        return _to(expected, expected.end, changed)
    if expected.type is AccessType.READ:
        at = None if step.torn else _read_at(expected, expected.end, step.seen)
        return _to(expected, at, changed)
    return _to(expected, _written_at(expected, expected.end, result, changed), changed)


def name_of(vector: int) -> str:
    """Return the name of an exception, as "#PF"."""
    return _VECTORS.get(vector, f"vector {vector}")


def fault_of(step: StepResult) -> Found | Reason | None:
    """Return the fault of an access, None for none, or why what was raised is no outcome."""
    completes = step.vector in {Vector.DB, Vector.BP} and (step.at_access or step.behind)
    if step.vector is None or completes:
        return None
    if step.at_access and step.vector == Vector.PF:
        return Found(Kind.PAGE_FAULT, 0, step.error_code, step.cr2)
    if step.at_access and step.vector == Vector.GP and step.error_code == 0:
        return Found(Kind.GENERAL_PROTECTION)
    name = name_of(step.vector)
    where = "" if step.at_access else ", elsewhere than at the access"
    return Reason(Unjudged.ENDED, f"it raised {name}{where}")


def _fetched(step: StepResult) -> bool:
    """Return whether a fetch ended with the INT3 that was put there."""
    return step.vector == Vector.BP and step.behind


def _to(expected: Expected, pa: int | None, changed: dict[int, int]) -> Found:
    """Return that an access succeeded at an address, None for one that nobody knows."""
    if pa is None:
        return Found(Kind.OK, ELSEWHERE, changed=changed)
    if pa == expected.end and not expected.alone:
        return Found(Kind.OK, 0, changed=changed, unproved=True)
    return Found(Kind.OK, pa, changed=changed)


def _read_at(expected: Expected, end: int, seen: int) -> int | None:
    if not (seen ^ expected.content) & ~MARKS.get(expected.marks, 0):
        return end
    at = named_by(seen)
    return None if at is None else at | end & 7


def named_by(word: int) -> int | None:
    """Return the address that a marker names, None for a word that is none."""
    found, pa = decode(np.array([word], np.uint64))
    return int(pa[0]) if found[0] else None


def _is_marker(word: int) -> bool:
    return named_by(word) is not None


def _written_at(
    expected: Expected, end: int, result: ProgramResult, changed: dict[int, int]
) -> int | None:
    """Return where a byte was stored; what the store itself changed is no changed word."""
    target = end & -8
    wanted = with_byte(expected.content, end, expected.stored)
    got = changed.get(target)
    if got is not None and not (got ^ wanted) & ~MARKS.get(expected.marks, 0):
        walk = with_byte(got, end, byte_at(expected.content, end))
        changed.pop(target)
        if walk != expected.content:
            changed[target] = walk
        return end
    return stored_at(result, end, expected.stored, expected.tables)


def stored_at(result: ProgramResult, end: int, stored: int, tables: Tables) -> int | None:
    """Return which marker of the run has this byte at this offset now, None for none or many."""
    found = [
        pa
        for pa, value in result.strays.items()
        if not tables.holds(np.array([pa], np.uint64))[0]
        and value == with_byte(int(markers(np.array([pa], np.uint64))[0]), end, stored)
    ]
    return found[0] | end & 7 if len(found) == len(result.strays) == 1 else None
