"""Files of the format crosswalk-sequence/1: a sequence, what is allowed, what was observed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import cpu_document, json_block, json_line
from crosswalk.walker.formats.casejson import CpuJson, Hex32, Hex64
from crosswalk.walker.formats.casetypes import AccessName, Case, Cpu
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb import steps
from crosswalk.walker.tlb.model import Option

__all__ = [
    "FORMAT",
    "MAX_STEPS",
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
_TYPES: dict[AccessName, AccessType] = {
    "read": AccessType.READ,
    "write": AccessType.WRITE,
    "execute": AccessType.EXECUTE,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_KINDS = {
    Kind.OK: "ok",
    Kind.PAGE_FAULT: "page_fault",
    Kind.GENERAL_PROTECTION: "general_protection",
}


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """A sequence, and what came of its accesses, in their order.

    `allowed` and `observed` are empty in an input. Where a step that is no access stopped the
    processor, the last of `observed` is a `steps.Halted`.
    """

    sequence: steps.Sequence
    note: str | None = None
    allowed: tuple[tuple[Option, ...], ...] = ()
    observed: tuple[Outcome | steps.Halted, ...] = ()


class _Named(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step"):
    """A step: `step` says which."""


class _StoreJson(_Named, frozen=True, tag="store"):
    pa: Hex64
    value: Hex64


class _InvlpgJson(_Named, frozen=True, tag="invlpg"):
    va: Hex64


class _InvpcidJson(_Named, frozen=True, tag="invpcid"):
    type: Annotated[int, Meta(ge=0, le=3)]
    pcid: Hex64
    va: Hex64


class _Cr0Json(_Named, frozen=True, tag="mov_cr0"):
    value: Hex64


class _Cr3Json(_Named, frozen=True, tag="mov_cr3"):
    value: Hex64


class _Cr4Json(_Named, frozen=True, tag="mov_cr4"):
    value: Hex64


class _WrpkruJson(_Named, frozen=True, tag="wrpkru"):
    value: Hex32


class _AccessJson(_Named, frozen=True, tag="access"):
    access: AccessName
    va: Hex64
    cpl: Literal[0, 3]
    ac: bool
    # What came of it is there for people, and is found out anew.
    allowed: list[dict[str, Any]] | UnsetType = UNSET
    observed: dict[str, Any] | UnsetType = UNSET


_StepJson = (
    _StoreJson
    | _InvlpgJson
    | _InvpcidJson
    | _Cr0Json
    | _Cr3Json
    | _Cr4Json
    | _WrpkruJson
    | _AccessJson
)


class _SequenceJson(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["crosswalk-sequence/1"]
    cpu: CpuJson
    ram: list[tuple[Hex64, Hex64]]
    entries: dict[Hex64, Hex64]
    steps: Annotated[list[_StepJson], Meta(max_length=MAX_STEPS)]
    note: str | UnsetType = UNSET
    halted: str | UnsetType = UNSET


class _Head(Struct):
    format: str


_MADE: dict[type[_Named], Any] = {
    _StoreJson: steps.Store,
    _InvlpgJson: steps.Invlpg,
    _InvpcidJson: steps.Invpcid,
    _Cr0Json: steps.MovCr0,
    _Cr3Json: steps.MovCr3,
    _Cr4Json: steps.MovCr4,
    _WrpkruJson: steps.Wrpkru,
}
_STEPS = {made: form.__struct_config__.tag for form, made in _MADE.items()}
_DECODER = msgspec.json.Decoder(_SequenceJson)


def load_sequence(path: str | os.PathLike[str]) -> SequenceRecord:
    """Return the sequence in the file at `path`, without what it says of outcomes.

    Raises `BadInput`, in one line that names the file and what is wrong.
    """
    file = map_file(path)
    return parse_sequence(file.data[: _MAX_BYTES + 1], file.name)


def names_sequence(path: str | os.PathLike[str]) -> bool:
    """Return whether the file at `path` says that it is a sequence; `BadInput` if unreadable."""
    data = map_file(path).data[: _MAX_BYTES + 1]
    try:
        return msgspec.json.decode(data, type=_Head).format == FORMAT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def parse_sequence(data: bytes, name: str) -> SequenceRecord:
    """Return the sequence that `data` holds as JSON; `name` is what errors call it."""
    with errors_named(name):
        if len(data) > _MAX_BYTES:
            raise BadInput(f"a sequence has at most {_MAX_BYTES} bytes")
        try:
            document = _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadInput(one_line(str(error))) from None
        return _record(document)


def _record(document: _SequenceJson) -> SequenceRecord:
    given: dict[str, Any] = {
        name: int(value, 16) if type(value) is str else value
        for name, value in msgspec.structs.asdict(document.cpu).items()
        if value is not UNSET
    }
    taken = [_step(each) for each in document.steps]
    # A case has the same state before it, and knows what can be wrong with that.
    state = Case(
        cpu=Cpu(**given),
        ram=tuple((int(start, 16), int(size, 16)) for start, size in document.ram),
        entries={int(pa, 16): int(word, 16) for pa, word in document.entries.items()},
    )
    for at, step in enumerate(taken):
        if isinstance(step, steps.Store) and (
            step.pa % 8 or not any(start <= step.pa < start + size for start, size in state.ram)
        ):
            raise BadInput(f"$.steps[{at}].pa: {step.pa:#x} is no word of $.ram")
    sequence = steps.Sequence(
        context=state.context(), ram=state.ram, entries=state.entries, steps=tuple(taken)
    )
    return SequenceRecord(sequence, None if document.note is UNSET else document.note)


def _step(document: _StepJson) -> steps.Step:
    if isinstance(document, _AccessJson):
        kind = _TYPES[document.access]
        return Access(int(document.va, 16), kind, document.cpl, document.ac)
    values = msgspec.structs.astuple(document)
    made: steps.Step = _MADE[type(document)](
        *(int(value, 16) if isinstance(value, str) else value for value in values)
    )
    return made


def dump_sequence(record: SequenceRecord) -> bytes:
    """Return a record as JSON in UTF-8, ending in a newline; equal records give equal bytes."""
    sequence = record.sequence
    cpu = Cpu.from_context(sequence.context)
    parts = {"format": json_line(FORMAT)}
    if record.note is not None:
        parts["note"] = json_line(record.note)
    parts["cpu"] = json_line(cpu_document(cpu))
    parts["ram"] = json_line([[hex(start), hex(size)] for start, size in sequence.ram])
    words = sorted(sequence.entries.items())
    parts["entries"] = json_block("{", [f'"{pa:#x}": "{word:#x}"' for pa, word in words], "}")
    parts["steps"] = json_block("[", [json_line(step) for step in _dumped(record)], "]")
    if record.observed and isinstance(record.observed[-1], steps.Halted):
        parts["halted"] = json_line(record.observed[-1].why)
    text = ",\n".join(f'  "{name}": {value}' for name, value in parts.items())
    return f"{{\n{text}\n}}\n".encode()


def _dumped(record: SequenceRecord) -> Iterator[dict[str, Any]]:
    allowed, observed = iter(record.allowed), iter(record.observed)
    for step, context in zip(record.sequence.steps, record.sequence.contexts(), strict=False):
        if isinstance(step, Access):
            yield _accessed(step, context, next(allowed, None), next(observed, None))
            continue
        told: dict[str, Any] = {"step": _STEPS[type(step)]}
        for item in fields(step):
            value = getattr(step, item.name)
            told[item.name] = value if item.name == "type" else hex(value)
        yield told


def _accessed(
    step: Access,
    context: PagingContext,
    options: tuple[Option, ...] | None,
    seen: Outcome | steps.Halted | None,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "step": "access",
        "access": _NAMES[step.type],
        "va": hex(step.va),
        "cpl": step.cpl,
        "ac": context.rflags_ac if step.ac is None else step.ac,
    }
    if options is not None:
        told["allowed"] = [_option(option) for option in options]
    if seen is not None and not isinstance(seen, steps.Halted):
        told["observed"] = _outcome(seen)
    return told


def _option(option: Option) -> dict[str, Any]:
    told: dict[str, Any] = {"outcome": _KINDS[option.kind]}
    if option.kind is Kind.OK:
        told["pa"] = hex(option.pa)
    if option.kind is Kind.PAGE_FAULT:
        told["error_code"] = hex(option.error_code)
    if option.marks:
        told["marks"] = {hex(pa): hex(bits) for pa, bits in sorted(option.marks)}
    told["fresh"] = option.fresh
    return told


def _outcome(seen: Outcome) -> dict[str, Any]:
    told: dict[str, Any]
    match seen:
        case Translation(pa):
            told = {"outcome": "ok", "pa": hex(pa)}
        case PageFault(code, cr2):
            told = {"outcome": "page_fault", "error_code": hex(code), "cr2": hex(cr2)}
        case GeneralProtection():
            told = {"outcome": "general_protection"}
    if seen.entries:
        told["entries"] = {hex(pa): hex(word) for pa, word in sorted(seen.entries)}
    return told
