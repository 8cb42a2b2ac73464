"""Mappings, walks and outcomes as the JSON records of the command line and of cases."""

from typing import Any

import numpy as np

from crosswalk.walker.access import Access, AccessType
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
    "frame_record",
    "mapping_record",
    "outcome_json",
    "outcome_record",
    "range_record",
    "step_record",
    "structures_case",
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
