"""Cases tried in a process of their own, whose death is an answer like another."""

import functools
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, TypeVar

from crosswalk.emu.check.sequences import judge
from crosswalk.emu.findings.findings import CompositeFinding, Finding
from crosswalk.emu.findings.layout import Layout, case_layout
from crosswalk.emu.findings.signature import Signature, lost_signature
from crosswalk.emu.fuzz.executor import executor_of
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.sequences import Runner
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.emu.workers.sandbox import Failure, Limits
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import Case
from crosswalk.walker.tlb import Sequence

__all__ = ["HANGING", "Trial"]

_T = TypeVar("_T")

HANGING = 10.0
"""Seconds after which a case counts as hanging; one of a single access takes milliseconds."""


class Trial:
    """Tries one case after another, with the walker under test that `walker` and `claims` name.

    `hung` counts those of which the emulator made no end in `seconds`, or that walker in its own
    time: to load, and to answer. All of its methods raise `ProcessLost` where others go on to kill
    the process.
    """

    def __init__(
        self,
        walker: str | None = None,
        claims: str | None = None,
        limits: Limits | None = None,
        seconds: float = HANGING,
    ) -> None:
        self._walker, self._claims, self._limits = walker, claims, limits
        seconds += 0.0 if walker is None or limits is None else limits.longest
        self._pool = Pool(_call, seconds=seconds, sure=1, who="the process that tries cases")
        self.hung = 0

    def findings(self, case: Case) -> tuple[Finding, ...]:
        """Return what a case shows, in the order of its accesses.

        `BadInput` for one whose registers aren't those of 4- or 5-level paging.
        """
        found = self._try(_findings, case, self._walker, self._claims, self._limits)
        if isinstance(found, Signature):
            found = _lost(case, found)
        self.hung += any(_hangs(each.signature) for each in found)
        return found

    def findings_many(self, cases: Seq[Case]) -> list[tuple[Finding, ...] | CrosswalkError]:
        """Return what each case shows, or the error that `findings` raises for it.

        They are tried together, in a fraction of the time, and what diverges isn't made again
        alone; one after the other where one of them ends the process, or takes too long.
        """
        found = self._try(_findings_many, cases, self._walker, self._claims, self._limits)
        if isinstance(found, Signature):
            return [self._or_error(case) for case in cases]
        for each in found:
            if not isinstance(each, CrosswalkError):
                self.hung += any(_hangs(one.signature) for one in each)
        return found

    def _or_error(self, case: Case) -> tuple[Finding, ...] | CrosswalkError:
        try:
            return self.findings(case)
        except ProcessLost:
            raise
        except CrosswalkError as error:
            return error

    def composite_findings(self, case: CompositeCase) -> tuple[CompositeFinding, ...]:
        """Return what a composite's case shows: nothing where the emulator gave no outcome.

        Raises as `findings` does; no walker under test is asked.
        """
        found = self._try(_composite_findings, case)
        return () if isinstance(found, Signature) else found

    def composite_signatures(self, case: CompositeCase) -> list[Signature]:
        """Return the signatures of `composite_findings`, or that of an emulator without outcome."""
        found = self._try(_composite_findings, case)
        if isinstance(found, Signature):
            self.hung += _hangs(found)
            return [found]
        return sorted(each.signature for each in found)

    def departure(self, sequence: Sequence) -> str | None:
        """Return in words for which causes an access of a sequence departs, None if none does.

        Or that the emulator gave no outcome. Raises as `findings` does.
        """
        found = self._try(_departure, sequence)
        if isinstance(found, Signature):
            self.hung += _hangs(found)
            return str(found)
        return found

    def signatures(self, case: Case) -> list[Signature]:
        """Return the signatures of `findings`, in their own order."""
        return sorted(each.signature for each in self.findings(case))

    def _try(self, function: Callable[..., _T], *arguments: object) -> _T | Signature:
        """Return what a function returns in the process; if that ends, or hangs, a signature."""
        try:
            result: _T = self._pool.submit((function, arguments))()
        except ProcessEnded as ended:
            return lost_signature(ended.how)
        return result

    def close(self) -> None:
        """Stop at once."""
        self._pool.close()


def _call(question: tuple[Callable[..., object], tuple[object, ...]]) -> Any:
    function, arguments = question
    return function(*arguments)


def _findings(
    case: Case, walker: str | None, claims: str | None, limits: Limits | None
) -> tuple[Finding, ...]:
    executor = executor_of(walker, claims, limits)
    try:
        return executor.findings(case_layout(case)).all()
    except ProbeError as error:
        executor.forget()  # Engines that did this are not to be trusted again.
        return _lost(case, lost_signature("error", str(error)))


def _findings_many(
    cases: Seq[Case], walker: str | None, claims: str | None, limits: Limits | None
) -> list[tuple[Finding, ...] | CrosswalkError]:
    executor = executor_of(walker, claims, limits)
    layouts: list[Layout | CrosswalkError] = [_layout(case) for case in cases]
    found = iter(
        executor.findings_many(
            [each for each in layouts if not isinstance(each, CrosswalkError)], confirmed=False
        )
    )
    said: list[tuple[Finding, ...] | CrosswalkError] = []
    for case, layout in zip(cases, layouts, strict=True):
        each = layout if isinstance(layout, CrosswalkError) else next(found)
        if isinstance(each, ProbeError):
            executor.forget()  # Engines that did this are not to be trusted again.
            said.append(_lost(case, lost_signature("error", str(each))))
        else:
            said.append(each if isinstance(each, CrosswalkError) else each.all())
    return said


def _layout(case: Case) -> Layout | CrosswalkError:
    try:
        return case_layout(case)
    except CrosswalkError as error:
        return error


def _composite_findings(case: CompositeCase) -> tuple[CompositeFinding, ...] | Signature:
    executor = executor_of(None, None, None)
    try:
        return executor.composite_findings(case)
    except ProbeError as error:
        executor.forget()  # Engines that did this are not to be trusted again.
        return lost_signature("error", str(error))


@functools.cache
def _runner() -> Runner:
    return Runner()


def _departure(sequence: Sequence) -> str | Signature | None:
    try:
        observed = _runner().run(sequence)
    except ProbeError as error:
        _runner.cache_clear()
        return lost_signature("error", str(error))
    violation = judge(sequence, observed).violation
    return None if violation is None else "; ".join(violation.causes)


def _lost(case: Case, signature: Signature) -> tuple[Finding, ...]:
    return (Finding(signature, 1, 0, case, case),)


def _hangs(signature: Signature) -> bool:
    return signature.said.startswith(Failure.HANG)
