"""Files of the format crosswalk-sequence/1: a sequence, what is allowed, what was observed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.walker.access import Access
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import (
    ACCESS_NAMES,
    ACCESS_TYPES,
    Case,
    Cpu,
    state_of,
    state_parts,
)
from crosswalk.walker.formats.documents import (
    AccessName,
    Document,
    Hex32,
    Hex64,
    OutcomeJson,
    StateJson,
    Words,
    document_bytes,
    format_of,
    hex_words,
    json_block,
    json_line,
    numbers,
    outcome_record,
    read_document,
)
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.judged import JudgedSequenceJson, JudgeJson, JudgesJson
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb import steps
from crosswalk.walker.tlb.model import Option

__all__ = [
    "FORMAT",
    "MAX_STEPS",
    "SequenceJson",
    "SequenceRecord",
    "dump_sequence",
    "load_sequence",
    "names_sequence",
    "parse_sequence",
]

FORMAT = "crosswalk-sequence/1"
MAX_STEPS = 256
"""The most steps that a sequence in a file has."""

_MAX_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """A sequence, and what came of its accesses, in their order.

    `allowed` and `observed` are empty in an input. Where a step that is no access stopped the
    processor, the last of `observed` is a `steps.Halted`. `judges` and `judged` are judges by name,
    and what each said.
    """

    sequence: steps.Sequence
    note: str | None = None
    allowed: tuple[tuple[Option, ...], ...] = ()
    observed: tuple[Outcome | steps.Halted, ...] = ()
    judges: Mapping[str, JudgeJson] = field(default_factory=dict)
    judged: Mapping[str, JudgedSequenceJson] = field(default_factory=dict)


class _Named(Document, frozen=True, tag_field="step"):
    """A step: `step` says which."""


class StoreJson(_Named, frozen=True, tag="store"):
    pa: Hex64
    value: Hex64


class InvlpgJson(_Named, frozen=True, tag="invlpg"):
    va: Hex64


class InvpcidJson(_Named, frozen=True, tag="invpcid"):
    type: Annotated[int, Meta(ge=0, le=3)]
    pcid: Hex64
    va: Hex64


class Cr0Json(_Named, frozen=True, tag="mov_cr0"):
    value: Hex64


class Cr3Json(_Named, frozen=True, tag="mov_cr3"):
    value: Hex64


class Cr4Json(_Named, frozen=True, tag="mov_cr4"):
    value: Hex64


class WrpkruJson(_Named, frozen=True, tag="wrpkru"):
    value: Hex32


class OptionJson(Document, frozen=True):
    outcome: Literal["ok", "page_fault", "general_protection"]
    fresh: bool
    pa: Hex64 | UnsetType = UNSET
    error_code: Hex32 | UnsetType = UNSET
    marks: Words | UnsetType = UNSET


class AccessJson(_Named, frozen=True, tag="access"):
    access: AccessName
    va: Hex64
    cpl: Literal[0, 3]
    ac: bool
    # The outcomes are there for people, and aren't read.
    allowed: list[OptionJson] | UnsetType = UNSET
    observed: OutcomeJson | UnsetType = UNSET


StepJson = (
    StoreJson | InvlpgJson | InvpcidJson | Cr0Json | Cr3Json | Cr4Json | WrpkruJson | AccessJson
)


class SequenceJson(StateJson, frozen=True, kw_only=True):
    """A document of the format crosswalk-sequence/1."""

    format: Literal["crosswalk-sequence/1"]
    steps: Annotated[list[StepJson], Meta(max_length=MAX_STEPS)]
    note: str | UnsetType = UNSET
    halted: str | UnsetType = UNSET
    judges: JudgesJson | UnsetType = UNSET
    judged: dict[str, JudgedSequenceJson] | UnsetType = UNSET


_MADE: dict[type[_Named], Any] = {
    StoreJson: steps.Store,
    InvlpgJson: steps.Invlpg,
    InvpcidJson: steps.Invpcid,
    Cr0Json: steps.MovCr0,
    Cr3Json: steps.MovCr3,
    Cr4Json: steps.MovCr4,
    WrpkruJson: steps.Wrpkru,
}
_STEPS = {made: form.__struct_config__.tag for form, made in _MADE.items()}


def load_sequence(path: str | os.PathLike[str]) -> SequenceRecord:
    """Return the sequence in the file at `path`, without what it says of outcomes.

    Raises `BadInput`, in one line that names the file and what is wrong.
    """
    file = map_file(path)
    return parse_sequence(file.data[: _MAX_BYTES + 1], file.name)


def names_sequence(path: str | os.PathLike[str]) -> bool:
    """Return whether the file at `path` says that it is a sequence; `BadInput` if unreadable."""
    return format_of(map_file(path).data[: _MAX_BYTES + 1]) == FORMAT


def parse_sequence(data: bytes, name: str) -> SequenceRecord:
    """Return the sequence that `data` holds as JSON; `name` is what errors call it."""
    with errors_named(name):
        document = read_document(data, SequenceJson, _MAX_BYTES)
        # A case has the same state, and checks it.
        state = Case(**state_of(document))
        taken = [_step(each) for each in document.steps]
        for at, step in enumerate(taken):
            if isinstance(step, steps.Store) and (
                step.pa % 8 or not any(start <= step.pa < start + size for start, size in state.ram)
            ):
                raise BadInput(f"$.steps[{at}].pa: {step.pa:#x} is no word of $.ram")
        sequence = steps.Sequence(
            context=state.context(), ram=state.ram, entries=state.entries, steps=tuple(taken)
        )
        return SequenceRecord(sequence, None if document.note is UNSET else document.note)


def _step(document: StepJson) -> steps.Step:
    if isinstance(document, AccessJson):
        kind = ACCESS_TYPES[document.access]
        return Access(int(document.va, 16), kind, document.cpl, document.ac)
    made: steps.Step = _MADE[type(document)](**numbers(document))
    return made


def dump_sequence(record: SequenceRecord) -> bytes:
    """Return a record as JSON in UTF-8, ending in a newline; equal records give equal bytes."""
    sequence = record.sequence
    parts = {"format": json_line(FORMAT)}
    if record.note is not None:
        parts["note"] = json_line(record.note)
    parts |= state_parts(Cpu.from_context(sequence.context), sequence.ram, sequence.entries)
    if record.judges:
        parts["judges"] = json_line(dict(record.judges))
        parts["judged"] = json_line(dict(record.judged))
    parts["steps"] = json_block("[", map(json_line, _dumped(record)), "]")
    if record.observed and isinstance(record.observed[-1], steps.Halted):
        parts["halted"] = json_line(record.observed[-1].why)
    return document_bytes(parts)


def _dumped(record: SequenceRecord) -> Iterator[dict[str, Any]]:
    allowed, observed = iter(record.allowed), iter(record.observed)
    for step, context in zip(record.sequence.steps, record.sequence.contexts(), strict=False):
        if isinstance(step, Access):
            yield _accessed(step, context, next(allowed, None), next(observed, None))
            continue
        values = {item.name: getattr(step, item.name) for item in fields(step)}
        named = {name: value if name == "type" else hex(value) for name, value in values.items()}
        yield {"step": _STEPS[type(step)], **named}


def _accessed(
    step: Access,
    context: PagingContext,
    options: tuple[Option, ...] | None,
    seen: Outcome | steps.Halted | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "step": "access",
        "access": ACCESS_NAMES[step.type],
        "va": hex(step.va),
        "cpl": step.cpl,
        "ac": context.rflags_ac if step.ac is None else step.ac,
    }
    if options is not None:
        document["allowed"] = [_option(option) for option in options]
    if seen is not None and not isinstance(seen, steps.Halted):
        document["observed"] = outcome_record(seen, entries=False)
    return document


def _option(option: Option) -> dict[str, Any]:
    outcome: Outcome = GeneralProtection()
    if option.kind is Kind.OK:
        outcome = Translation(option.pa)
    if option.kind is Kind.PAGE_FAULT:
        outcome = PageFault(option.error_code, 0)
    document = outcome_record(outcome, entries=False)
    document.pop("cr2", None)  # That is the address of the access in any case.
    if option.marks:
        document["marks"] = hex_words(sorted(option.marks))
    return {**document, "fresh": option.fresh}
