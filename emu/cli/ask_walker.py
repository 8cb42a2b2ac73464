"""A walker under test, asked about the probes of a case: what it said, beside what is true."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.emu.check import Divergence
from crosswalk.emu.check.compare import choose
from crosswalk.emu.findings.signature import failure_signature, signature_of
from crosswalk.emu.report.text import access_text, outcome_text, size_text, walk_lines
from crosswalk.emu.report.verdict import replayed_case
from crosswalk.emu.targets import Capability, Target
from crosswalk.emu.targets.capabilities import LISTS
from crosswalk.emu.targets.judge import TargetVerdict, judge
from crosswalk.emu.workers.sandbox import NoAnswer
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome, Translation
from crosswalk.walker.translate import walk_access

__all__ = ["Asked", "asked", "asked_case", "asked_lines"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a walker said of the accesses of a case, and beside them; or that it failed.

    `silent` are the rows of which it said nothing.
    """

    target: Target
    verdicts: tuple[TargetVerdict, ...]
    silent: frozenset[int]
    failure: NoAnswer | None = None

    @property
    def wrong(self) -> int:
        """How many answers are wrong; a failure is one."""
        return sum(int(each.wrong.sum()) for each in self.verdicts) + (self.failure is not None)


def asked(
    target: Target,
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    truth: Outcomes,
) -> Asked:
    """Ask a walker about accesses that come to `truth`."""
    try:
        answers = target.answer(memory, context, accesses)
    except NoAnswer as failure:
        return Asked(target, (), frozenset(), failure)
    verdicts = judge(target.claims, answers, memory, context, accesses, truth)
    silent = np.flatnonzero(answers.silent).tolist() if target.claims - LISTS else []
    return Asked(target, verdicts, frozenset(silent))


def asked_case(
    case: Case, told: Asked, truth: Outcomes, observed: Outcomes, lacking: Sequence[bool]
) -> Case:
    """Return the case with what the walker said as predicted.

    Nothing was observed where `lacking`: there what is true was predicted. What it doesn't claim
    is taken from what is true: where it is right, both are equal. There is no prediction where it
    said nothing, or failed.
    """
    one = told.verdicts[0] if told.verdicts else None
    said = truth if one is None else choose(one.wrong, one.reported, truth)
    filled = replayed_case(case, said, observed, lacking)
    probes = tuple(
        replace(probe, predicted=None) if one is None or row in told.silent else probe
        for row, probe in enumerate(filled.probes)
    )
    return replace(filled, probes=probes, walker=told.target.name)


def asked_lines(
    memory: PhysicalMemory,
    context: PagingContext,
    told: Asked,
    predicted: Outcomes,
    observed: Outcomes,
    lacking: Sequence[str | None],
) -> Iterator[str]:
    """Yield a line for each right answer, and for each wrong one what is wrong with it.

    `lacking` is what the emulated CPU lacks for an access, None for one that it made: without it
    what is predicted is taken for the truth.
    """
    name = told.target.name
    if told.failure is not None:
        yield f"failed: {failure_signature(name, told.failure).rule} is due"
        yield f"  walker:    {told.failure.failure.value}: {told.failure}"
    for place, verdict in zip(("", ", beside the probes"), told.verdicts, strict=False):
        wrong = verdict.wrong
        for row in range(len(wrong)):
            access, said = verdict.accesses[row], verdict.reported[row]
            claims = verdict.claims_of(row, told.target.claims)
            lack = None if place else lacking[row]
            if not wrong[row]:
                text = "nothing said" if row in told.silent else _said(claims, said)
                only = f"predicted only: {lack}: " if lack else ""
                yield f"right: {only}{access_text(access)}: {text}"
                continue
            path = walk_access(memory, context, access)
            names = [name for name, column in verdict.fields.items() if column[row]]
            truth = verdict.expected[row]
            divergence = Divergence(access, said, truth, path)
            found = signature_of(context, divergence, names, f"peer:{name}", claims)
            yield f"wrong: {access_text(access)}{place}"
            yield f"  rule:      {found.rule}: says {found.said}, it is {found.truth}"
            yield f"  walker:    {_said(claims, said)}"
            if place:
                yield f"  true:      {_said(claims, truth)}"
            else:
                yield f"  predicted: {outcome_text(predicted[row], may=True)}"
                lack = lacking[row]
                seen = (
                    outcome_text(observed[row]) if lack is None else f"nothing, for want of {lack}"
                )
                yield f"  observed:  {seen}"
            yield from walk_lines(context, path)


def _said(claims: frozenset[Capability], outcome: Outcome) -> str:
    """Return an answer in words, as far as it is claimed."""
    if Capability.FAULTS in claims:
        return outcome_text(outcome, may=Capability.MARKS in claims)
    yes, no = ("allowed", "refused") if Capability.RIGHTS in claims else ("mapped", "not mapped")
    if not isinstance(outcome, Translation):
        return no
    size = outcome.page_size if Capability.LEAVES in claims else None
    page = f", a page of {size_text(size)}" if size else ""
    return f"{yes}, pa {outcome.pa:#x}{page}"
