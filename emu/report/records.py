"""What is said to machines: the JSON records of the command line, and outcomes in a case."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosswalk.emu.check import Divergence, Verdict
from crosswalk.emu.check.compare import agreements
from crosswalk.emu.check.listing import ListingDivergence
from crosswalk.emu.cpu.delivery import mnemonic
from crosswalk.emu.report.conclusion import Scope
from crosswalk.emu.report.source import unfollowed_record
from crosswalk.guest.status import Taken
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, Cpu, OutcomeRecord, Probe
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.mappings import Mapping, Range
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome, PageFault, Translation
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import Step, Walk

__all__ = [
    "access_of",
    "divergence_case",
    "exceptions_record",
    "frame_record",
    "listing_case",
    "mapping_record",
    "outcome_json",
    "outcome_record",
    "range_record",
    "replayed_case",
    "step_record",
    "structures_case",
    "summary_record",
    "walk_record",
]


_BLOCK = 4096


def mapping_record(mapping: Mapping) -> dict[str, Any]:
    """Return one mapping as `walk --json` prints it."""
    return {
        "va": hex(mapping.va),
        "pa": hex(mapping.pa),
        "size": mapping.size,
        "level": mapping.level,
        "flags": hex(mapping.flags),
        "rights": _rights(mapping.rights),
    }


def range_record(folded: Range) -> dict[str, Any]:
    """Return one folded range as `walk --coalesce --json` prints it."""
    return {
        "va": hex(folded.va),
        "pa": hex(folded.pa),
        "size": folded.size,
        "mappings": folded.count,
        "flags": hex(folded.flags),
        "rights": _rights(folded.rights),
    }


def frame_record(start: int, size: int, rights: Rights) -> dict[str, Any]:
    """Return one physical range as `frames --json` prints it."""
    return {"pa": hex(start), "size": size, **_rights(rights)}


def summary_record(verdict: Verdict, scope: Scope) -> dict[str, Any]:
    """Return a verdict as `run --json` and `check --json` print it."""
    return {
        "probes": verdict.probes,
        "agreements": verdict.agreements,
        "divergences": verdict.divergent,
        "known_divergences": sum(verdict.known.values()),
        "known": verdict.known,
        "predicted_only": verdict.predicted_only,
        "not_asked": verdict.not_asked | scope.not_asked,
        "under": verdict.roots,
        "mappings": scope.mappings,
        "unfollowed": unfollowed_record(scope.unfollowed),
        "assumed": list(scope.assumed),
        "seconds": round(verdict.seconds, 3),
    }


def exceptions_record(taken: Iterable[Taken]) -> dict[str, int]:
    """Return how many exceptions of each name a guest's handlers took, as `run --json` has it."""
    return dict(Counter(mnemonic(each.vector) for each in taken))


def walk_record(path: Walk, access: Access, outcome: Outcome) -> dict[str, Any]:
    """Return one translation, with its steps, as `translate --json` prints it."""
    return {
        "va": hex(access.va),
        "access": access.type.name.lower(),
        "cpl": access.cpl,
        "ac": bool(access.ac),
        "steps": [step_record(step) for step in path.steps],
        "predicted": outcome_json(outcome),
    }


def step_record(step: Step) -> dict[str, Any]:
    """Return one entry of a walk, as `translate --json` prints it."""
    return {
        "level": step.level,
        "pa": hex(step.pa),
        "entry": hex(step.entry),
        "kind": step.kind.value,
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as a case file has it, for a record of another kind."""
    record = outcome_record(outcome)
    numbers = {name: getattr(record, name) for name in ("pa", "error_code", "cr2")}
    return {
        "outcome": record.outcome,
        **{name: hex(value) for name, value in numbers.items() if value is not None},
        "entries": {hex(pa): hex(value) for pa, value in record.entries.items()},
    }


def outcome_record(outcome: Outcome) -> OutcomeRecord:
    """Return an outcome as a case file has it."""
    entries = dict(outcome.entries)
    if isinstance(outcome, Translation):
        return OutcomeRecord(outcome="ok", pa=outcome.pa, entries=entries)
    if isinstance(outcome, PageFault):
        code, cr2 = outcome.error_code, outcome.cr2
        return OutcomeRecord(outcome="page_fault", error_code=code, cr2=cr2, entries=entries)
    return OutcomeRecord(outcome="general_protection", entries=entries)


def access_of(probe: Probe) -> Access:
    """Return the access that a probe of a case asks for."""
    return Access(probe.va, AccessType[probe.access.upper()], probe.cpl, probe.ac)


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
        probes.append(
            Probe(
                va=probe.va,
                access=probe.access,
                cpl=probe.cpl,
                ac=probe.ac,
                predicted=outcome_record(said),
                observed=None if unseen[at] else outcome_record(seen),
            )
        )
    return replace(case, probes=tuple(probes))


def divergence_case(
    context: PagingContext, ram: tuple[tuple[int, int], ...], divergence: Divergence
) -> Case:
    """Return the smallest case of a divergence: its own walk's entries, and its one probe."""
    access = divergence.access
    return Case(
        cpu=Cpu.from_context(context),
        ram=ram,
        entries={pa: word for pa, word in divergence.walk.words if word},
        probes=(
            Probe(
                va=access.va,
                access=access.type.name.lower(),  # type: ignore[arg-type]  # the names agree
                cpl=access.cpl,
                ac=bool(access.ac),
                predicted=outcome_record(divergence.predicted),
                observed=outcome_record(divergence.observed),
            ),
        ),
    )


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


def structures_case(memory: PhysicalMemory, context: PagingContext) -> Case:
    """Return a case of the paging structures of `memory`, and of nothing else in it."""
    frames = np.sort(table_frames(memory, context))
    entries: dict[int, int] = {}
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        words = memory.tables(block)
        row, at = np.nonzero(words)
        addresses = block[row] + np.uint64(8) * at.astype(np.uint64)
        entries.update(zip(addresses.tolist(), words[row, at].tolist(), strict=True))
    return Case(cpu=Cpu.from_context(context), ram=tuple(memory.ranges), entries=entries)


def _rights(rights: Rights) -> dict[str, str]:
    return {"supervisor": rights.supervisor, "user": rights.user}
