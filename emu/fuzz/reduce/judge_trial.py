"""Cases tried with a judge: many together, as a machine boots for each time that it is asked."""

from collections.abc import Callable
from collections.abc import Sequence as Seq

from crosswalk.emu.check.judged import Status
from crosswalk.emu.findings.findings import CompositeFinding, Finding
from crosswalk.emu.findings.layout import Layout, case_layout
from crosswalk.emu.findings.signature import Signature, ended_signature
from crosswalk.emu.fuzz.judged import JudgeExecutor, judge_executor_of
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.emu.workers.sandbox import Failure
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import Case
from crosswalk.walker.tlb import Sequence

__all__ = ["JudgeTrial"]

_AT_ONCE = 16


class JudgeTrial:
    """Tries one case after another with a judge, as `Trial` does with the emulated CPU.

    The judge runs in processes of its own, whose death is an answer like another. `hung` counts
    the cases of which it made no end in its time.
    """

    at_once = _AT_ONCE

    def __init__(
        self, judge: str, opened: Callable[[str], JudgeExecutor] = judge_executor_of
    ) -> None:
        self._executor = opened(judge)
        self.hung = 0

    def findings(self, case: Case) -> tuple[Finding, ...]:
        """Return what a case shows, in the order of its accesses.

        `BadInput` for registers of no paging mode; `ProcessLost` where others ended the machine.
        """
        return self._counted(self._executor.findings_many([case_layout(case)])[0])

    def findings_many(self, cases: Seq[Case]) -> list[tuple[Finding, ...] | CrosswalkError]:
        """Return what each case shows, or the error that `findings` raises for it."""
        layouts = [_layout(case) for case in cases]
        good = [each for each in layouts if isinstance(each, Layout)]
        found = iter(self._executor.findings_many(good) if good else ())
        return [
            self._counted(next(found)) if isinstance(each, Layout) else each for each in layouts
        ]

    def composite_findings(self, case: CompositeCase) -> tuple[CompositeFinding, ...]:
        """Return what a composite's case shows."""
        return self._executor.composite_findings(case)

    def composite_signatures(self, case: CompositeCase) -> list[Signature]:
        """Return the signatures of `composite_findings`."""
        return sorted(each.signature for each in self.composite_findings(case))

    def departure(self, sequence: Sequence) -> str | None:
        """Return in words for which causes an access of a sequence departs, None if none does.

        Or that the judge ended at it. A known divergence is none. Raises as `findings` does.
        """
        (found,) = self._executor.sequences_on([sequence])
        if found.status is Status.LOST:
            raise ProcessLost(f"the judge: {found.detail}")
        if found.status is Status.ENDED:
            ended = ended_signature(self._executor.name, "a sequence", found.detail)
            self.hung += ended.said.startswith(Failure.HANG)
            return str(ended)
        if found.status is not Status.DIVERGED or found.judged is None:
            return None
        violation = found.judged.violation
        return None if violation is None else "; ".join(violation.causes)

    def close(self) -> None:
        """End what runs."""
        self._executor.close()

    def _counted(self, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
        self.hung += any(each.signature.said.startswith(Failure.HANG) for each in found)
        return found


def _layout(case: Case) -> Layout | CrosswalkError:
    try:
        return case_layout(case)
    except CrosswalkError as error:
        return error
