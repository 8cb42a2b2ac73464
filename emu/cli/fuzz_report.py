"""The report of a campaign: for people and for machines."""

from collections.abc import Iterator
from typing import Any

import msgspec

from crosswalk.emu.check import differs
from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.state import State, new_cells
from crosswalk.emu.fuzz.coverage import CELLS, coverage_record
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.emu.report.finding import FindingsJson, finding_lines, headline
from crosswalk.emu.report.text import count_text

__all__ = ["record", "report_lines", "verdict"]

_PARTS = ("generate", "predict", "probe", "compare", "peer", "cover", "cross", "confirm")


def report_lines(campaign: Campaign, document: FindingsJson) -> Iterator[str]:
    """Yield the counts, where the time went, and each finding with its walk and its command."""
    yield from _count_lines(campaign)
    for finding in document.findings:
        yield f"{finding.count:,} × {headline(finding)}"
        yield from finding_lines(finding, rule=False)
        size = finding.size or "no case"
        yield f"  {size}, first in layout {finding.layout}: {finding.reproduce}"


def _count_lines(campaign: Campaign) -> Iterator[str]:
    state = campaign.state
    known = sum(state.known.values())
    rate = state.probes / state.seconds if state.seconds else 0
    yield (
        f"{count_text(state.layouts, 'layout')}, {state.probes:,} probes in {state.seconds:.1f} s "
        f"({rate:,.0f} a second): {state.probes - state.divergent - known:,} agree, "
        f"{state.divergent:,} diverge"
    )
    if state.predicted_only:
        yield f"predicted only, as the emulated CPU has none: {_sorted(state.predicted_only)}"
    if state.not_asked:
        yield f"not asked: {_sorted(state.not_asked)}"
    if state.lost:
        lost = count_text(state.lost, "layout")
        yield f"{lost} without a result: the emulator crashed, hung or failed"
    seen, possible = int(campaign.seen.bits.sum()), int(CELLS.possible.sum())
    late, last = new_cells(state)
    ago = "" if last is None else f"; the last new one in layout {last:,}"
    yield (
        f"{seen:,} of {possible:,} cells seen, {seen / possible:.2%}; "
        f"{late:,} new in the last tenth of the layouts{ago}"
    )
    total = sum(state.parts.values())
    if total:
        shares = (
            f"{name} {state.parts[name] / total:.0%}" for name in _PARTS if name in state.parts
        )
        yield f"time of the workers: {', '.join(shares)}"
    for name, count in state.known.items():
        yield f"{count_text(count, 'known emulator divergence')}, {name}: {differs(name)}"
    if campaign.plan.walker is not None:
        wrong = sum(_of_walker(campaign, slug) for slug in state.findings)
        yield (
            f"{campaign.plan.walker}: {wrong} finding{'' if wrong == 1 else 's'}; of "
            f"{state.answered + state.declined:,} accesses asked it answered {state.answered:,}, "
            f"declined {state.declined:,}"
        )


def verdict(state: State) -> tuple[int, str]:
    """Return the exit status of a campaign, and its last word.

    Only what the CPU was asked and answered is agreement; what it lacks, what wasn't asked, and
    under which condition is named with it. 2: nothing was asked.
    """
    known = sum(state.known.values())
    clauses = []
    if known:
        clauses.append(f"known divergences: {known:,}")
    for title, counts in (("predicted only", state.predicted_only), ("not asked", state.not_asked)):
        if counts:
            clauses.append(f"{title}: {_sorted(counts)}")
    if state.copied:
        clauses.append(f"{state.copied:,} under a copy of the root")
    if state.masked:
        clauses.append(f"{state.masked:,} with the encryption mask taken off")
    if state.findings:
        return 1, "FAILED"
    if not state.probes:
        return 2, "; ".join(["nothing asked", *clauses])
    if state.plan["walker"] is not None and not state.answered:
        return 2, "; ".join([f"nothing answered by {state.plan['walker']}", *clauses])
    if state.declined:
        clauses.append(f"{state.plan['walker']} declined {state.declined:,} of its accesses")
    beyond = sum(state.predicted_only.values())
    word = agreement(state.probes - known, state.probes, beyond)
    return 0, "; ".join([word, *clauses])


def _sorted(counts: dict[str, int]) -> str:
    return counted(dict(sorted(counts.items())))


def _of_walker(campaign: Campaign, slug: str) -> bool:
    """Return whether a finding is the walker under test's."""
    return campaign.state.findings[slug].witness == f"peer:{campaign.plan.walker}"


def record(campaign: Campaign, document: FindingsJson) -> dict[str, Any]:
    """Return the summary document."""
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
        "mask_taken_off": state.masked,
        "under_a_copy": state.copied,
        "layouts": state.layouts,
        "lost": state.lost,
        "walker": campaign.plan.walker,
        "asked": state.answered + state.declined,
        "answered": state.answered,
        "declined": state.declined,
        "findings": [
            {
                "id": found.id,
                "signature": found.signature,
                "count": found.count,
                "layout": found.layout,
                "case": found.case,
                "entries": found.entries,
                "reproduce": found.reproduce,
                "cause": found.cause,
                "variants": msgspec.to_builtins(found.variants),
            }
            for found in sorted(document.findings, key=lambda found: found.id)
        ],
        "coverage": coverage_record(campaign.seen),
        "new_cells": {"last_tenth": new_cells(state)[0], "last_layout": new_cells(state)[1]},
        "parts": {name: round(seconds, 3) for name, seconds in sorted(state.parts.items())},
        "seconds": round(state.seconds, 3),
    }
