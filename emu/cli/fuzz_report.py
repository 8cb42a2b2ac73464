"""The report of a campaign: for people, for machines, for CI."""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from crosswalk.emu.check import differs
from crosswalk.emu.cli.output import command_line
from crosswalk.emu.cli.walker_options import replay_command, size_text, walker_options
from crosswalk.emu.fuzz.campaign import Campaign
from crosswalk.emu.fuzz.campaign.state import State, new_cells
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.coverage import CELLS, coverage_record
from crosswalk.emu.report.composites import parse_composite
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.emu.report.text import count_text
from crosswalk.walker.formats import parse_case
from crosswalk.walker.formats.located_errors import printable

__all__ = ["junit", "record", "report_lines", "reproduce", "verdict"]

_CLASS = "crosswalk.fuzz"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PARTS = ("generate", "predict", "probe", "compare", "peer", "cover", "cross", "confirm")


def report_lines(campaign: Campaign, store: Store) -> Iterator[str]:
    """Yield the counts, where the time went, and each finding with its command."""
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
    for slug, found in sorted(state.findings.items(), key=lambda item: (-item[1].count, item[0])):
        yield f"{found.count:,} × {_short(campaign, found.signature)}"
        _, size = _size(campaign, store, slug)
        yield f"    {size}, first in layout {found.layout}: {reproduce(campaign, store, slug)}"


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


def _size(campaign: Campaign, store: Store, slug: str) -> tuple[int | None, str]:
    """Return how many entries the case of a finding has by now, and in words how big it is."""
    if not campaign.state.findings[slug].case:
        return None, "no case"
    data = store.case(slug)
    composite = parse_composite(data, slug)
    if composite is None:
        case = parse_case(data, slug)
        return len(case.entries), size_text(case)
    count = len(composite.case.entries)
    return count, f"{count:,} {'entry' if count == 1 else 'entries'}, 1 composite"


def _of_walker(campaign: Campaign, slug: str) -> bool:
    """Return whether a finding is the walker under test's."""
    return campaign.state.findings[slug].witness == f"peer:{campaign.plan.walker}"


def _short(campaign: Campaign, signature: str) -> str:
    """Return a signature as it is read below the name of the walker under test."""
    name = f" peer:{campaign.plan.walker}"
    return printable(signature.replace(f"{name}:", "").replace(name, ""))


def reproduce(campaign: Campaign, store: Store, slug: str) -> str:
    """Return the command that shows a finding again.

    That replays its case, and asks the walker under test in a finding of its own alone; or tries
    to reduce it. What no case holds is shown by making the layouts again, up to that one.
    """
    plan, found = campaign.plan, campaign.state.findings[slug]
    if found.again == "replay":
        named = (plan.walker, plan.claims) if _of_walker(campaign, slug) else (None, None)
        return replay_command(store.case_path(slug), *named)
    if found.again == "reduce":
        words = walker_options(plan.walker, plan.claims)
        return command_line(["crosswalk", "reduce", str(store.case_path(slug)), *words])
    return command_line(
        [
            *("crosswalk", "fuzz", "--seed", str(plan.seed), "--cases", str(found.layout + 1)),
            *("--accesses", str(plan.accesses), *([] if plan.guided else ["--blind"])),
            *([] if plan.source is None else ["--from", plan.source]),
            *walker_options(plan.walker, plan.claims),
            *("--corpus", f"{slug}-again"),
        ]
    )


def record(campaign: Campaign, store: Store) -> dict[str, Any]:
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
                "id": slug,
                "signature": found.signature,
                "count": found.count,
                "layout": found.layout,
                "case": str(store.case_path(slug)) if found.case else None,
                "entries": _size(campaign, store, slug)[0],
                "reproduce": reproduce(campaign, store, slug),
            }
            for slug, found in sorted(state.findings.items())
        ],
        "coverage": coverage_record(campaign.seen),
        "new_cells": {"last_tenth": new_cells(state)[0], "last_layout": new_cells(state)[1]},
        "parts": {name: round(seconds, 3) for name, seconds in sorted(state.parts.items())},
        "seconds": round(state.seconds, 3),
    }


def junit(campaign: Campaign, store: Store) -> bytes:
    """Return a JUnit report: one case for the campaign, and one that fails for each finding.

    What fails says with which command to see it again.
    """
    state = campaign.state
    suite = ET.Element(
        "testsuite",
        name=f"crosswalk fuzz, seed {campaign.plan.seed}",
        tests=str(len(state.findings) + 1),
        failures=str(len(state.findings)),
        errors="0",
        skipped="0",
        time=f"{state.seconds:.3f}",
    )
    ET.SubElement(suite, "testcase", classname=_CLASS, name=f"{state.layouts} layouts")
    for slug, found in sorted(state.findings.items()):
        case = ET.SubElement(suite, "testcase", classname=_CLASS, name=slug)
        failure = ET.SubElement(case, "failure", type="finding", message=_clean(found.signature))
        failure.text = _clean(
            f"{count_text(found.count, 'time')}, first in layout {found.layout}: "
            f"{_size(campaign, store, slug)[1]}\nreproduce: {reproduce(campaign, store, slug)}"
        )
    ET.indent(suite)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _clean(text: str) -> str:
    """Return text without what XML can't hold: a walker's name may be anything."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
