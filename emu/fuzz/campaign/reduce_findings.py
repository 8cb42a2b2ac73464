"""Findings made small, each in its file's place."""

import functools
import time
from collections.abc import Callable

from crosswalk.emu.findings.findings import INTENDED, Caseless, attempted
from crosswalk.emu.findings.signature import CROSSWALK, JUDGE, failed_signature
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.run import Campaign
from crosswalk.emu.fuzz.campaign.store import Store, digest
from crosswalk.emu.fuzz.reduce.interesting import composite_reduced_to, reduced_to, signatures_of
from crosswalk.emu.fuzz.reduce.judge_trial import JudgeTrial
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import CompositeCase, parse_composite
from crosswalk.emu.report.finding import PEER, UNSTEADY
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.formats import dump_case, parse_case

__all__ = ["REDUCIBLE", "SHOWN", "reduce_findings", "trial_of", "unreduced"]

REDUCIBLE = "a case that can be reduced"
SHOWN = "a case that shows its finding alone"
"""What is due where a finding's case can't be reduced, or doesn't show the finding."""


def reduce_findings(
    campaign: Campaign,
    store: Store,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    seconds: float | None = None,
) -> dict[str, str]:
    """Reduce all findings of which no run has done it yet; several at once, in processes.

    Returns, in words, what became of those that aren't small. Some, tried on their own, don't show
    what they were found for: they stay as they were found. That is a finding too, unless it is a
    walker under test that answers differently, and so is what ends a reduction early: each with the
    same case, and the command that tries it. Intentions aside, which no
    case holds. Those whose processes others killed are reduced by the next run.
    The same findings come to the same files whenever this is interrupted and done again. `progress`
    is called with how many are done, and of how many. After so many `seconds` it ends; what is left
    the next run reduces.
    """
    findings = campaign.state.findings
    chosen = unreduced(campaign, store)
    left = {}
    began = time.monotonic()
    reduce = functools.partial(_smaller, campaign.plan)
    cases = ((slug, store.case(slug)) for slug in chosen)
    with Pool(reduce, jobs, sure=1, who="the process that reduces it") as pool:
        for done, ((slug, case), result) in enumerate(in_order(pool, cases), 1):
            failed: list[Caseless] = []
            try:
                smaller = attempted(REDUCIBLE, result, failed)
            except ProcessLost as lost:
                left[slug] = f"not reduced: {lost}; the same command goes on"
                continue
            if smaller is None and not failed:
                findings[slug].alone = False
                if findings[slug].witness.startswith((PEER, JUDGE)):
                    left[slug] = UNSTEADY
                elif findings[slug].witness != INTENDED:
                    left[slug] = "its case alone doesn't show it, and is left as it was found"
                    failed.append(Caseless(failed_signature(SHOWN, findings[slug].signature)))
            for each in failed:
                campaign.keep_unreduced(each, case, findings[slug].layout)
            # First the note, then the file: until that is there, it is as it was found.
            findings[slug].reduced = digest(smaller or case)
            campaign.save()
            if smaller is not None:
                store.keep(slug, smaller)
            if progress is not None:
                progress(done, len(chosen))
            if seconds is not None and time.monotonic() - began > seconds:
                break
    return left


def unreduced(campaign: Campaign, store: Store) -> list[str]:
    """Return the slugs of the findings that can be made small, and that no run has yet."""
    return [
        slug
        for slug, found in sorted(campaign.state.findings.items())
        if found.case
        and found.witness != CROSSWALK
        and (found.reduced is None or found.reduced != digest(store.case(slug)))
    ]


def _smaller(plan: Plan, finding: tuple[str, bytes]) -> bytes | None:
    """Return a finding's case made small, as a file has it; None if it doesn't show the finding.

    In a process whose child tries the cases.
    """
    slug, data = finding
    trial = trial_of(plan)
    try:
        composite = parse_composite(data, slug)
        if composite is not None:
            return _smaller_composite(trial, slug, composite)
        case = parse_case(data, slug)
        same = [found for found in signatures_of(trial, case) if found.slug == slug]
        if not same:
            return None
        return dump_case(reduced_to(trial, case, same[0]).case)
    finally:
        trial.close()


def trial_of(plan: Plan) -> Trial | JudgeTrial:
    """Return who tries the cases of a campaign."""
    if plan.judge is not None:
        return JudgeTrial(plan.judge)
    return Trial(plan.walker, plan.claims, plan.limits)


def _smaller_composite(trial: Trial | JudgeTrial, slug: str, case: CompositeCase) -> bytes | None:
    same = [each for each in trial.composite_signatures(case) if each.slug == slug]
    return composite_reduced_to(trial, case, same[0])[1] if same else None
