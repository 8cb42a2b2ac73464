"""Mappings, walks and outcomes as the JSON records of the command line and of cases."""

from typing import Any

import numpy as np

from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, Cpu
from crosswalk.walker.formats.documents import outcome_record
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.mappings import Mapping, Range, RootedMapping
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import Step, Walk

__all__ = [
    "frame_record",
    "mapping_record",
    "range_record",
    "rights_record",
    "step_record",
    "structures_case",
    "walk_record",
]


_BLOCK = 4096


def mapping_record(mapping: Mapping) -> dict[str, Any]:
    """Return one mapping as `walk --json` prints it; one of several address spaces with its root.

    And with the number of roots that have it by the same entry.
    """
    root: dict[str, Any] = {}
    if isinstance(mapping, RootedMapping):
        root = {"root": hex(mapping.context.root), "roots": mapping.roots}
    return {
        **root,
        "va": hex(mapping.va),
        "pa": hex(mapping.pa),
        "size": mapping.size,
        "level": mapping.level,
        "flags": hex(mapping.flags),
        "rights": rights_record(mapping.rights),
    }


def range_record(folded: Range) -> dict[str, Any]:
    """Return one folded range as `walk --coalesce --json` prints it.

    With "stride" where all of its pages map one, every so many bytes.
    """
    stride = {"stride": folded.stride} if folded.stride else {}
    return {
        "va": hex(folded.va),
        "pa": hex(folded.pa),
        "size": folded.size,
        "mappings": folded.count,
        **stride,
        "flags": hex(folded.flags),
        "rights": rights_record(folded.rights),
    }


def frame_record(start: int, size: int, rights: Rights) -> dict[str, Any]:
    """Return one physical range as `frames --json` prints it."""
    return {"pa": hex(start), "size": size, **rights_record(rights)}


def walk_record(path: Walk, access: Access, outcome: Outcome) -> dict[str, Any]:
    """Return one translation, with its steps, as `translate --json` prints it."""
    return {
        "va": hex(access.va),
        "access": access.type.name.lower(),
        "cpl": access.cpl,
        "ac": bool(access.ac),
        "steps": [step_record(step) for step in path.steps],
        "predicted": outcome_record(outcome),
    }


def step_record(step: Step) -> dict[str, Any]:
    """Return one entry of a walk, as `translate --json` prints it."""
    return {
        "level": step.level,
        "pa": hex(step.pa),
        "entry": hex(step.entry),
        "kind": step.kind.value,
    }


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


def rights_record(rights: Rights) -> dict[str, str]:
    """Return rights as records have them, as `rwx` by privilege."""
    return {"supervisor": rights.supervisor, "user": rights.user}
