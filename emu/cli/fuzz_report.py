"""The report of a campaign: for people and for machines."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosswalk.emu.cli.campaign_findings import unjudged_lines, wrong_answers
from crosswalk.emu.cli.walker_report import finding_records, question_lines, wrong_text
from crosswalk.emu.findings.baseline import Accepted
from crosswalk.emu.findings.cause import joined
from crosswalk.emu.findings.note import signature_in
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.state import State, new_cells
from crosswalk.emu.fuzz.coverage import CELLS, coverage_record
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.emu.report.finding import FindingsJson, search_lines
from crosswalk.emu.report.text import count_text
from crosswalk.emu.targets.tally import by_mode
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats.located_errors import printable

__all__ = ["Ended", "gone_lines", "record", "report_lines", "verdict"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A run of a campaign that is over.

    `document` has the findings that fail, `accepted` says which don't. `gone` are those of earlier
    runs that the walker doesn't show any more, with their cases. `unreduced` counts findings that
    are still to be made small. `modes` are those that the walker under test states.
    """

    campaign: Campaign
    document: FindingsJson
    accepted: Accepted
    gone: tuple[tuple[str, Path | None], ...] = ()
    unreduced: int = 0
    modes: frozenset[PagingMode] | None = None
    interrupted: bool = False


def report_lines(ended: Ended) -> Iterator[str]:
    """Yield the counts, and each finding with its walk and its command."""
    yield from _count_lines(ended.campaign)
    yield from _walker_lines(ended)
    yield from gone_lines(ended)
    yield from ended.accepted.lines()
    yield from search_lines(ended.document)
    if ended.unreduced:
        count = count_text(ended.unreduced, "finding")
        yield f"{count} not made small yet: the same command goes on"


def gone_lines(ended: Ended) -> Iterator[str]:
    """Yield the causes of earlier findings that the walker doesn't show any more."""
    state, walker = ended.campaign.state, ended.campaign.plan.walker

    def signature(slug: str) -> Signature:
        return signature_in(state.gone[slug], walker) or Signature("", state.gone[slug], "", "")

    paths = dict(ended.gone)
    for cause, slugs in joined(paths, signature):
        path = paths[slugs[0]]
        cases = "its case is" if len(slugs) == 1 else f"{len(slugs)} cases are"
        yield f"gone: {printable(str(cause))}" + (f"; {cases} in {path.parent}" if path else "")


def _count_lines(campaign: Campaign) -> Iterator[str]:
    state = campaign.state
    known, wrong = sum(state.known.values()), wrong_answers(campaign.plan, state)
    rate = state.probes / state.seconds if state.seconds else 0
    yield (
        f"{count_text(state.layouts, 'layout')}, {state.probes:,} probes in {state.seconds:.1f} s "
        f"({rate:,.0f} a second): {state.probes - state.divergent - known:,} agree, "
        f"{state.divergent - wrong:,} diverge{wrong_text(campaign.plan.walker, wrong)}"
    )
    if state.predicted_only:
        yield f"predicted only, as the emulated CPU has none: {_sorted(state.predicted_only)}"
    if state.not_asked:
        yield f"not asked: {_sorted(state.not_asked)}"
    judge = campaign.plan.judge
    if judge is not None:
        yield f"judge {printable(judge)}: {printable(state.made_of['judge'])}"
        yield from unjudged_lines(state)
    if state.lost:
        lost = count_text(state.lost, "layout")
        yield f"{lost} without a result: the emulator crashed, hung or failed"
    seen, possible = int(campaign.seen.bits.sum()), int(CELLS.possible.sum())
    late, last = new_cells(state)
    ago = "" if last is None else f"; the last new one in layout {last:,}"
    yield (
        f"{seen:,} of {possible:,} cells of 4- and 5-level paging seen, {seen / possible:.2%}; "
        f"{late:,} new in the last tenth of the layouts{ago}"
    )
    if state.known:
        count = count_text(known, f"known {_machine(campaign)} divergence")
        yield f"{count}, each of one departure or several: {_sorted(_single(state.known))}"


def _walker_lines(ended: Ended) -> Iterator[str]:
    """Yield what the walker under test was asked and answered, and where it wasn't asked."""
    walker, tally = ended.campaign.plan.walker, ended.campaign.tally
    if walker is None:
        return
    yield from question_lines(walker, tally)
    unasked = [mode for mode in PagingMode if not tally.asked[mode, None]]
    chosen = ended.campaign.plan.choice.asked_modes
    if chosen:
        left_out = ", ".join(mode.slug for mode in unasked if mode not in chosen)
        if left_out:
            yield f"    not asked in {left_out}: left out by --mode or --select"
        unasked = [mode for mode in unasked if mode in chosen]
    if ended.modes is None and not chosen:
        legacy = [mode.slug for mode in unasked if not mode.long]
        if legacy:
            yield (
                f"    not asked in {', '.join(legacy)}: it states no modes; "
                f"--mode {','.join(legacy)} asks"
            )
    elif ended.modes is not None:
        names = ", ".join(mode.slug for mode in unasked if mode not in ended.modes)
        if names:
            yield f"    not asked in {names}: it doesn't state them"


def verdict(ended: Ended) -> tuple[int, str]:
    """Return the exit status of a campaign, and its last word.

    Only what the CPU was asked and answered is agreement; what it lacks, what wasn't asked, and
    under which condition is named with it. 2: nothing was asked, of anybody or of the walker under
    test, or one of its claims was never answered.
    """
    state, tally = ended.campaign.state, ended.campaign.tally
    clauses = list(_conditions(state))
    if ended.document.findings:
        return 1, "FAILED"
    if not state.probes:
        return 2, "; ".join(["nothing asked", *clauses])
    walker = ended.campaign.plan.walker
    if tally.unanswered:
        return 2, "; ".join([tally.verdict, *clauses])
    if walker is not None and not tally.asked:
        return 2, "; ".join([f"nothing asked of {walker}", *clauses])
    declined = by_mode(tally.declined).total()
    if declined:
        clauses.append(f"{walker} declined {declined:,} of its accesses")
    known, beyond = sum(state.known.values()), sum(state.predicted_only.values())
    good = state.probes - state.divergent - known
    word = agreement(good, state.probes, beyond, state.divergent)
    if ended.accepted.count:
        clauses.append(f"{count_text(ended.accepted.count, 'finding')} accepted")
    return 0, "; ".join([word, *clauses])


def _conditions(state: State) -> Iterator[str]:
    """Yield what isn't agreement, and under which conditions the rest is."""
    known = sum(state.known.values())
    if known:
        yield f"known divergences: {known:,}"
    for title, counts in (
        ("predicted only", state.predicted_only),
        ("not asked", state.not_asked),
        ("not shown", state.not_shown),
        ("not exportable", state.not_exportable),
    ):
        if counts:
            yield f"{title}: {_sorted(counts)}"
    if state.unproved:
        yield f"{state.unproved:,} without the address reached"
    if state.copied:
        yield f"{state.copied:,} under a copy of the root"
    if state.masked:
        yield f"{state.masked:,} with the encryption mask taken off"


def _machine(campaign: Campaign) -> str:
    """Return who it is that departs from the manuals."""
    return "emulator" if campaign.plan.judge is None else "judge"


def _single(known: dict[str, int]) -> Counter[str]:
    """Return how many known divergences each departure has a part in."""
    found: Counter[str] = Counter()
    for names, count in known.items():
        found.update(dict.fromkeys(names.split("+"), count))
    return found


def _sorted(counts: dict[str, int]) -> str:
    return counted(dict(sorted(counts.items())))


def record(ended: Ended) -> dict[str, Any]:
    """Return the summary document."""
    campaign, document = ended.campaign, ended.document
    state = campaign.state
    known = sum(state.known.values())
    return {
        "probes": state.probes,
        "agreements": state.probes - state.divergent - known,
        "divergences": state.divergent,
        "known_divergences": known,
        "known": state.known,
        "predicted_only": state.predicted_only,
        "not_asked": state.not_asked,
        "judge": campaign.plan.judge,
        "judge_version": state.made_of.get("judge"),
        "judged": 0 if campaign.plan.judge is None else state.probes,
        "not_shown": state.not_shown,
        "not_exportable": state.not_exportable,
        "unproved": state.unproved,
        "mask_taken_off": state.masked,
        "under_a_copy": state.copied,
        "layouts": state.layouts,
        "lost": state.lost,
        "walker": campaign.plan.walker,
        **campaign.tally.record(),
        "wrong_answers": wrong_answers(campaign.plan, state),
        "findings": finding_records(document),
        "accepted": ended.accepted.record(),
        "gone": [
            {"id": slug, "signature": state.gone[slug], "case": path and str(path)}
            for slug, path in ended.gone
        ],
        "unreduced": ended.unreduced,
        "interrupted": ended.interrupted,
        "coverage": coverage_record(campaign.seen),
        "new_cells": {"last_tenth": new_cells(state)[0], "last_layout": new_cells(state)[1]},
        "parts": {name: round(seconds, 3) for name, seconds in sorted(state.parts.items())},
        "seconds": round(state.seconds, 3),
    }
