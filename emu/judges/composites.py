"""Composites compiled into runs of a boot image, and its results made into outcomes.

A composite is a program of one step, or of a few where it is two accesses. What it may reach is
signed so that its results tell where it went:

    rmw:xadd         a marker; the byte there, and the byte that it has afterwards
    rmw:cmpxchg      a marker with a byte that is nowhere else
    cross:read       four bytes on either side of the border, which name their frames
    cross:write      markers; what they hold afterwards
    cross:execute    `mov rax, imm64` across the border, with such bytes on both sides
    implicit         a descriptor; nothing else that lies there could be loaded
    twice            markers, or `mov eax, imm32` that names its frame, and `add eax, imm32` behind
                     a write; a look at the word between the two

Which outcome is right, nothing here knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.answers import Answered, Found, fault_of, named_by
from crosswalk.emu.judges.asked import Part, Refusals, Registers, Whole, whole_refusal
from crosswalk.emu.judges.compiling import OPS, TOO_MANY
from crosswalk.emu.judges.ends import ends_of, refuse_places
from crosswalk.emu.judges.judge import ELSEWHERE, JudgedComposites, Reason, Unjudged
from crosswalk.emu.judges.markers import (
    ADD_EAX,
    byte_at,
    fetch_number,
    fetch_word,
    frame_bytes,
    marker,
    with_byte,
)
from crosswalk.emu.judges.parts import AddressSpace, Places, divided, results_by_row
from crosswalk.emu.judges.ways import Ram, Tables, linear, walked
from crosswalk.emu.probe.composites import (
    FORMS,
    NAMES,
    SAME_PKRU,
    WORDS_SEEN,
    CompositeOutcomes,
    Composites,
    Family,
)
from crosswalk.emu.probe.control import CR4_PKE, Control
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.paths import NO_ADDRESS, format_of
from crosswalk.guest.boot.programs import CpuFacts, Op, Program, ProgramResult, Step, StepResult
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["CompiledComposites"]

_MODE = Reason(Unjudged.NOT_EXPORTABLE, "composites are of 4- and 5-level paging")
_PLACE = Reason(Unjudged.NOT_EXPORTABLE, "a composite of this form can't begin there")
_STRUCTURE = Reason(Unjudged.NOT_EXPORTABLE, "a composite that may reach a paging structure")
_TABLE = Reason(Unjudged.NOT_EXPORTABLE, "a descriptor table at an address that isn't canonical")
_NO_PKRU = Reason(Unjudged.ENDED, "WRPKRU raised an exception")
_NO_BYTE = Reason(Unjudged.NOT_EXPORTABLE, "the tables hold every byte that could tell of a place")

_ADDEND = 0x5A
_AGAIN = 0x33  # By which a second write to a byte differs.
_LOW = (1 << 32) - 1
_SELECTOR, _LIMIT = 0x0B, 0xF  # The second descriptor of the table, at RPL 3.
_ACCESSED = 1 << 40
_SEGMENT = 0x00CF_F200_0000_FFFF  # A data segment for CPL 3, not marked as accessed.
_MOV_RAX = b"\x48\xb8"
_INT3 = b"\xcc" * 4
_BEFORE = 1  # In RAX when an instruction is fetched: what is added to it shows.
_RAN = frozenset({int(Vector.DB), int(Vector.BP)})


class _End(NamedTuple):
    """Where one access of a composite may lead, None for nowhere that tells of itself."""

    pa: int | None

    @property
    def target(self) -> int | None:
        return None if self.pa is None else self.pa & -8


@dataclass(frozen=True, slots=True)
class _Row:
    """A composite as its program and its answer need it: both accesses, and what lies there."""

    name: str
    va: tuple[int, int]
    cpl: tuple[int, int]
    ac: tuple[bool, bool]
    pkru: int | None
    ends: tuple[_End, _End]
    words: tuple[int, ...]
    byte: int
    """One that no table holds."""

    @property
    def family(self) -> Family:
        return FORMS[self.name].family

    @property
    def types(self) -> tuple[AccessType, ...]:
        return FORMS[self.name].types


class CompiledComposites:
    """Composites in an address space as runs, and how to read what becomes of them."""

    def __init__(
        self,
        question: tuple[PhysicalMemory, PagingContext, Composites],
        ram: Ram,
        facts: CpuFacts | None,
    ) -> None:
        memory, context, composites = question
        self._count, self.refused = len(composites), Refusals(len(composites))
        self.parts: list[Part] = []
        self._rows: list[_Row] = []
        control = Control.of(context)
        root = np.array([control.root & -FRAME], np.uint64)
        whole = None if control.long else _MODE
        backed = bool(has_frames(memory, root)[0])
        whole = whole or whole_refusal(context, facts, tables_backed=backed)
        if whole is not None:
            self.refused.add(np.ones(len(composites), np.bool_), whole)
            return
        self.refused.add(composites.misplaced(), _PLACE)
        implicit = composites.family(Family.IMPLICIT)
        self.refused.add(implicit & ~_canonical(control, composites.va - np.uint64(8)), _TABLE)
        width = context.maxphyaddr if facts is None else facts.maxphyaddr
        va = np.concatenate([linear(control, each) for each in _accesses(composites)])
        tables, ways = walked(memory, context, va, ram, width)
        space = AddressSpace(
            Registers.of(context),
            Whole.of(tables, ram, width),
            ram,
            format_of(control),
            control.root,
        )
        ends = ends_of(tables, space.form, ways, width)
        halves = [slice(0, self._count), slice(self._count, None)]
        for half in halves:
            refuse_places(self.refused, space.whole, ways.take(half), ram, width)
            self.refused.add(ends.inside[half], _STRUCTURE)
        known = np.stack([ends.known[half] for half in halves], axis=1)
        places = Places(
            entry=np.concatenate([ways.entry[half] for half in halves], axis=1),
            end=np.stack([ways.end[half] for half in halves], axis=1),
            target=np.where(
                known,
                np.stack([ways.target[half] for half in halves], axis=1),
                np.uint64(NO_ADDRESS),
            ),
            marked=known & ~np.stack([ends.inside[half] for half in halves], axis=1),
            beyond=np.stack([ways.beyond[half] for half in halves], axis=1),
        )
        byte = _free_byte(tables)
        if byte is None:
            self.refused.add(composites.form == NAMES.index("rmw:cmpxchg"), _NO_BYTE)
        keyed = bool(context.cr4 & CR4_PKE)
        self._rows = _rows(composites, places, known, byte or 0, keyed=keyed)
        pkru = composites.then_pkru[composites.then_pkru != SAME_PKRU]
        self.parts += divided(
            space,
            places,
            [_program(row) for row in self._rows],
            self.refused,
            pkru=int(np.bitwise_or.reduce(pkru)) if len(pkru) and keyed else 0,
        )

    def judged(self, context: PagingContext, answers: Sequence[Answered]) -> JudgedComposites:
        """Return the outcomes; `answers` has what came of each part, in order."""
        outcomes = CompositeOutcomes.empty(self._count)
        for row, result in results_by_row(self.parts, answers, self.refused):
            made = _answer(self._rows[row], result)
            if isinstance(made, Reason):
                self.refused.add(row, made)
                continue
            found, changed = made
            if len(changed) > WORDS_SEEN:
                self.refused.add(row, TOO_MANY)
                continue
            for at, each in enumerate(found):
                outcomes.kind[row, at], outcomes.pa[row, at] = each.kind, each.pa
                outcomes.error_code[row, at] = each.error_code
                outcomes.cr2[row, at] = each.cr2
            for at, (pa, value) in enumerate(sorted(changed.items())):
                outcomes.entry_pa[row, at], outcomes.entry_value[row, at] = pa, value
        reasons = tuple(self.refused.reasons)
        return JudgedComposites(context, outcomes, self.refused.why, reasons)

    def nothing(self, context: PagingContext, reason: Reason) -> JudgedComposites:
        """Return that there is no outcome, for this reason."""
        outcomes = CompositeOutcomes.empty(self._count)
        return JudgedComposites(context, outcomes, np.ones(self._count, np.uint8), (reason,))


def _accesses(composites: Composites) -> tuple[Accesses, Accesses]:
    """Return the accesses that composites begin with, and those behind."""
    twice = composites.family(Family.TWICE)
    cpl = np.where(twice, composites.then_cpl, composites.cpl)
    ac = np.where(twice, composites.then_ac, composites.ac)
    first = Accesses(composites.va, composites.types(0), composites.cpl, composites.ac)
    return first, Accesses(composites.second_va(), composites.types(1), cpl, ac)


def _canonical(control: Control, va: U64) -> NDArray[np.bool_]:
    unused = np.int64(64 - control.va_bits)
    signed = va.astype(np.int64)
    found: NDArray[np.bool_] = signed << unused >> unused == signed
    return found


def _free_byte(tables: Tables) -> int | None:
    """Return a byte that neither these tables hold nor a marker, and that is no INT3."""
    held = np.bincount(np.ascontiguousarray(tables.words).view(np.uint8).reshape(-1), minlength=256)
    free = [byte for byte in range(0x80, 0x100) if not held[byte] and byte != _INT3[0]]
    return free[0] if free else None


def _rows(
    composites: Composites,
    places: Places,
    known: NDArray[np.bool_],
    byte: int,
    *,
    keyed: bool,
) -> list[_Row]:
    words = np.where(
        places.entry == np.uint64(NO_ADDRESS),
        places.entry,
        places.entry & np.uint64(-8 & (1 << 64) - 1),
    )
    columns = (
        *(composites.form, composites.va, composites.second_va(), composites.cpl, composites.ac),
        *(composites.then_cpl, composites.then_ac, composites.then_pkru),
        *(places.end, known, words),
    )
    return [
        _Row(
            name=NAMES[form],
            va=(va, second),
            cpl=(cpl, then_cpl),
            ac=(ac, then_ac),
            pkru=pkru if pkru != SAME_PKRU and keyed else None,
            ends=(_End(end[0] if is_known[0] else None), _End(end[1] if is_known[1] else None)),
            words=tuple(sorted({word for word in some if word != NO_ADDRESS})),
            byte=byte,
        )
        for form, va, second, cpl, ac, then_cpl, then_ac, pkru, end, is_known, some in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


# ---- Programs


def _program(row: _Row) -> Program:
    steps = {
        Family.RMW: _modify,
        Family.CROSS: _cross,
        Family.IMPLICIT: _load,
        Family.TWICE: _twice,
    }[row.family](row)
    targets = [end.target for end in row.ends if end.target is not None]
    signed = {target: _content(row, at) for at, target in _targets(row)}
    return Program(
        tuple(steps), tuple(sorted({*row.words, *targets})), tuple(sorted(signed.items()))
    )


def _targets(row: _Row) -> list[tuple[int, int]]:
    """Return the words that the accesses of a composite may reach: which access, which word."""
    count = 2 if row.family in {Family.CROSS, Family.TWICE} else 1
    ends = enumerate(row.ends[:count])
    return [(at, end.target) for at, end in ends if end.target is not None]


def _content(row: _Row, at: int) -> int:
    """Return what lies where an access may lead, before the composite."""
    pa = row.ends[at].pa
    if pa is None:
        raise AssertionError("nothing lies there")
    plain = marker(pa & -8)
    match row.family:
        case Family.RMW:
            return with_byte(plain, pa, row.byte) if row.name == "rmw:cmpxchg" else plain
        case Family.IMPLICIT:
            return _SEGMENT | (_ACCESSED if row.name == "implicit:read" else 0)
        case Family.TWICE:
            return fetch_word(pa) if AccessType.EXECUTE in row.types else plain
        case Family.CROSS:
            return _border(row.types[0], pa, at)


def _border(kind: AccessType, pa: int, at: int) -> int:
    """Return the word before a border between pages (0), or behind it (1)."""
    if kind is AccessType.WRITE:
        return marker(pa & -8)
    name = frame_bytes(pa, at)
    if at:
        return int.from_bytes(name + _INT3, "little")
    before = b"\0\0" + _MOV_RAX if kind is AccessType.EXECUTE else bytes(4)
    return int.from_bytes(before + name, "little")


def _modify(row: _Row) -> list[Step]:
    op, value = Op.XADD, _ADDEND
    if row.name == "rmw:cmpxchg":
        op, value = Op.CMPXCHG, row.byte ^ _ADDEND
    return [Step(op, row.va[0], value, 0, row.cpl[0], row.ac[0])]


def _cross(row: _Row) -> list[Step]:
    kind = row.types[0]
    op = {AccessType.READ: Op.READ8, AccessType.WRITE: Op.WRITE8, AccessType.EXECUTE: Op.EXECUTE}
    value = _stored(row) if kind is AccessType.WRITE else 0
    return [Step(op[kind], row.va[0], value, 0, row.cpl[0], row.ac[0])]


def _stored(row: _Row) -> int:
    """Return what is written across a border: the complement of what lies on its sides."""
    low, high = (_content(row, at) if row.ends[at].pa is not None else 0 for at in (0, 1))
    return (low >> 32 | (high & _LOW) << 32) ^ (1 << 64) - 1


def _load(row: _Row) -> list[Step]:
    return [Step(Op.LOAD_FS, row.va[0] - 8, _SELECTOR, _LIMIT, row.cpl[0], row.ac[0])]


def _twice(row: _Row) -> list[Step]:
    first, second = (
        Step(OPS[kind], row.va[at], _value(row, at), 0, row.cpl[at], row.ac[at])
        for at, kind in enumerate(row.types)
    )
    target = _looked_at(row)
    steps = [first] if target is None else [first, Step(Op.LOOK, target)]
    if row.pkru is not None:
        steps.append(Step(Op.WRPKRU, value=row.pkru))
    return [*steps, second]


def _looked_at(row: _Row) -> int | None:
    """Return the word that is looked at between two accesses, the first of which writes it."""
    return row.ends[0].target if row.types[0] is AccessType.WRITE else None


def _value(row: _Row, at: int) -> int:
    """Return what is written by one of two accesses, or in RAX when an instruction is fetched."""
    pa = row.ends[at].pa
    if row.types[at] is AccessType.EXECUTE:
        return _BEFORE
    if row.types[at] is AccessType.READ or pa is None:
        return 0
    if AccessType.EXECUTE in row.types:
        return ADD_EAX
    old = byte_at(_content(row, at), pa)
    return old ^ (_AGAIN if at else _ADDEND)


# ---- Answers

_Answer = tuple[tuple[Found, ...], dict[int, int]]


def _answer(row: _Row, result: ProgramResult) -> _Answer | Reason:
    """Return the outcomes of a composite and the words that it changed, or why there are none."""
    changed = dict(result.changed)
    if row.family is Family.TWICE:
        return _answer_of_two(row, result, changed)
    (step,) = result.steps
    ran = row.name == "cross:execute" and step.vector in _RAN
    fault = None if ran else fault_of(step)
    if isinstance(fault, Reason):
        return fault
    if fault is not None:
        # A store that faults may have been made in part ("Guaranteed Atomic Operations").
        for target, wanted in _halves(row):
            if changed.get(target) == wanted:
                changed.pop(target)
        return (fault,), changed
    reached = None if result.strays else _reached(row, step, changed)
    count = 2 if row.family is Family.CROSS else 1
    return tuple(Found(Kind.OK, pa) for pa in reached or (ELSEWHERE,) * count), changed


def _reached(row: _Row, step: StepResult, changed: dict[int, int]) -> tuple[int, ...] | None:
    """Return the addresses that a composite reached, None where they are none of its own.

    What it stored is then no longer among the words `changed`.
    """
    count = 2 if row.family is Family.CROSS else 1
    ends = [end.pa for end in row.ends[:count] if end.pa is not None]
    if len(ends) != count:
        return None
    left = {end & -8: _left(row, at) for at, end in enumerate(ends)}
    if any(changed.get(target, _content(row, at)) != left[target] for at, target in _targets(row)):
        return None
    if step.seen & _shown(row) != _expected(row):
        return None
    for target in left:
        changed.pop(target, None)
    return tuple(ends)


def _left(row: _Row, at: int) -> int:
    """Return what a composite leaves in a word that it reaches, if it succeeds."""
    content, pa = _content(row, at), row.ends[at].pa
    if row.name == "rmw:xadd" and pa is not None:
        return with_byte(content, pa, byte_at(content, pa) + _ADDEND & 0xFF)
    if row.name == "cross:write":
        return _half(row, at)
    return content | _ACCESSED if row.name == "implicit:write" else content


def _half(row: _Row, at: int) -> int:
    """Return a word with the part of a store that crosses into it, or out of it."""
    content, value = _content(row, at), _stored(row)
    return content & _LOW | (value & _LOW) << 32 if not at else content & ~_LOW | value >> 32


def _halves(row: _Row) -> list[tuple[int, int]]:
    """Return the words that a store across a border reaches, and what each holds after it."""
    if row.name != "cross:write":
        return []
    return [(target, _half(row, at)) for at, target in _targets(row)]


def _shown(row: _Row) -> int:
    """Return the bits of RAX that tell where a composite has been."""
    if row.family is Family.RMW:
        return 0xFF
    return (1 << 64) - 1 if row.name in {"cross:read", "cross:execute"} else 0


def _expected(row: _Row) -> int:
    """Return what they are if it has been where it may lead."""
    if row.family is Family.RMW and row.ends[0].pa is not None:
        return byte_at(_content(row, 0), row.ends[0].pa)
    if row.name in {"cross:read", "cross:execute"}:
        return _content(row, 0) >> 32 | (_content(row, 1) & _LOW) << 32
    return 0


def _answer_of_two(row: _Row, result: ProgramResult, changed: dict[int, int]) -> _Answer | Reason:
    first, *between, last = result.steps
    if any(step.vector is not None for step in between):
        return _NO_PKRU
    before = {target: _content(row, at) for at, target in _targets(row)}
    final = {target: changed.get(target, value) for target, value in before.items()}
    target = _looked_at(row)
    looked = before if target is None else {target: between[0].seen}
    now, found = dict(before), list[Found]()
    for at, (step, after) in enumerate(((first, looked), (last, final))):
        made = _one_of_two(row, at, step, now, after)
        if isinstance(made, Reason):
            return made
        found.append(made)
    for target, value in now.items():
        if final[target] == value:
            changed.pop(target, None)
    if result.strays:
        found = [replace(each, pa=ELSEWHERE) if each.kind is Kind.OK else each for each in found]
    return tuple(found), changed


def _one_of_two(
    row: _Row, at: int, step: StepResult, now: dict[int, int], after: Mapping[int, int]
) -> Found | Reason:
    """Return the outcome of one of two accesses.

    `now` is what the words that they may reach held before, and then what they hold because of it;
    `after` what was found there afterwards.
    """
    kind, end = row.types[at], row.ends[at]
    if not (kind is AccessType.EXECUTE and step.vector in _RAN):
        fault = fault_of(step)
        if fault is not None:
            return fault
    if end.pa is None or end.target is None:
        return Found(Kind.OK, ELSEWHERE)
    content = now[end.target]
    reached: int | None = end.pa
    if kind is AccessType.WRITE:
        wanted = with_byte(content, end.pa, _value(row, at))
        if after[end.target] == wanted:
            now[end.target] = wanted
        else:
            reached = None
    elif kind is AccessType.EXECUTE:
        added = byte_at(content, end.pa) == ADD_EAX
        number = fetch_number(end.pa) + (_BEFORE if added else 0)
        reached = end.pa if step.seen == number else None
    elif step.torn:
        reached = None
    elif step.seen != content:
        other = named_by(step.seen)
        reached = None if other is None else other | end.pa & 7
    return Found(Kind.OK, ELSEWHERE if reached is None else reached)
