"""Findings made small, each in its file's place."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

from crosswalk.emu.findings.caseless import Caseless, attempted
from crosswalk.emu.findings.findings import INTENDED
from crosswalk.emu.findings.signature import CROSSWALK, failed_signature
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.run import Campaign
from crosswalk.emu.fuzz.campaign.store import Store, digest
from crosswalk.emu.fuzz.reduce.interesting import composite_reduced_to, reduced_to, signatures_of
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composite_case import CompositeCase, parse_composite
from crosswalk.walker.formats import dump_case, parse_case

__all__ = ["REDUCIBLE", "SHOWN", "reduce_findings"]

REDUCIBLE = "a case that can be reduced"
SHOWN = "a case that shows its finding alone"
"""What is due where a finding's case can't be reduced, or doesn't show the finding."""


def reduce_findings(
    campaign: Campaign,
    store: Store,
    jobs: int = 1,
    told: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Reduce all findings of which no run has done it yet; several at once, in processes.

    Returns the slugs of those that, tried on their own, don't show what they were found for: they
    stay as they were found. That is a finding too, and so is what ends a reduction early: each
    with the same case, and the command that tries it. Intentions aside, which no case holds. The
    same findings come to the same files whenever this is interrupted and done again. `told` is
    called with how many are done, and of how many.
    """
    findings = campaign.state.findings
    chosen = [
        slug
        for slug, found in sorted(findings.items())
        if found.case
        and found.witness != CROSSWALK
        and (found.reduced is None or found.reduced != digest(store.case(slug)))
    ]
    alone = []
    with _reductions(campaign.plan, store, chosen, jobs) as reductions:
        for done, (slug, future) in enumerate(reductions, 1):
            case = store.case(slug)
            failed: list[Caseless] = []
            smaller = attempted(REDUCIBLE, future.result, failed)
            if smaller is None and not failed:
                alone.append(slug)
                if findings[slug].witness != INTENDED:
                    failed.append(Caseless(failed_signature(SHOWN, findings[slug].signature)))
            for each in failed:
                campaign.keep_unreduced(each, case, findings[slug].layout)
            # First the note, then the file: until that is there, it is as it was found.
            findings[slug].reduced = digest(smaller or case)
            campaign.save()
            if smaller is not None:
                store.keep(slug, smaller)
            if told is not None:
                told(done, len(chosen))
    return alone


@contextmanager
def _reductions(
    plan: Plan, store: Store, chosen: list[str], jobs: int
) -> Iterator[list[tuple[str, "Future[bytes | None]"]]]:
    """Yield the reductions, in order, while threads wait for the processes that try cases."""
    trials: list[Trial] = []
    lock = Lock()
    closed = False

    def reduce(slug: str) -> bytes | None:
        with lock:
            if closed:
                return None
            trial = Trial(plan.walker, plan.claims, plan.limits)
            trials.append(trial)
        try:
            return _smaller(trial, slug, store.case(slug))
        finally:
            trial.close()

    with ThreadPoolExecutor(jobs) as threads:
        try:
            yield [(slug, threads.submit(reduce, slug)) for slug in chosen]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            with lock:
                closed = True
                for trial in trials:
                    trial.close()


def _smaller(trial: Trial, slug: str, data: bytes) -> bytes | None:
    """Return the case made small, as a file has it; None if it doesn't show what it should."""
    composite = parse_composite(data, slug)
    if composite is not None:
        return _smaller_composite(trial, slug, composite)
    case = parse_case(data, slug)
    same = [found for found in signatures_of(trial, case) if found.slug == slug]
    if not same:
        return None
    return dump_case(replace(reduced_to(trial, case, same[0]).case, note=case.note))


def _smaller_composite(trial: Trial, slug: str, case: CompositeCase) -> bytes | None:
    same = [each for each in trial.composite_signatures(case) if each.slug == slug]
    return composite_reduced_to(trial, case, same[0])[1] if same else None
