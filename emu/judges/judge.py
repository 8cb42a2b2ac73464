"""What a judge is: questions put to a machine, and its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.composites import CompositeOutcomes, Composites
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.tlb import Halted
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = [
    "ELSEWHERE",
    "Heard",
    "Interrupted",
    "Judge",
    "Judged",
    "JudgedComposites",
    "JudgedSequence",
    "Question",
    "Reason",
    "Unjudged",
    "unheard",
]


ELSEWHERE = (1 << 64) - 1
"""The `pa` of an outcome that is OK, but of an access that went where it should not, unknown where.

No entry can name it: it differs from every prediction."""


Heard = Callable[[int], object]
"""Is told how many more accesses, composites or sequences a judge has answered."""


def unheard(_more: int) -> None:
    """Hear nothing of what is answered."""


class Interrupted(KeyboardInterrupt):
    """A judge was interrupted: `answers` are those that it had, None for a question without one."""

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__()
        self.answers = answers


class Unjudged(StrEnum):
    """Why there is no outcome, in kinds."""

    NOT_EXPORTABLE = "not exportable"
    """It can't be asked of any machine."""
    NOT_SHOWN = "not shown"
    """This machine can't show it: no such feature, no RAM there."""
    ENDED = "ended"
    """The machine died, hung or flooded at it: a finding."""
    LOST = "lost"
    """Somebody else ended the machine, or it never came so far."""


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """Why there is no outcome; `text` names no address, so that reasons can be counted.

    `exact` is the same with the values left out of it, where there are any.
    """

    kind: Unjudged
    text: str
    exact: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """An address space, and accesses in it, each from its state with an empty TLB."""

    memory: PhysicalMemory
    context: PagingContext
    accesses: Accesses


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge says of the n accesses of a question.

    `context` is the question's with the features of the judge's CPU: its vendor, MAXPHYADDR and
    1-GiB pages. Predictions have to be made for it. `why` uint8[n] is 0 where there is an outcome,
    else 1 + an index of `reasons`; the outcomes of these rows are zeros. `unproved` bool[n]: the
    outcome is OK, but the machine could not show which address was reached; `pa` is 0 there.
    """

    context: PagingContext
    outcomes: Outcomes
    why: NDArray[np.uint8]
    unproved: NDArray[np.bool_]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedComposites:
    """What a judge says of n composites, as `Judged`."""

    context: PagingContext
    outcomes: CompositeOutcomes
    why: NDArray[np.uint8]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedSequence:
    """What a judge says of a sequence: what became of each access, or why there is no answer.

    The last is a `Halted` where a step that is no access stopped it, as `Runner` has it.
    """

    context: PagingContext
    answer: tuple[Outcome | Halted, ...] | Reason


class Judge(Protocol):
    """A machine that is asked. Questions given together are put to it together, as far as can be.

    `name` is what the command line calls it, `version` what it says of itself once it was asked
    ("QEMU 7.2.22, TCG, AuthenticAMD of 40 bits"), free of paths and of the time. `heard` may be
    set: it is told of answers as they come. An interrupt is raised as `Interrupted` where there are
    answers.
    """

    name: str
    heard: Heard

    @property
    def version(self) -> str:
        """What the judge is, as it says."""
        ...

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what it says of each question, in order."""
        ...

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return what it says of each question, in order."""
        ...

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return what it says of each sequence, in order."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...
