"""Accesses compiled into runs of a boot image, and its results made into outcomes.

    question ──► tables, walks (`ways`) ──► refused row by row: what can't be asked
             ──► rows that go together: by memory that a machine may lack, by slots lent (`lending`)
             ──► for each a run: words, markers where accesses may lead (`markers`), programs
    results  ──► outcomes (`answers`)

All of it from raw entries and registers: which outcome is right, nothing here knows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.answers import REFUSED_CR3, Answered, Expected, answer_of
from crosswalk.emu.judges.asked import Part, Refusals, Registers, Whole, whole_refusal
from crosswalk.emu.judges.ends import ends_of, nowhere, refuse_places
from crosswalk.emu.judges.judge import Judged, Question, Reason, Unjudged
from crosswalk.emu.judges.markers import INT3, byte_at, with_byte
from crosswalk.emu.judges.parts import AddressSpace, Places, divided, results_by_row
from crosswalk.emu.judges.ways import Ram, Tables, linear, walked
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.paths import NO_ADDRESS, format_of
from crosswalk.guest.boot.programs import CpuFacts, Op, Program, Step
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import MAX_STEPS, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64

__all__ = ["OPS", "TOO_MANY", "WIDE", "CompiledAccesses"]

WIDE = Reason(Unjudged.NOT_EXPORTABLE, "an address of more than 32 bits outside IA-32e mode")
_OWN_FETCH = Reason(Unjudged.NOT_EXPORTABLE, "a fetch of an entry that its own walk uses")
_OWN_FLAGS = Reason(Unjudged.NOT_EXPORTABLE, "a write to the A and D bits that its own walk sets")
TOO_MANY = Reason(Unjudged.ENDED, "more words changed than a walk uses")

OPS = {AccessType.READ: Op.READ, AccessType.WRITE: Op.WRITE, AccessType.EXECUTE: Op.EXECUTE}

_DIFFERS = 0x5A  # The bits by which a byte that is written differs from the one before.


class CompiledAccesses:
    """The accesses of a question as runs, and how to read what becomes of them."""

    def __init__(self, question: Question, ram: Ram, facts: CpuFacts | None) -> None:
        context, accesses = question.context, question.accesses
        self._question, self.refused = question, Refusals(len(accesses))
        self._control = control = Control.of(context)
        self._form = form = format_of(control)
        self.parts: list[Part] = []
        self._expected: list[Expected] = []
        root = np.array([control.root & -FRAME], np.uint64)
        backed = bool(has_frames(question.memory, root)[0])
        whole = whole_refusal(context, facts, tables_backed=backed)
        if whole is not None:
            self.refused.add(np.ones(len(accesses), np.bool_), whole)
            return
        width = context.maxphyaddr if facts is None else facts.maxphyaddr
        va = linear(control, accesses)
        if not control.long:
            self.refused.add(va >> np.uint64(32) != 0, WIDE)
        fetch, write = (accesses.type == kind for kind in (AccessType.EXECUTE, AccessType.WRITE))
        self._tables, ways = walked(question.memory, context, va, ram, width)
        self._ways = nowhere(ways, ram, ~fetch)
        self._space = Whole.of(self._tables, ram, width)
        refuse_places(self.refused, self._space, self._ways, ram, width)
        self._ends = ends = ends_of(self._tables, form, self._ways, width)
        self.refused.add(fetch & ends.own, _OWN_FETCH)
        low = self._ways.end % np.uint64(form.entry_bytes) == 0
        self.refused.add(write & ends.own & low, _OWN_FLAGS)
        self._programs, self._expected = self._made()
        self._divide(ram)

    def judged(self, context: PagingContext, answers: Sequence[Answered]) -> Judged:
        """Return the outcomes; `answers` has what came of each part, in order."""
        count = len(self._question.accesses)
        outcomes, unproved = Outcomes.empty(count), np.zeros(count, np.bool_)
        if self._control.levels == 3 and any(each.refused == REFUSED_CR3 for each in answers):
            asked = self.refused.left
            outcomes.kind[asked] = Kind.GENERAL_PROTECTION
            return self._judged(context, outcomes, unproved)
        for row, result in results_by_row(self.parts, answers, self.refused):
            found = answer_of(self._expected[row], result)
            if isinstance(found, Reason):
                self.refused.add(row, found)
                continue
            if len(found.changed) > MAX_STEPS:
                self.refused.add(row, TOO_MANY)
                continue
            outcomes.kind[row], outcomes.pa[row] = found.kind, found.pa
            outcomes.error_code[row], outcomes.cr2[row] = found.error_code, found.cr2
            unproved[row] = found.unproved
            for place, (pa, value) in enumerate(sorted(found.changed.items())):
                outcomes.entry_pa[row, place], outcomes.entry_value[row, place] = pa, value
        return self._judged(context, outcomes, unproved)

    def nothing(self, context: PagingContext, reason: Reason) -> Judged:
        """Return that there is no outcome, for this reason."""
        count = len(self._question.accesses)
        none = np.zeros(count, np.bool_)
        return Judged(context, Outcomes.empty(count), np.ones(count, np.uint8), none, (reason,))

    def _judged(
        self, context: PagingContext, outcomes: Outcomes, unproved: NDArray[np.bool_]
    ) -> Judged:
        refused = self.refused
        return Judged(context, outcomes, refused.why, unproved, tuple(refused.reasons))

    def _made(self) -> tuple[list[Program], list[Expected]]:
        """Return program and expectation of each access."""
        accesses, ways, ends = self._question.accesses, self._ways, self._ends
        breaks = _offsets_of(INT3, self._tables)
        programs, expected = [], []
        columns = (
            *(accesses.va, accesses.type, accesses.cpl, accesses.ac),
            *(ways.words, ways.end, ends.content, ends.known, ends.inside, ends.own, ends.alone),
        )
        for va, kind, cpl, ac, words, end, held, known, inside, own, alone in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            watched = {word for word in words if word != NO_ADDRESS}
            signed: tuple[tuple[int, int], ...] = ()
            target, value = end & -8, 0
            type_ = AccessType(kind)
            content = with_byte(held, end, INT3) if type_ is AccessType.EXECUTE else held
            if type_ is AccessType.WRITE:
                value = byte_at(content, end) ^ _DIFFERS
            if known and type_ is AccessType.WRITE:
                watched.add(target)
            if known and (type_ is AccessType.EXECUTE or (inside and not own)):
                signed = ((target, content),)
            step = Step(OPS[type_], va, value, 0, cpl, ac)
            programs.append(Program((step,), tuple(sorted(watched)), signed))
            expected.append(
                Expected(
                    type=type_,
                    end=end if known else None,
                    content=content,
                    stored=value,
                    marks=self._form.entry_bytes if own else 0,
                    alone=(alone or not own)
                    and not (type_ is AccessType.EXECUTE and end % FRAME in breaks),
                    tables=self._tables,
                )
            )
        return programs, expected

    def _divide(self, ram: Ram) -> None:
        """Divide the rows left into runs."""
        ways, ends = self._ways, self._ends
        target = np.where(ends.known, ways.target, np.uint64(NO_ADDRESS))
        marked = ends.known & ~ends.inside
        places = Places(
            entry=ways.entry,
            end=ways.end[:, None],
            target=target[:, None],
            marked=marked[:, None],
            beyond=ways.beyond[:, None],
        )
        registers = Registers.of(self._question.context)
        space = AddressSpace(registers, self._space, ram, self._form, self._control.root)
        self.parts += divided(space, places, self._programs, self.refused)
        if self._control.levels == 3 and self.parts:
            self._look_behind_loans(space.held)

    def _look_behind_loans(self, held: U64) -> None:
        """Have a PDPTE that every run hides seen by a run without programs.

        Loading CR3 fails for reserved bits in any of the four, used or not.
        """
        slots = {part.asked.loan.alias for part in self.parts}
        hidden = slots.pop()
        if slots or not int(held[hidden]) & 1:
            return
        first = self.parts[0].asked
        loan = replace(first.loan, alias=hidden ^ 1, user=hidden ^ 1)
        run = replace(first.run, programs=())
        self.parts.append(Part(replace(first, loan=loan, run=run), np.zeros(0, np.intp)))


def _offsets_of(byte: int, tables: Tables) -> frozenset[int]:
    """Return at which places of a page some table has this byte."""
    held = np.ascontiguousarray(tables.words).view(np.uint8).reshape(-1, FRAME) == byte
    return frozenset(np.flatnonzero(held.any(axis=0)).tolist())
