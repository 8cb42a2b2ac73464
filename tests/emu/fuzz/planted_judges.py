"""Judges with a fault planted in them, as machines have had it: the emulated CPU, changed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crosswalk.emu.judges.judge import (
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    Unjudged,
)
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.probe.composites import Composites
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.tlb import Sequence as TlbSequence

DIED = Reason(Unjudged.ENDED, "died of SIGABRT")
_LAST = ~np.uint64(0)


class PlantedJudge:
    """The emulated CPU, but that reserved-bit faults lack P, and that it dies of some fetches.

    Those of the last byte of all, from a page that allows it.
    """

    name, version = "planted", "Planted 1"

    def __init__(self) -> None:
        self._true, self.asked = UnicornJudge(), 0

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what it says of each question."""
        self.asked += 1
        return [
            self._changed(question, judged)
            for question, judged in zip(questions, self._true.accesses(questions), strict=True)
        ]

    def _changed(self, question: Question, judged: Judged) -> Judged:
        outcomes, accesses = judged.outcomes, question.accesses
        code = outcomes.error_code
        reserved = (code & ErrorCode.RSVD) != 0
        code = np.where(reserved, code & ~np.uint16(ErrorCode.P), code).astype(np.uint16)
        dies = (accesses.va == _LAST) & (accesses.type == AccessType.EXECUTE)
        dies &= (judged.why == 0) & (outcomes.kind == Kind.OK)
        reasons = (*judged.reasons, DIED)
        why = np.where(dies, np.uint8(len(reasons)), judged.why)
        return replace(
            judged, outcomes=replace(outcomes, error_code=code), why=why, reasons=reasons
        )

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return what it says of each question: the truth."""
        return self._true.composites(questions)

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return what it says of each sequence: the truth."""
        return self._true.sequences(sequences)

    def close(self) -> None:
        """Give the engines back."""
        self._true.close()
