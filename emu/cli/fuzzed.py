"""What came of a campaign: for people, for machines, for CI."""

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from emu.check import KNOWN
from emu.cli.walkers import replay_command, size_text
from emu.fuzz.campaign import Campaign
from emu.fuzz.campaign.store import Store
from emu.fuzz.coverage import CELLS, coverage_record
from walker.source import Case, load_case

__all__ = ["junit", "record", "report_lines"]

_PARTS = ("generate", "predict", "probe", "compare", "peer", "cover")


def report_lines(campaign: Campaign, store: Store) -> Iterator[str]:
    """Yield the counts, where the time went, and each finding with its command."""
    state = campaign.state
    known = sum(state.known.values())
    rate = state.probes / state.seconds if state.seconds else 0
    yield (
        f"{state.layouts:,} layouts, {state.probes:,} probes in {state.seconds:.1f} s "
        f"({rate:,.0f} a second): {state.probes - state.divergent - known:,} agree, "
        f"{state.divergent:,} diverge"
    )
    seen, possible = int(campaign.seen.bits.sum()), int(CELLS.possible.sum())
    yield f"{seen:,} of {possible:,} cells seen, {seen / possible:.1%}"
    total = sum(state.parts.values())
    if total:
        shares = (
            f"{name} {state.parts[name] / total:.0%}" for name in _PARTS if name in state.parts
        )
        yield f"time of the workers: {', '.join(shares)}"
    for name, count in state.known.items():
        differs = next(entry.differs for entry in KNOWN if entry.id == name)
        yield f"{count:,} known emulator divergences, {name}: {differs}"
    if campaign.plan.walker is not None:
        wrong = sum(_of_walker(campaign, slug) for slug in state.findings)
        yield f"{campaign.plan.walker}: {wrong} finding{'' if wrong == 1 else 's'}"
    for slug, found in sorted(state.findings.items(), key=lambda item: (-item[1].count, item[0])):
        yield f"{found.count:,} × {_told(campaign, found.signature)}"
        size = size_text(_case(campaign, store, slug))
        yield f"    {size}, first in layout {found.layout}: {_replay(campaign, store, slug)}"


def _case(campaign: Campaign, store: Store, slug: str) -> Case:
    """Return the case of a finding, as small as it has become."""
    case = campaign.cases.get(slug)
    path = store.case_path(slug)
    if case is None and path is not None:
        case = load_case(path)
    if case is None:
        raise AssertionError("a finding of an earlier run is in its store")
    return case


def _of_walker(campaign: Campaign, slug: str) -> bool:
    """Return whether a finding is the walker under test's."""
    return f": peer:{campaign.plan.walker}" in campaign.state.findings[slug].signature


def _told(campaign: Campaign, signature: str) -> str:
    """Return a signature as it is read below the name of the walker under test."""
    name = f" peer:{campaign.plan.walker}"
    return signature.replace(f"{name}:", "").replace(name, "")


def _replay(campaign: Campaign, store: Store, slug: str) -> str:
    """Return the command that shows a finding; the walker under test is asked in its own alone."""
    plan = campaign.plan
    named = (plan.walker, plan.claims) if _of_walker(campaign, slug) else (None, None)
    return replay_command(store.case_path(slug), *named)


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
        "layouts": state.layouts,
        "walker": campaign.plan.walker,
        "findings": [
            {
                "id": slug,
                "signature": found.signature,
                "count": found.count,
                "layout": found.layout,
                "case": str(store.case_path(slug)),
                "entries": len(_case(campaign, store, slug).entries),
                "reproduce": _replay(campaign, store, slug),
            }
            for slug, found in sorted(state.findings.items())
        ],
        "coverage": coverage_record(campaign.seen),
        "parts": {name: round(seconds, 3) for name, seconds in sorted(state.parts.items())},
        "seconds": round(state.seconds, 3),
    }


def junit(campaign: Campaign, store: Store) -> bytes:
    """Return a JUnit report: one case for the campaign, and one that fails for each finding."""
    state = campaign.state
    suite = ET.Element(
        "testsuite",
        name=f"crosswalk fuzz, seed {campaign.plan.seed}",
        tests=str(len(state.findings) + 1),
        failures=str(len(state.findings)),
        time=f"{state.seconds:.3f}",
    )
    ET.SubElement(suite, "testcase", classname="crosswalk.fuzz", name=f"{state.layouts} layouts")
    for slug, found in sorted(state.findings.items()):
        case = ET.SubElement(suite, "testcase", classname="crosswalk.fuzz", name=slug)
        failure = ET.SubElement(case, "failure", message=found.signature)
        failure.text = (
            f"{found.count} times, first in layout {found.layout}; the case has "
            f"{size_text(_case(campaign, store, slug))}: {_replay(campaign, store, slug)}"
        )
    ET.indent(suite)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
