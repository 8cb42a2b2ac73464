"""What a planted bug's finding shrinks to."""

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.interesting import reduced_to
from crosswalk.walker.formats import Case
from scripts.hunting.search import Bug, Found

__all__ = ["shrunk"]


def shrunk(bug: Bug, plan: Plan, found: Found) -> Case:
    """Return the first finding of the layout that showed the bug, reduced."""
    executor = Executor(predict=bug.predict)
    findings = executor.findings(plan.layout(found.layouts - 1, found.seen)).all()
    return reduced_to(executor, findings[0].case, findings[0].signature).case
