"""Verdicts and divergences of a check, as lines of text, as JSON records and as cases."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from crosswalk.emu.check import Divergence, Verdict, differs
from crosswalk.emu.check.compare import agreements
from crosswalk.emu.check.listing import ListingDivergence
from crosswalk.emu.check.nested import NestedDivergence
from crosswalk.emu.cpu.delivery import mnemonic
from crosswalk.emu.probe import LACKS
from crosswalk.emu.report.conclusion import Extent
from crosswalk.emu.report.ept import ept_context_text
from crosswalk.emu.report.nested import nested_outcome_text, nested_walk_lines
from crosswalk.emu.report.source import unfollowed_record
from crosswalk.emu.report.text import (
    access_text,
    context_text,
    count_text,
    mapping_text,
    outcome_text,
    walk_lines,
)
from crosswalk.emu.targets.answers import Unplaced
from crosswalk.guest.status import Taken
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested import EptContext, NestedContext, walk_nested
from crosswalk.walker.outcome import PageFault

__all__ = [
    "divergence_case",
    "divergence_lines",
    "exceptions_record",
    "exceptions_text",
    "listing_case",
    "listing_lines",
    "nested_divergence_lines",
    "replayed_case",
    "summary_record",
    "verdict_lines",
]

_OUTCOMES = {
    Kind.OK: "ok",
    Kind.PAGE_FAULT: "#PF",
    Kind.GENERAL_PROTECTION: "#GP",
}


def exceptions_text(taken: Sequence[Taken]) -> str:
    """Return what a guest's handlers took in one line."""
    counts = Counter(mnemonic(each.vector) for each in taken)
    kinds = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    users = sum(each.cs & 3 == 3 for each in taken)
    return (
        f"its handlers took {len(taken):,} exceptions as intended ({kinds}), {users:,} from CPL 3"
    )


def verdict_lines(verdict: Verdict, wrong: str = "") -> Iterator[str]:
    """Yield the verdict: counts by place, access, privilege and outcome, then the sum.

    `wrong` stands behind the sum: how many answers of a walker under test are wrong.
    """
    yield f"{'':<24}{'CPL 0':^26}{'CPL 3':^26}".rstrip()
    heads = "".join(f"{_OUTCOMES[kind]:>8}" for kind in Kind)
    yield f"{'':<24}{heads}  {heads}"
    for place in sorted({place for place, *_ in verdict.counts}):
        for kind in AccessType:
            cells = [
                "".join(
                    f"{verdict.counts.get((place, kind, cpl, outcome), 0) or '·':>8}"
                    for outcome in Kind
                )
                for cpl in (0, 3)
            ]
            title = place.title if kind is AccessType.READ else ""
            yield f"{title:<15}{kind.name.lower():>8} {cells[0]}  {cells[1]}"
    rate = verdict.probes / verdict.seconds if verdict.seconds else 0
    yield ""
    yield (
        f"{verdict.probes:,} probes in {verdict.seconds:.1f} s ({rate:,.0f} a second): "
        f"{verdict.agreements:,} agree, {verdict.divergent:,} diverge{wrong}"
    )
    for known, count in verdict.known.items():
        yield f"{count_text(count, 'known emulator divergence')}, {known}: {differs(known)}"
    for root, count in verdict.copied.items():
        yield f"{count:,} under a {root}"
    for name, count in verdict.predicted_only.items():
        yield f"{count:,} predicted only, {name}: the emulated CPU has no {LACKS[name]}"
    for reason, count in verdict.not_asked.items():
        yield f"{count:,} not asked: {reason}"


def divergence_lines(divergence: Divergence, context: PagingContext) -> Iterator[str]:
    """Yield a divergence with its walk."""
    yield f"divergence: {access_text(divergence.access)}"
    yield f"  predicted: {outcome_text(divergence.predicted, may=True)}"
    yield f"  observed:  {outcome_text(divergence.observed)}"
    yield from walk_lines(context, divergence.walk)


def nested_divergence_lines(
    memory: PhysicalMemory, context: NestedContext, divergence: NestedDivergence
) -> Iterator[str]:
    """Yield a divergence with its walk, and by which known departures it is explained, if it is."""
    known = f"known divergence, {', '.join(divergence.known)}" if divergence.known else "divergence"
    yield f"{known}: {access_text(divergence.access)}"
    yield f"  guest: {context_text(context.guest)}"
    yield f"  host:  {_host_text(context)}"
    for number, outcome in enumerate(divergence.predicted):
        yield f"  {'or:' if number else 'predicted:'} {nested_outcome_text(outcome, may=True)}"
    yield f"  observed:  {nested_outcome_text(divergence.observed)}"
    for number, outcome in enumerate(divergence.manual):
        yield f"  {'or:' if number else 'by the manual:'} {nested_outcome_text(outcome)}"
    yield from nested_walk_lines(context, walk_nested(memory, context, divergence.access.va))


def _host_text(context: NestedContext) -> str:
    host = context.host
    return ept_context_text(host) if isinstance(host, EptContext) else context_text(host)


def listing_lines(unlike: ListingDivergence, context: PagingContext) -> Iterator[str]:
    """Yield a divergence from the walk's list, with the walk of its address."""
    listed = "no page here" if unlike.listed is None else mapping_text(unlike.listed)
    yield f"divergence of the list: {access_text(unlike.access)}"
    yield f"  listed:    {listed}"
    yield f"  observed:  {outcome_text(unlike.observed)}"
    yield from walk_lines(context, unlike.walk)


def summary_record(verdict: Verdict, extent: Extent) -> dict[str, Any]:
    """Return a verdict as `run --json` and `check --json` print it."""
    return {
        "probes": verdict.probes,
        "agreements": verdict.agreements,
        "divergences": verdict.divergent,
        "known_divergences": sum(verdict.known.values()),
        "known": verdict.known,
        "predicted_only": verdict.predicted_only,
        "not_asked": verdict.not_asked | extent.not_asked,
        "under": verdict.roots,
        "mappings": extent.mappings,
        "unfollowed": unfollowed_record(extent.unfollowed),
        "assumed": list(extent.assumed),
        "seconds": round(verdict.seconds, 3),
    }


def exceptions_record(taken: Iterable[Taken]) -> dict[str, int]:
    """Return how many exceptions of each name a guest's handlers took, as `run --json` has it."""
    return dict(Counter(mnemonic(each.vector) for each in taken))


def replayed_case(
    case: Case, predicted: Outcomes, observed: Outcomes, lacking: Sequence[bool] = ()
) -> Case:
    """Return the case with both outcomes filled in for every probe.

    Those that `lacking` marks were predicted only, and have no observed outcome. Where a walk that
    faults may or may not set A bits, and what was observed is allowed, the prediction is given the
    choice that was observed; else it is given with none.
    """
    agrees = agreements(predicted, observed).tolist()
    unseen = lacking or [False] * len(agrees)
    probes = []
    for at, probe in enumerate(case.probes):
        seen = observed[at]
        said = predicted[at]
        if isinstance(said, PageFault):
            chosen = seen.entries if agrees[at] and not unseen[at] else ()
            said = PageFault(said.error_code, said.cr2, chosen)
        filled = Probe.of(probe.asked, said, None if unseen[at] else seen)
        probes.append(replace(filled, judged=probe.judged))
    return replace(case, probes=tuple(probes))


def divergence_case(
    context: PagingContext, ram: tuple[tuple[int, int], ...], divergence: Divergence
) -> Case:
    """Return the smallest case of a divergence: its own walk's entries, and its one probe.

    An answer that doesn't say where an address is mapped to is none that a case can hold.
    """
    said = None if isinstance(divergence.predicted, Unplaced) else divergence.predicted
    probe = Probe.of(divergence.access, said, divergence.observed)
    entries = {pa: word for pa, word in divergence.walk.words if word}
    return Case(cpu=Cpu.from_context(context), ram=ram, entries=entries, probes=(probe,))


def listing_case(
    context: PagingContext, ram: tuple[tuple[int, int], ...], unlike: ListingDivergence
) -> Case:
    """Return the smallest case of a divergence from the walk's list, as `divergence_case` does.

    Without a predicted outcome: what is wrong is in no outcome, but in the list.
    """
    same = Divergence(unlike.access, unlike.observed, unlike.observed, unlike.walk)
    case = divergence_case(context, ram, same)
    probes = tuple(replace(probe, predicted=None) for probe in case.probes)
    return replace(case, probes=probes, note="the walk's list of pages says something else")
