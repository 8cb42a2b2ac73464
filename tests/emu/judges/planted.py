"""Judges with something planted: they answer as the walker has it, but for one thing.

What they say otherwise than a right judge has to come out as such.
"""

from dataclasses import dataclass, field, replace

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
from crosswalk.emu.probe.composites import CompositeOutcomes
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.context import Vendor
from crosswalk.walker.outcome import ErrorCode

NO_FEATURE = Reason(Unjudged.NOT_SHOWN, "no such feature")


@dataclass
class Right:
    """Answers what the walker predicts, for a CPU with these features instead of the question's."""

    name: str = "planted"
    cpu: dict = field(default_factory=dict)
    version: str = "Planted 1.0, TCG, AuthenticAMD, 40 bits"
    unicorn: UnicornJudge = field(default_factory=UnicornJudge)

    def accesses(self, questions):
        return [self.judged(each) for each in questions]

    def judged(self, question: Question) -> Judged:
        context = replace(question.context, **self.cpu)
        count = len(question.accesses)
        seen = translate_many(question.memory, self.under(context), question.accesses)
        # A machine sets none of the A bits that a fault may set.
        faults = (seen.kind != Kind.OK)[:, None]
        seen = replace(
            seen,
            page_size=np.zeros(count, np.uint64),
            rights=np.zeros(count, np.uint8),
            entry_pa=np.where(faults, np.uint64(0), seen.entry_pa),
            entry_value=np.where(faults, np.uint64(0), seen.entry_value),
        )
        nothing = np.zeros(count, np.uint8), np.zeros(count, np.bool_)
        return self.changed(question, Judged(context, seen, *nothing))

    def under(self, context):
        """The CPU that it really is."""
        return context

    def changed(self, question, judged):
        return judged

    def composites(self, questions):
        return self.unicorn.composites(questions)

    def sequences(self, sequences):
        return self.unicorn.sequences(sequences)

    def close(self):
        self.unicorn.close()


class LosesA(Right):
    """Has no A bit set by a read that succeeds."""

    def changed(self, question, judged):
        reads = question.accesses.type == AccessType.READ
        rows = (reads & (judged.outcomes.kind == Kind.OK))[:, None]
        seen = judged.outcomes
        return replace(
            judged,
            outcomes=replace(
                seen,
                entry_pa=np.where(rows, np.uint64(0), seen.entry_pa),
                entry_value=np.where(rows, np.uint64(0), seen.entry_value),
            ),
        )


class WrongCr2(Right):
    """Has the address of the page in CR2, and not that of the access."""

    def changed(self, question, judged):
        seen = judged.outcomes
        return replace(judged, outcomes=replace(seen, cr2=seen.cr2 & ~np.uint64(4095)))


@dataclass
class GoesOn(Right):
    """Is AMD's, and takes a reserved bit of a PML4E for an ignored one, as Intel has it."""

    cpu: dict = field(default_factory=lambda: {"vendor": Vendor.AMD})

    def under(self, context):
        return replace(context, vendor=Vendor.INTEL)


class Dies(Right):
    """Dies of a write at CPL 3 that is allowed."""

    reason = Reason(Unjudged.ENDED, "died of SIGSEGV")

    def changed(self, question, judged):
        accesses = question.accesses
        rows = (accesses.type == AccessType.WRITE) & (accesses.cpl == 3)
        rows &= judged.outcomes.kind == Kind.OK
        return replace(judged, why=rows.astype(np.uint8), reasons=(self.reason,))


class WithoutP(Right):
    """Reports reserved bits without P, as QEMU does."""

    def changed(self, question, judged):
        seen = judged.outcomes
        code = np.where(
            seen.error_code & ErrorCode.RSVD != 0,
            seen.error_code & np.uint16(0xFFFE),
            seen.error_code,
        )
        return replace(judged, outcomes=replace(seen, error_code=code))


class Unplaced(Right):
    """Can't show which address was reached."""

    def changed(self, question, judged):
        seen = replace(judged.outcomes, pa=np.zeros_like(judged.outcomes.pa))
        return replace(judged, outcomes=seen, unproved=judged.outcomes.kind == Kind.OK)


class Liar(Right):
    """Says that it has another CPU than it has: its MAXPHYADDR is 40."""

    def under(self, context):
        return replace(context, maxphyaddr=40)


@dataclass
class Without(Right):
    """Gives no outcome of a fetch, for this reason; with `every` of nothing at all."""

    reason: Reason = NO_FEATURE
    every: bool = False

    def changed(self, question, judged):
        rows = (question.accesses.type == AccessType.EXECUTE) | self.every
        seen = Outcomes.empty(len(rows))
        for name in Outcomes.__slots__:
            getattr(seen, name)[~rows] = getattr(judged.outcomes, name)[~rows]
        return replace(judged, outcomes=seen, why=rows.astype(np.uint8), reasons=(self.reason,))

    def composites(self, questions):
        return [
            JudgedComposites(
                under,
                CompositeOutcomes.empty(len(some)),
                np.ones(len(some), np.uint8),
                (self.reason,),
            )
            for _, under, some in questions
        ]

    def sequences(self, sequences):
        return [JudgedSequence(each.context, self.reason) for each in sequences]
