"""A composite's case file: an address space as in any case file, and the one composite."""

import os
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from crosswalk.emu.check.allowed_outcomes import AllowedOutcome
from crosswalk.emu.probe.composites import (
    FORMS,
    NAMES,
    SAME_PKRU,
    CompositeOutcomes,
    Composites,
    Family,
)
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, dump_case
from crosswalk.walker.formats.case import MAX_CASE_BYTES, parse_case
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import errors_named, one_line

__all__ = [
    "FORMAT",
    "CompositeCase",
    "composite_case",
    "dump_composite",
    "load_composite",
    "parse_composite",
]

FORMAT = "crosswalk-composite/1"

_Hex = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{1,16}\Z")]
_OUTCOMES = {
    Kind.OK: "ok",
    Kind.PAGE_FAULT: "page_fault",
    Kind.GENERAL_PROTECTION: "general_protection",
}


class _Then(Struct, forbid_unknown_fields=True):
    va: _Hex
    cpl: Literal[0, 3]
    ac: bool
    pkru: _Hex | None


class _Document(Struct, forbid_unknown_fields=True):
    format: Literal["crosswalk-composite/1"]
    access: str
    va: _Hex
    cpl: Literal[0, 3]
    ac: bool
    case: Raw
    then: _Then | UnsetType = UNSET
    predicted: list[dict[str, Any]] | UnsetType = UNSET
    observed: dict[str, Any] | UnsetType = UNSET


class _Head(Struct):
    format: str


@dataclass(frozen=True, slots=True)
class CompositeCase:
    """One composite, by the columns of its one row, in the address space of `case`.

    `case` has no probes.
    """

    case: Case
    composite: Composites

    @property
    def access(self) -> str:
        """The composite's name."""
        return NAMES[int(self.composite.form[0])]


def composite_case(
    context: PagingContext,
    ram: tuple[tuple[int, int], ...],
    entries: dict[int, int],
    composite: Composites,
) -> CompositeCase:
    """Return the case of one row of composites under these tables."""
    return CompositeCase(Case(cpu=Cpu.from_context(context), ram=ram, entries=entries), composite)


def dump_composite(
    case: CompositeCase,
    allowed: list[AllowedOutcome] | None = None,
    seen: CompositeOutcomes | None = None,
) -> bytes:
    """Return a composite's case as JSON, ending in a newline; with what was said and seen."""
    row = case.composite
    document: dict[str, Any] = {
        "format": FORMAT,
        "access": case.access,
        "va": hex(int(row.va[0])),
        "cpl": int(row.cpl[0]),
        "ac": bool(row.ac[0]),
    }
    twice = FORMS[case.access].family is Family.TWICE
    if twice:
        pkru = int(row.then_pkru[0])
        document["then"] = {
            "va": hex(int(row.then_va[0])),
            "cpl": int(row.then_cpl[0]),
            "ac": bool(row.then_ac[0]),
            "pkru": None if pkru == SAME_PKRU else hex(pkru),
        }
    if allowed is not None:
        document["predicted"] = [
            _said(option, case.access) for option in allowed if option.valid[0]
        ]
    if seen is not None:
        words = zip(seen.entry_pa[0].tolist(), seen.entry_value[0].tolist(), strict=True)
        document["observed"] = {
            "outcomes": _outcomes(seen, case.access),
            "entries": {hex(pa): hex(value) for pa, value in words if value},
        }
    document["case"] = Raw(dump_case(replace(case.case, probes=())))
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _said(option: AllowedOutcome, access: str) -> dict[str, Any]:
    words: dict[str, dict[str, str]] = {"must_change": {}, "may_change": {}}
    totals: dict[tuple[bool, int], int] = {}
    columns = (option.word[0], option.value[0], option.must[0])
    for pa, value, must in zip(*(column.tolist() for column in columns), strict=True):
        if value:
            totals[must, pa] = totals.get((must, pa), 0) | value
    for (must, pa), value in sorted(totals.items()):
        words["must_change" if must else "may_change"][hex(pa)] = hex(value)
    return {"outcomes": _outcomes(option, access), **words}


def _outcomes(row: AllowedOutcome | CompositeOutcomes, access: str) -> list[dict[str, str]]:
    family = FORMS[access].family
    count = 2 if family is Family.TWICE or (family is Family.CROSS and not row.kind[0, 0]) else 1
    return [_outcome(row, at) for at in range(count)]


def _outcome(row: AllowedOutcome | CompositeOutcomes, at: int) -> dict[str, str]:
    kind = Kind(row.kind[0, at])
    record = {"outcome": _OUTCOMES[kind]}
    if kind is Kind.OK:
        record["pa"] = hex(int(row.pa[0, at]))
    if kind is Kind.PAGE_FAULT:
        record["error_code"] = hex(int(row.error_code[0, at]))
        record["cr2"] = hex(int(row.cr2[0, at]))
    return record


def load_composite(path: str | os.PathLike[str]) -> CompositeCase | None:
    """Return the composite's case in the file at `path`, None if the file is of another format.

    `BadInput`, in one line with the file's name, for one that isn't valid.
    """
    file = map_file(path)
    if len(file.data) > MAX_CASE_BYTES:
        return None
    return parse_composite(file.data[:], file.name)


def parse_composite(data: bytes, name: str) -> CompositeCase | None:
    """Return the composite's case that `data` holds as JSON, as `load_composite` does."""
    with errors_named(name):
        try:
            if msgspec.json.decode(data, type=_Head).format != FORMAT:
                return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # What it is instead, its own reader says.
        try:
            document = msgspec.json.decode(data, type=_Document)
        except msgspec.MsgspecError as error:
            raise BadInput(one_line(f"not a composite's case: {error}")) from None
        return _case(document)


def _case(document: _Document) -> CompositeCase:
    if document.access not in FORMS:
        raise BadInput(f"$.access: {one_line(document.access)!r} is none of {', '.join(NAMES)}")
    twice = FORMS[document.access].family is Family.TWICE
    then = None if document.then is UNSET else document.then
    if (then is not None) != twice:
        raise BadInput(f"$.then: there for two accesses, and not for {document.access}")
    pkru = SAME_PKRU if then is None or then.pkru is None else int(then.pkru, 16)
    if pkru >> 32 > 0:
        raise BadInput(f"$.then.pkru: {pkru:#x} does not fit in 32 bits")
    composite = Composites(
        np.array([NAMES.index(document.access)], np.uint8),
        np.array([int(document.va, 16)], np.uint64),
        np.array([document.cpl], np.uint8),
        np.array([document.ac], np.bool_),
        np.array([int(then.va if then else document.va, 16)], np.uint64),
        np.array([then.cpl if then else 0], np.uint8),
        np.array([bool(then and then.ac)], np.bool_),
        np.array([pkru], np.int64),
    )
    case = parse_case(bytes(document.case), "$.case")
    mode = case.context().mode
    if not mode.long:
        raise BadInput(f"$.case: composites are of 4- and 5-level paging, not {mode.value} paging")
    return CompositeCase(case, composite)
