"""Findings of earlier runs, asked again: the walker may have been mended since."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from crosswalk.emu.findings.findings import INTENDED, Caseless, attempted
from crosswalk.emu.findings.signature import CROSSWALK
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.reduce_findings import trial_of
from crosswalk.emu.fuzz.campaign.run import Campaign
from crosswalk.emu.fuzz.campaign.state import Found
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.reduce.interesting import signatures_of
from crosswalk.emu.fuzz.reduce.judge_trial import JudgeTrial
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import parse_composite
from crosswalk.emu.workers.pool import Pool, in_order
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import Case, parse_case

__all__ = ["Again", "ask_again"]

_AT_ONCE = 32  # Cases that a process tries together.

_Case = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Again:
    """What became of the findings of earlier runs, by their slugs.

    `gone` are no longer shown, `dropped` can't be shown by a case alone: they are found again by
    the layouts, if they are still there. `failed` are those that couldn't be asked, and why.
    """

    asked: int
    gone: tuple[str, ...]
    dropped: tuple[str, ...]
    failed: Mapping[str, str]


def ask_again(
    campaign: Campaign,
    store: Store,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Again:
    """Ask the kept findings again, and forget those that the walker doesn't show any more.

    Where the walker or Crosswalk has changed, the layouts begin anew: they weren't put to this one.
    That is so, too, where a finding is gone: something that the walker loads has changed.
    """
    findings = campaign.state.findings
    cases = [
        (slug, store.case(slug)) for slug, found in sorted(findings.items()) if _can_be_asked(found)
    ]
    chunks = [cases[at : at + _AT_ONCE] for at in range(0, len(cases), _AT_ONCE)]
    answers: dict[str, str | None] = {}
    ask = functools.partial(_not_shown, campaign.plan)
    with Pool(ask, jobs, who="the process that asks") as pool:
        for done, (chunk, result) in enumerate(in_order(pool, chunks), 1):
            try:
                answers |= result()
            except (ProcessEnded, ProcessLost) as ended:
                answers |= dict.fromkeys((slug for slug, _ in chunk), str(ended))
            if progress is not None:
                progress(min(done * _AT_ONCE, len(cases)), len(cases))
    failed = {slug: why for slug, why in answers.items() if why is not None}
    gone = [slug for slug in answers if slug not in failed]
    anew = bool(campaign.changed or gone)
    asked = {slug for slug, _ in cases}
    dropped = [slug for slug in findings if slug not in asked] if anew else []
    campaign.forget(gone, dropped, anew=anew)
    return Again(len(cases), tuple(gone), tuple(dropped), failed)


def _can_be_asked(found: Found) -> bool:
    """Return whether a finding's case can show it: intentions and Crosswalk's own errors can't."""
    return found.case and found.alone and found.witness not in {INTENDED, CROSSWALK}


def _not_shown(plan: Plan, cases: Sequence[_Case]) -> dict[str, str | None]:
    """Return which of these findings the walker doesn't show any more, in a child of its own.

    Each with None, or with the error for which it couldn't be asked.
    """
    answers: dict[str, str | None] = {}
    trial = trial_of(plan)
    try:
        shown_together = _shown_together(trial, cases)
        for slug, data in cases:
            if slug in shown_together:
                continue
            failed: list[Caseless] = []
            shown = attempted("asked again", functools.partial(_shows, trial, slug, data), failed)
            if not shown:
                answers[slug] = failed[0].signature.said if failed else None
    finally:
        trial.close()
    return answers


def _shown_together(trial: Trial | JudgeTrial, cases: Sequence[_Case]) -> set[str]:
    """Return which findings are shown where their cases are tried together; composites aren't."""
    plain: dict[str, Case] = {}
    for slug, data in cases:
        # What is wrong with a file is said when it is tried alone.
        with suppress(CrosswalkError):
            if parse_composite(data, slug) is None:
                plain[slug] = parse_case(data, slug)
    return {
        slug
        for slug, found in zip(plain, trial.findings_many(list(plain.values())), strict=True)
        if not isinstance(found, CrosswalkError)
        and any(each.signature.slug == slug for each in found)
    }


def _shows(trial: Trial | JudgeTrial, slug: str, data: bytes) -> bool:
    composite = parse_composite(data, slug)
    if composite is not None:
        found = trial.composite_signatures(composite)
    else:
        found = signatures_of(trial, parse_case(data, slug))
    return any(each.slug == slug for each in found)
