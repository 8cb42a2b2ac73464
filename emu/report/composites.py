"""Composites as case files, format crosswalk-composite/1, and in words."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from crosswalk.emu.check.allowed_outcomes import AllowedOutcome
from crosswalk.emu.check.composites import CompositeVerdict
from crosswalk.emu.probe.composites import (
    FORMS,
    NAMES,
    SAME_PKRU,
    CompositeOutcomes,
    Composites,
    Family,
)
from crosswalk.emu.report.text import outcome_text, walk_lines, words_text
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, dump_case
from crosswalk.walker.formats.case import CaseJson, case_of
from crosswalk.walker.formats.documents import (
    MAX_CASE_BYTES,
    Document,
    Hex64,
    OutcomeJson,
    Words,
    format_of,
    hex_words,
    outcome_record,
    read_document,
)
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.judged import JudgedCompositeJson, JudgesJson
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.translate import Walk, walk

__all__ = [
    "FORMAT",
    "CompositeCase",
    "CompositeJson",
    "changes",
    "composite_accesses",
    "composite_case",
    "composite_lines",
    "composite_text",
    "composite_walks",
    "dump_composite",
    "load_composite",
    "outcomes_at",
    "parse_composite",
]


FORMAT = "crosswalk-composite/1"


class ThenJson(Document, frozen=True):
    va: Hex64
    cpl: Literal[0, 3]
    ac: bool
    pkru: Hex64 | None


class AllowedJson(Document, frozen=True):
    outcomes: list[OutcomeJson]
    must_change: Words
    may_change: Words


class ObservedJson(Document, frozen=True):
    outcomes: list[OutcomeJson]
    entries: Words


class CompositeJson(Document, frozen=True):
    """A document of the format crosswalk-composite/1."""

    format: Literal["crosswalk-composite/1"]
    access: str
    va: Hex64
    cpl: Literal[0, 3]
    ac: bool
    case: CaseJson
    then: ThenJson | UnsetType = UNSET
    # The outcomes are there for people, and aren't read.
    predicted: list[AllowedJson] | UnsetType = UNSET
    observed: ObservedJson | UnsetType = UNSET
    judges: JudgesJson | UnsetType = UNSET
    judged: dict[str, JudgedCompositeJson] | UnsetType = UNSET


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
    judged: tuple[JudgesJson, dict[str, JudgedCompositeJson]] | None = None,
) -> bytes:
    """Return a composite's case as JSON, ending in a newline, with these outcomes.

    `judged` are judges by name, and what each said.
    """
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
            {
                "outcomes": _records(option, case),
                "must_change": hex_words(changes(option, must=True)),
                "may_change": hex_words(changes(option, must=False)),
            }
            for option in allowed
            if option.valid[0]
        ]
    if seen is not None:
        words = zip(seen.entry_pa[0].tolist(), seen.entry_value[0].tolist(), strict=True)
        document["observed"] = {
            "outcomes": _records(seen, case),
            "entries": hex_words(each for each in words if each[1]),
        }
    if judged is not None:
        document["judges"], document["judged"] = judged
    document["case"] = Raw(dump_case(replace(case.case, probes=())))
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _records(row: AllowedOutcome | CompositeOutcomes, case: CompositeCase) -> list[dict[str, Any]]:
    return [outcome_record(each, entries=False) for each in outcomes_at(row, case.access)]


def outcomes_at(row: AllowedOutcome | CompositeOutcomes, access: str) -> list[Outcome]:
    """Return the outcomes in the first row: two where both accesses have one of their own."""
    family = FORMS[access].family
    two = family is Family.TWICE or (family is Family.CROSS and row.kind[0, 0] == Kind.OK)
    return [_outcome(row, at) for at in range(2 if two else 1)]


def _outcome(row: AllowedOutcome | CompositeOutcomes, at: int) -> Outcome:
    kind = Kind(row.kind[0, at])
    if kind is Kind.OK:
        return Translation(int(row.pa[0, at]))
    if kind is Kind.PAGE_FAULT:
        return PageFault(int(row.error_code[0, at]), int(row.cr2[0, at]))
    return GeneralProtection()


def changes(option: AllowedOutcome, *, must: bool) -> list[tuple[int, int]]:
    """Return the bits by address that the first row has to set, or is free to."""
    totals: dict[int, int] = {}
    columns = (option.word[0], option.value[0], option.must[0])
    for pa, value, needed in zip(*(column.tolist() for column in columns), strict=True):
        if value and needed == must:
            totals[pa] = totals.get(pa, 0) | value
    return sorted(totals.items())


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
    if format_of(data) != FORMAT:
        return None  # What it is instead, its own reader says.
    with errors_named(name):
        return _case(read_document(data, CompositeJson))


def _case(document: CompositeJson) -> CompositeCase:
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
    with errors_named("$.case"):
        case = case_of(document.case)
    mode = case.context().mode
    if not mode.long:
        raise BadInput(f"$.case: composites are of 4- and 5-level paging, not {mode.value} paging")
    return CompositeCase(case, composite)


def composite_lines(name: str, case: CompositeCase, judged: CompositeVerdict) -> Iterator[str]:
    """Yield lines about one composite, as `replay` prints them."""
    agrees = not judged.differ[0] and not judged.explained[0]
    yield f"{name}: {'agrees' if agrees else 'diverges'}: {composite_text(case)}"
    for path in composite_walks(case):
        yield from walk_lines(case.case.context(), path)
    for number, option in enumerate(each for each in judged.allowed if each.valid[0]):
        yield f"  {'or:       ' if number else 'predicted:'} {_answers(option, case)}"
        for must, title in ((True, "changes"), (False, "may change")):
            words = changes(option, must=must)
            if words:
                yield f"             {title} {words_text(words)}"
    yield f"  observed:  {_answers(judged.seen, case)}"
    pairs = zip(judged.seen.entry_pa[0].tolist(), judged.seen.entry_value[0].tolist(), strict=True)
    changed = [(pa, value) for pa, value in pairs if value]
    if changed:
        yield f"             changes {words_text(changed)}"
    for known in judged.known:
        yield f"  known emulator divergence: {known}"


def composite_walks(case: CompositeCase) -> list[Walk]:
    """Return the walks of a composite: of its page, and of the other one that it goes to."""
    row, inner = case.composite, case.case
    va = int(row.va[0])
    pages = [va]
    if FORMS[case.access].family is Family.CROSS:
        pages.append(((va | FRAME - 1) + 1) % (1 << 64))
    elif row.then_va[0] != row.va[0]:
        pages.append(int(row.then_va[0]))
    memory, context = inner.memory(), inner.context()
    return [walk(memory, context, page) for page in pages]


def composite_accesses(case: CompositeCase) -> list[Access]:
    """Return the accesses that a composite is made of, each by itself."""
    row, form = case.composite, FORMS[case.access]
    va, cpl, ac = int(row.va[0]), int(row.cpl[0]), bool(row.ac[0])
    second = (va, cpl, ac)
    if form.family is Family.CROSS:
        second = (((va | FRAME - 1) + 1) % (1 << 64), cpl, ac)
    elif form.family is Family.TWICE:
        second = (int(row.then_va[0]), int(row.then_cpl[0]), bool(row.then_ac[0]))
    elif form.family is Family.IMPLICIT:
        return [Access(va, kind, 0, ac) for kind in form.types]
    starts = zip(form.types, ((va, cpl, ac), second), strict=False)
    return [Access(at, kind, level, flag) for kind, (at, level, flag) in starts]


def composite_text(case: CompositeCase) -> str:
    """Return a composite in words."""
    row = case.composite
    text = f"{case.access} at {int(row.va[0]):#x}, CPL {int(row.cpl[0])}"
    text += ", AC set" if row.ac[0] else ""
    if FORMS[case.access].family is Family.TWICE:
        then_va = int(row.then_va[0])
        text += f", then {'' if then_va == int(row.va[0]) else f'at {then_va:#x}, '}"
        text += f"CPL {int(row.then_cpl[0])}{', AC set' if row.then_ac[0] else ''}"
        pkru = int(row.then_pkru[0])
        text += "" if pkru == SAME_PKRU else f", PKRU {pkru:#x}"
    return text


def _answers(row: AllowedOutcome | CompositeOutcomes, case: CompositeCase) -> str:
    joint = " then " if FORMS[case.access].family is Family.TWICE else " and "
    return joint.join(outcome_text(each) for each in outcomes_at(row, case.access))
