"""Files of the format crosswalk-suite/1: a case, and the outcomes allowed to each of its probes."""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from crosswalk.emu.suite.allowed import Allowed, CpuBox
from crosswalk.walker.columns import MAX_STEPS, Kind, Outcomes
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import Case, CaseJson, Probe, case_of, dump_case
from crosswalk.walker.formats.documents import (
    MAX_CASE_BYTES,
    Document,
    Hex32,
    Hex64,
    document_bytes,
    json_block,
    json_line,
    read_document,
)
from crosswalk.walker.formats.located_errors import errors_named

__all__ = ["FORMAT", "SuiteJson", "dump_suite_case", "parse_suite_case"]

FORMAT = "crosswalk-suite/1"

_Pair = Annotated[
    tuple[Hex64, Hex64], Meta(description="the physical address of an 8-byte word, and its value")
]
_Width = Annotated[int, Meta(ge=32, le=52)]


class CpuBoxJson(Document, frozen=True):
    """CPUs of these vendors, with MAXPHYADDR from the first number to the last."""

    vendor: list[Vendor]
    maxphyaddr: tuple[_Width, _Width]
    page1gb: list[bool]


class _SetJson(Document, frozen=True, tag_field="outcome", kw_only=True):
    """Outcomes that are the same but for words: those that change, and others that may."""

    must_change: list[_Pair]
    may_change: list[_Pair]


class OkSetJson(_SetJson, frozen=True, tag="ok"):
    """The access reaches `pa`."""

    pa: Hex64


class FaultSetJson(_SetJson, frozen=True, tag="page_fault"):
    """The access raises #PF."""

    error_code: Hex32
    cr2: Hex64


class ProtectionSetJson(_SetJson, frozen=True, tag="general_protection"):
    """The access, or loading CR3, raises #GP(0)."""


SetJson = OkSetJson | FaultSetJson | ProtectionSetJson


class AllowedJson(Document, frozen=True):
    """What a probe may come to: `by_cpu` has an index of `sets` for each class of CPUs.

    -1 where the walk leaves the case's memory: nothing is defined.
    """

    by_cpu: list[Annotated[int, Meta(ge=-1)]]
    sets: list[SetJson]


class SuiteJson(Document, frozen=True):
    """A document of the format crosswalk-suite/1: `allowed` is in the order of the case's probes.

    `cpus` are classes of CPUs, each as boxes; one in no class can't be in the state of the case.
    """

    format: Literal["crosswalk-suite/1"]
    cpus: list[list[CpuBoxJson]]
    allowed: list[AllowedJson]
    case: CaseJson


def dump_suite_case(case: Case, allowed: Allowed) -> bytes:
    """Return a case and what is allowed as JSON, ending in a newline: a probe a line."""
    bare = replace(
        case, probes=tuple(Probe.of(each.asked) for each in case.probes), walker=None, judges={}
    )
    boxes = ([_box_json(box) for box in each] for each in allowed.classes)
    rows = (
        AllowedJson(list(by_class), [_set_json(sets, row) for row in range(len(sets))])
        for by_class, sets in zip(allowed.by_class, allowed.sets, strict=True)
    )
    return document_bytes(
        {
            "format": json_line(FORMAT),
            "cpus": json_block("[", map(json_line, boxes), "]"),
            "allowed": json_block("[", map(json_line, rows), "]"),
            "case": dump_case(bare).decode().rstrip(),
        }
    )


def parse_suite_case(data: bytes, name: str) -> tuple[Case, Allowed]:
    """Return the case and what is allowed; `name` is what errors call it.

    Raises `BadInput`, in one line that names the place, for what isn't of the format.
    """
    with errors_named(name):
        document = read_document(data, SuiteJson, MAX_CASE_BYTES)
        case = case_of(document.case)
        if len(document.allowed) != len(case.probes):
            raise BadInput(
                f"$.allowed: {len(document.allowed)} for {len(case.probes)} probes of $.case"
            )
        for at, each in enumerate(document.allowed):
            if len(each.by_cpu) != len(document.cpus):
                raise BadInput(f"$.allowed[{at}].by_cpu: not one for each of $.cpus")
            if max(each.by_cpu, default=-1) >= len(each.sets):
                raise BadInput(f"$.allowed[{at}].by_cpu: there is no such set")
        return case, Allowed(
            tuple(tuple(map(_box, boxes)) for boxes in document.cpus),
            tuple(tuple(each.by_cpu) for each in document.allowed),
            tuple(
                _outcomes(f"$.allowed[{at}].sets", each.sets)
                for at, each in enumerate(document.allowed)
            ),
        )


def _box_json(box: CpuBox) -> CpuBoxJson:
    return CpuBoxJson(list(box.vendors), (box.first, box.last), list(box.page1gb))


def _box(document: CpuBoxJson) -> CpuBox:
    first, last = document.maxphyaddr
    return CpuBox(first, last, tuple(document.vendor), tuple(document.page1gb))


def _set_json(sets: Outcomes, row: int) -> SetJson:
    kind = Kind(int(sets.kind[row]))
    pairs = [
        (hex(pa), hex(value))
        for pa, value in zip(
            sets.entry_pa[row].tolist(), sets.entry_value[row].tolist(), strict=True
        )
        if value
    ]
    if kind is Kind.OK:
        return OkSetJson(pa=hex(int(sets.pa[row])), must_change=pairs, may_change=[])
    if kind is Kind.GENERAL_PROTECTION:
        return ProtectionSetJson(must_change=[], may_change=pairs)
    return FaultSetJson(
        error_code=hex(int(sets.error_code[row])),
        cr2=hex(int(sets.cr2[row])),
        must_change=[],
        may_change=pairs,
    )


def _outcomes(place: str, sets: list[SetJson]) -> Outcomes:
    found = Outcomes.empty(len(sets))
    for row, each in enumerate(sets):
        match each:
            case OkSetJson():
                found.kind[row], found.pa[row] = Kind.OK, int(each.pa, 16)
            case FaultSetJson():
                found.kind[row] = Kind.PAGE_FAULT
                found.error_code[row] = int(each.error_code, 16)
                found.cr2[row] = int(each.cr2, 16)
            case _:
                found.kind[row] = Kind.GENERAL_PROTECTION
        pairs, others = each.must_change, each.may_change
        if not isinstance(each, OkSetJson):
            pairs, others = others, pairs
        if others or len(pairs) > MAX_STEPS:
            raise BadInput(f"{place}[{row}]: words that no access changes so")
        found.entry_pa[row] = _column([pa for pa, _ in pairs])
        found.entry_value[row] = _column([value for _, value in pairs])
    return found


def _column(texts: list[str]) -> NDArray[np.uint64]:
    values = [int(text, 16) for text in texts]
    return np.array(values + [0] * (MAX_STEPS - len(values)), np.uint64)
