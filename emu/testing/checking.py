"""Compares a walker with the emulated CPU, and says where it is wrong."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check import make_plan
from crosswalk.emu.findings.baseline import Muting
from crosswalk.emu.findings.cause import parts_of
from crosswalk.emu.findings.describe import described_answer
from crosswalk.emu.findings.findings import wrong_answers
from crosswalk.emu.findings.layout import Layout, case_layout, layout_case
from crosswalk.emu.findings.signature import Signature, failure_signature
from crosswalk.emu.report.finding import finding_lines
from crosswalk.emu.report.text import access_text
from crosswalk.emu.targets import Capability, Target
from crosswalk.emu.targets.answers import Answers, Ranges, Refused, Unanswered
from crosswalk.emu.targets.capabilities import names_text, parse_claims, parse_modes
from crosswalk.emu.targets.judge import TargetVerdict, judge
from crosswalk.emu.targets.python import Function
from crosswalk.emu.targets.questions import Course, Questions, put
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.testing.paths import ROOT, layout_of
from crosswalk.emu.testing.referee import EmulatorFailure, Referee
from crosswalk.emu.testing.tallies import complaints
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, dump_case
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["Checker", "EmulatorFailure", "Walker", "WrongWalker", "check_walker"]

Walker = Callable[..., Any] | str
"""A function as `python:` takes it, or the name of any walker as `--walker` takes it."""

_SHOWN_ENTRIES = 16


class WrongWalker(AssertionError):
    """The walker is wrong: `case` has the first wrong access, `name` identifies the rule broken.

    `case` is None where the walker gave no answer.
    """

    def __init__(self, message: str, name: str = "", case: Case | None = None) -> None:
        super().__init__(message)
        self.name, self.case = name, case


class Checker:
    """Checks walkers; keeps the emulator and the walkers' processes from check to check.

    `muting` says which wrong answers don't fail. `tallies` counts, by walker, what was asked and
    answered in all checks: one layout that a walker declines is no fault, a claim that it never
    answers is one (`require_answers`).
    """

    def __init__(self, muting: Muting | None = None) -> None:
        self.tallies: dict[str, Tally] = {}
        self._muting = muting
        self._referee = Referee()
        self._opened: dict[tuple[str, str | None], Target] = {}

    def __call__(self, walker: Walker, layout: Layout | Case, *, claims: str | None = None) -> None:
        """Raise `WrongWalker` where `walker` answers an access otherwise than the emulated CPU.

        `claims` are the names of what it answers, with commas; else its attribute `claims`, else
        "translation". A case without probes is checked everywhere, as `crosswalk check` does. A
        function runs in this process, and what it raises is raised; any other walker in its own.
        `EmulatorFailure` where the emulator gives no answer, `BadInput` for a walker there isn't.
        """
        __tracebackhide__ = True
        target = self._target(walker, claims)
        layout = _with_accesses(layout)
        memory, context, accesses = layout.memory(), layout.context, layout.accesses
        answers = target.answer(memory, context, accesses)
        for each in answers.failures:
            if not self._muted(failure_signature(target.name, each.failure)):
                raise _failed(target, layout, each)
        outcomes, unasked = self._referee.truth(memory, context, accesses)
        judged = judge(target.claims, answers, memory, context, accesses, outcomes)
        label = target.name if claims is None else f"{target.name}, claims {claims}"
        tally = self.tallies.setdefault(label, Tally())
        tally += judged.tally
        for verdict in judged.verdicts:
            given = memory, context, f"peer:{target.name}", target.claims, verdict
            for row, signature, _ in wrong_answers(*given):
                if not self._muted(signature):
                    raise _wrong(target, layout, memory, verdict, row, unasked)

    def require_answers(self) -> None:
        """Raise `WrongWalker` where a walker was asked for what it claims and never answered."""
        __tracebackhide__ = True
        if found := complaints(self.tallies):
            raise WrongWalker("\n".join(found))

    def _muted(self, signature: Signature) -> bool:
        if self._muting is None:
            return False
        return not self._muting.sort([(signature, parts_of(signature))]).new

    def start(self) -> None:
        """Start the emulator, which takes longer than most checks do."""
        context = PagingContext(cr3=ROOT)
        access = Access(0, AccessType.READ)
        layout = layout_of(context, [], Accesses.of([access]))
        self._referee.truth(layout.memory(), context, layout.accesses)

    def close(self) -> None:
        """Stop the emulator and the walkers' processes."""
        self._referee.close()
        for target in self._opened.values():
            target.close()
        self._opened.clear()

    def _target(self, walker: Walker, claims: str | None) -> Target:
        if callable(walker):
            return _Function(walker, claims)
        if (walker, claims) not in self._opened:
            self._opened[walker, claims] = open_target(walker, claims=claims)
        return self._opened[walker, claims]


def check_walker(walker: Walker, layout: Layout | Case, *, claims: str | None = None) -> None:
    """Raise `WrongWalker` where a walker is wrong, as a `Checker` does; one serves all calls."""
    __tracebackhide__ = True
    _checker()(walker, layout, claims=claims)


@functools.cache
def _checker() -> Checker:
    return Checker()


class _Function:
    """A function as a walker under test, called in this process."""

    def __init__(self, function: Callable[..., Any], claims: str | None) -> None:
        self.name = getattr(function, "__name__", "the walker")
        own = getattr(function, "claims", Capability.TRANSLATION.value)
        claims = names_text(own, self.name) if claims is None else claims
        self.claims = parse_claims(claims, self.name)
        modes = getattr(function, "modes", None)
        self.modes = None if modes is None else parse_modes(names_text(modes, self.name), self.name)
        self._asked = Function(function, self.claims)

    def answer(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        accesses: Accesses,
        ranges: Ranges | None = None,
    ) -> Answers:
        """Return the function's answer to each access, or its list of mappings."""

        def ask(questions: Questions) -> tuple[Answers, Refused]:
            course = Course()
            return self._asked.answer(memory, context, questions, course), course.refused

        return put(self.claims, memory, context, accesses, ask, ranges)

    def close(self) -> None:
        """Do nothing: there is no process."""


def _with_accesses(layout: Layout | Case) -> Layout:
    if isinstance(layout, Case):
        layout = case_layout(layout)
    if len(layout.accesses):
        return layout
    plan = make_plan(layout.memory(), layout.context)
    nothing = case_layout(replace(layout_case(layout), probes=()))
    return replace(nothing, accesses=plan.accesses, intended=layout.intended)


def _failed(target: Target, layout: Layout, failed: Unanswered) -> WrongWalker:
    """Return the error for a question that the walker failed to answer."""
    signature = failure_signature(target.name, failed.failure)
    case = layout_case(replace(layout, accesses=failed.accesses))
    case = replace(case, note=str(signature))
    message = f"{target.name} gave no answer: {failed.failure}"
    if len(failed.accesses) == 1:
        message += f"\n{access_text(failed.accesses[0])}"
    return WrongWalker(message, signature.slug, case)


def _wrong(
    target: Target,
    layout: Layout,
    memory: PhysicalMemory,
    verdict: TargetVerdict,
    row: int,
    unasked: NDArray[np.bool_],
) -> WrongWalker:
    """Return the error for an access that the walker is wrong about.

    What the emulated CPU lacks a feature for wasn't observed; there the prediction is the truth.
    """
    wrong = verdict.wrong
    beside = verdict.observed is None
    observed = None if verdict.observed is None or unasked[row] else verdict.observed[row]
    lacking = "a feature" if not beside and unasked[row] else None
    given = target, memory, layout.context, verdict, row
    signature, finding = described_answer(*given, observed=observed, lacking=lacking)
    alone = replace(layout, accesses=verdict.accesses.take(slice(row, row + 1)))
    case = replace(layout_case(alone), note=str(signature))
    lines = [
        f"{target.name} is wrong about {int(wrong.sum()):,} of {len(wrong):,} accesses; the first:",
        *finding_lines(finding),
    ]
    if len(case.entries) <= _SHOWN_ENTRIES:
        lines += ["as a case file:", dump_case(case).decode().rstrip()]
    return WrongWalker("\n".join(lines), signature.slug, case)
