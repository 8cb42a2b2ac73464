"""A translation under nested paging, for people and for machines."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from crosswalk.emu.report.ept import ept_walk_lines
from crosswalk.emu.report.records import step_record
from crosswalk.emu.report.text import outcome_text, walk_lines, words_text
from crosswalk.walker.access import Access
from crosswalk.walker.entry import level_of
from crosswalk.walker.formats.documents import hex_words, outcome_record
from crosswalk.walker.nested import (
    EptContext,
    EptMisconfiguration,
    EptViolation,
    GpaWalk,
    NestedContext,
    NestedError,
    NestedOutcome,
    NestedPageFault,
    NestedWalk,
    Qualification,
    nested_error_names,
    qualification_names,
)
from crosswalk.walker.outcome import Translation
from crosswalk.walker.translate import Walk

__all__ = [
    "Stage",
    "nested_outcome_json",
    "nested_outcome_text",
    "nested_record",
    "nested_walk_lines",
    "stage_of",
]


class Stage(StrEnum):
    """Where a translation in two dimensions failed."""

    GUEST = "guest walk"
    TABLE = "nested walk of a table"
    PAGE = "nested walk of the page"


def stage_of(outcome: NestedOutcome, path: NestedWalk) -> Stage | None:
    """Return where a translation failed; None where it didn't. `path` is its walk."""
    if isinstance(outcome, EptViolation):
        return Stage.PAGE if outcome.qualification & Qualification.PAGE else Stage.TABLE
    if isinstance(outcome, EptMisconfiguration):
        return Stage.TABLE if path.page is None else Stage.PAGE
    if isinstance(outcome, NestedPageFault):
        return Stage.TABLE if outcome.error_code & NestedError.TABLE else Stage.PAGE
    return None if isinstance(outcome, Translation) else Stage.GUEST


def nested_outcome_text(outcome: NestedOutcome, *, may: bool = False) -> str:
    """Return an outcome in words, as `outcome_text` does, what the host's tables say too."""
    if isinstance(outcome, EptMisconfiguration):
        text = f"VM exit: EPT misconfiguration, gpa {outcome.gpa:#x}"
    elif isinstance(outcome, EptViolation):
        code = outcome.qualification
        text = f"VM exit: EPT violation, qualification {code:#x} ({qualification_names(code)}), "
        text += f"gpa {outcome.gpa:#x}, linear address {outcome.gla:#x}"
        if outcome.open:
            text += f"; {qualification_names(outcome.open)} may be set or clear"
    elif isinstance(outcome, NestedPageFault):
        code, names = outcome.error_code, nested_error_names
        text = f"#VMEXIT(NPF), EXITINFO1 {code:#x} ({names(code)}), gpa {outcome.gpa:#x}"
        if outcome.open:
            text += f"; {names(outcome.open)} may be set or clear"
    else:
        return outcome_text(outcome, may=may)
    if not outcome.entries:
        return text
    return f"{text}; {'may change' if may else 'changes'} {words_text(outcome.entries)}"


def nested_walk_lines(context: NestedContext, path: NestedWalk) -> Iterator[str]:
    """Yield a line for each step of both dimensions, the nested ones further in."""
    if not path.tables:
        yield from walk_lines(context.guest, path.guest)
    for number, lookup in zip(range(context.guest.levels, 0, -1), path.tables, strict=False):
        yield f"  guest {level_of(context.guest, number).entry} at gpa {lookup.gpa:#013x}"
        yield from _gpa_walk_lines(context, lookup)
        if lookup.step is not None:
            yield from walk_lines(context.guest, Walk(path.va, (lookup.step,)))
    if path.page is not None:
        yield f"  guest page at gpa {path.page.gpa:#013x}"
        yield from _gpa_walk_lines(context, path.page)


def nested_record(
    path: NestedWalk, access: Access, outcome: NestedOutcome, *others: NestedOutcome
) -> dict[str, Any]:
    """Return one translation as `translate --ncr3 --json`, or --eptp, prints it.

    `others` are outcomes that the processor may choose instead.
    """
    stage = stage_of(outcome, path)
    return {
        "va": hex(access.va),
        "access": access.type.name.lower(),
        "cpl": access.cpl,
        "ac": bool(access.ac),
        "steps": [_gpa_walk_record(lookup) for lookup in path.tables],
        "page": None if path.page is None else _gpa_walk_record(path.page),
        "predicted": nested_outcome_json(outcome),
        **({"or": [nested_outcome_json(each) for each in others]} if others else {}),
        "failed": None if stage is None else stage.value,
    }


def _gpa_walk_lines(context: NestedContext, lookup: GpaWalk) -> Iterator[str]:
    host = context.host
    if not lookup.path.steps:
        bits = host.gpa_bits if isinstance(host, EptContext) else host.va_bits
        yield f"    too wide: nested tables translate {bits} bits"
    elif isinstance(host, EptContext):
        for line in ept_walk_lines(host, lookup.path):
            yield f"  {line}"
    else:
        for line in walk_lines(host, lookup.path):
            yield f"  {line}"


def _gpa_walk_record(lookup: GpaWalk) -> dict[str, Any]:
    return {
        "gpa": hex(lookup.gpa),
        "nested": [step_record(step) for step in lookup.path.steps],
        "pa": None if lookup.pa is None else hex(lookup.pa),
        "entry": None if lookup.step is None else step_record(lookup.step),
    }


def nested_outcome_json(outcome: NestedOutcome) -> dict[str, Any]:
    """Return an outcome as `outcome_record` does, what the host's tables say too."""
    if isinstance(outcome, EptMisconfiguration):
        return {
            "outcome": "ept_misconfiguration",
            "gpa": hex(outcome.gpa),
            "entries": hex_words(outcome.entries),
        }
    if isinstance(outcome, EptViolation):
        return {
            "outcome": "ept_violation",
            "qualification": hex(outcome.qualification),
            **({"open": hex(outcome.open)} if outcome.open else {}),
            "gpa": hex(outcome.gpa),
            "gla": hex(outcome.gla),
            "entries": hex_words(outcome.entries),
        }
    if not isinstance(outcome, NestedPageFault):
        return outcome_record(outcome)
    return {
        "outcome": "nested_page_fault",
        "error_code": hex(outcome.error_code),
        **({"open": hex(outcome.open)} if outcome.open else {}),
        "gpa": hex(outcome.gpa),
        "entries": hex_words(outcome.entries),
    }
