"""What expectations come to, as text, JSON, JUnit cases and annotations."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from xml.etree import ElementTree as ET

import numpy as np
from msgspec import UNSET, Meta, UnsetType, field

from crosswalk.emu.report.annotations import annotation
from crosswalk.emu.report.junit import clean
from crosswalk.emu.report.text import count_text, range_text
from crosswalk.walker.entry import FORMATS
from crosswalk.walker.expectations import Evidence, FlawedEntry, Judged, Outcome
from crosswalk.walker.expectations.sentences import Flaw, NoEntries
from crosswalk.walker.formats.documents import Count, Document, Hex64
from crosswalk.walker.symbols import Names

__all__ = [
    "ExpectationsJson",
    "Result",
    "detail_lines",
    "expectation_annotations",
    "expectation_lines",
    "expectations_document",
    "expectations_junit",
    "expectations_status",
    "expectations_text",
    "result_of",
]

_WORDS = {Outcome.HOLDS: "holds", Outcome.BROKEN: "BROKEN", Outcome.UNSAID: "can't be said"}
_WIDTH = max(map(len, _WORDS.values()))
_CLASS = "crosswalk.expect"

Rwx = Annotated[str, Meta(pattern=r"^[r-][w-][x-]\Z")]

_Labels = tuple[str | None, str | None]
"""The names of the region and the symbol that an address is in."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a sentence came to, with the region and symbol of each evidence or entry.

    `named` says that address spaces are named by their roots. `assumption` says with which bits
    of a register that isn't known it would come to something else; `point` where in a boot this
    was, empty without one. `every` says that all mappings were asked for; `loader` that the tables
    are those that a guest was entered with, not its own.
    """

    judged: Judged
    labels: tuple[_Labels, ...] = ()
    named: bool = False
    assumption: str = ""
    point: str = ""
    every: bool = False
    loader: bool = False

    @property
    def word(self) -> str:
        """What it came to, in a word or three."""
        return _WORDS[self.judged.outcome]

    @property
    def reason(self) -> str:
        """Why, in words; empty where it simply holds."""
        found = self.judged
        if found.outcome is Outcome.BROKEN and not found.reason and found.count is not None:
            if self.of_entries:
                return f"{found.count:,} entr{'y' if found.count == 1 else 'ies'}"
            return count_text(found.count, "mapping")
        return found.reason

    @property
    def evidence(self) -> Iterator[tuple[Evidence, _Labels]]:
        """The mappings that break it, with their labels."""
        labels = self.labels[: len(self.judged.evidence)]
        yield from zip(self.judged.evidence, labels, strict=True)

    @property
    def entries(self) -> Iterator[tuple[FlawedEntry, _Labels]]:
        """The entries that break it, with their labels."""
        labels = self.labels[len(self.judged.evidence) :]
        yield from zip(self.judged.entries, labels, strict=True)

    @property
    def of_entries(self) -> bool:
        """Whether what breaks it are entries, and not mappings."""
        return isinstance(self.judged.sentence.claim, NoEntries)

    @property
    def text(self) -> str:
        """Its sentence, and the point of the boot it was judged at."""
        where = f"at {self.point}" if self.point else ""
        if self.loader:
            where += f"{', ' if where else ''}of the loader's tables"
        return self.judged.sentence.text + (f" ({where})" if where else "")


def result_of(
    judged: Judged, names: Names, *, named: bool, assumption: str = "", every: bool = False
) -> Result:
    """Return a result with what its mappings are called."""
    found = [each.range.va for each in judged.evidence] + [each.va for each in judged.entries]
    va = np.array(found, np.uint64)
    labels = zip(names.region_texts(va), names.symbol_texts(va), strict=True)
    return Result(judged, tuple(labels), named, assumption, every=every)


def expectations_status(results: Iterable[Result]) -> int:
    """Return the exit status: 1 if any is broken, else 2 if nothing can be said of any, else 0."""
    outcomes = {each.judged.outcome for each in results}
    return 1 if Outcome.BROKEN in outcomes else 2 if Outcome.UNSAID in outcomes else 0


def expectations_text(results: Sequence[Result]) -> str:
    """Return all of them in a few words: "1 of 3 expectations broken"."""
    counts = Counter(each.judged.outcome for each in results)
    total = count_text(len(results), "expectation")
    if counts[Outcome.HOLDS] == len(results):
        # What holds has a reason where not everything could be looked at.
        part = sum(bool(each.judged.reason) for each in results)
        also = f", {part:,} of them partial" if part else ""
        return f"{total} {'holds' if len(results) == 1 else 'hold'}{also}{_of_loader(results)}"
    parts = []
    if counts[Outcome.BROKEN]:
        parts.append(f"{counts[Outcome.BROKEN]:,} of {total} broken")
    if counts[Outcome.UNSAID]:
        of = "" if parts else f" of {total}"
        parts.append(f"{counts[Outcome.UNSAID]:,}{of} can't be said")
    return "; ".join(parts) + _of_loader(results)


def _of_loader(results: Sequence[Result]) -> str:
    count = sum(each.loader for each in results)
    return f"; {count:,} judged of the loader's tables" if count else ""


def expectation_lines(results: Iterable[Result]) -> Iterator[str]:
    """Yield a line for each sentence, and below what is broken its mappings."""
    for each in results:
        reason = f": {each.reason}" if each.reason else ""
        yield f"{each.word:<{_WIDTH}}  {each.judged.sentence.text}{reason}"
        yield from (f"  {line}" for line in detail_lines(each))


def detail_lines(result: Result, how: str = " (--verbose names all)") -> Iterator[str]:
    """Yield the mappings or entries that break a sentence, and what it depends on."""
    for evidence, labels in result.evidence:
        yield _evidence_text(evidence, labels, named=result.named)
    for entry, labels in result.entries:
        yield _entry_text(entry, labels, named=result.named)
    if result.judged.more:
        yield f"… and more{'' if result.every else how}"
    if result.assumption:
        yield result.assumption


def _evidence_text(evidence: Evidence, labels: _Labels, *, named: bool) -> str:
    text = range_text(evidence.range) + _called(labels)
    if evidence.note:
        text += f"; {evidence.note}"
    if named:
        text += f"; root {evidence.context.root:#x}"
        if evidence.roots > 1:
            text += f" and {count_text(evidence.roots - 1, 'other')}"
    return text


def _entry_text(entry: FlawedEntry, labels: _Labels, *, named: bool) -> str:
    name = FORMATS[entry.context.mode][entry.level].entry
    text = f"{name} at {entry.pa:#x} = {entry.entry:#x}, va {entry.va:#x}: {_flaw_text(entry)}"
    text += _called(labels)
    return f"{text}; root {entry.context.root:#x}" if named else text


def _flaw_text(entry: FlawedEntry) -> str:
    if entry.flaw is Flaw.TABLE_OUTSIDE:
        return "its table lies outside RAM"
    if entry.flaw is Flaw.PAGE_OUTSIDE:
        return "its page lies outside RAM"
    bits = [str(bit) for bit in reversed(range(64)) if entry.reserved >> bit & 1]
    return f"sets reserved bit{'s' if len(bits) > 1 else ''} {', '.join(bits)}"


def _called(labels: _Labels) -> str:
    called = ": ".join(each for each in labels if each)
    return f"  {called}" if called else ""


class RightsJson(Document, frozen=True):
    """What the supervisor and the user may do, as rwx with dashes."""

    supervisor: Rwx
    user: Rwx


class EvidenceJson(Document, frozen=True, omit_defaults=True):
    """Mappings in a row that break a sentence; `change` is what became of them since a point.

    With `stride` they all map one page, every so many bytes.
    """

    va: Hex64
    pa: Hex64
    size: Count
    mappings: Count
    flags: Hex64
    rights: RightsJson
    stride: Count | UnsetType = UNSET
    root: Hex64 | UnsetType = UNSET
    roots: Count | UnsetType = UNSET
    region: str | UnsetType = UNSET
    symbol: str | UnsetType = UNSET
    change: str | UnsetType = UNSET


class EntryJson(Document, frozen=True, omit_defaults=True):
    """An entry that breaks a sentence about entries: its table's level, its address, its value.

    `va` is the lowest linear address found that it translates; `reserved_bits` are those that it
    sets.
    """

    level: Annotated[int, Meta(ge=1, le=5)]
    pa: Hex64
    entry: Hex64
    va: Hex64
    reserved_bits: Hex64 | UnsetType = UNSET
    root: Hex64 | UnsetType = UNSET
    region: str | UnsetType = UNSET
    symbol: str | UnsetType = UNSET


class SentenceJson(Document, frozen=True, omit_defaults=True):
    """A sentence, where it stands, and what it came to.

    `mappings` is how many break it, where they are counted; `first` are the first of them, or
    all, and `more` says that there are others. `tables` is "loader" where they are those that a
    guest was entered with, not its own. `entries` and `first_entries` are the same of a
    sentence about entries.
    """

    text: str
    outcome: Literal["holds", "broken", "unsaid"]
    file: str | UnsetType = UNSET
    line: Count | UnsetType = UNSET
    point: str | UnsetType = UNSET
    tables: Literal["loader"] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    assumption: str | UnsetType = UNSET
    mappings: Count | UnsetType = UNSET
    first: list[EvidenceJson] = field(default_factory=list)
    more: bool = False
    entries: Count | UnsetType = UNSET
    first_entries: list[EntryJson] = field(default_factory=list)


class ExpectationsJson(Document, frozen=True):
    """All sentences, and how many came to what."""

    format: Literal["crosswalk-expectations/1"]
    sentences: list[SentenceJson]
    holds: Count
    broken: Count
    unsaid: Count


def expectations_document(results: Sequence[Result]) -> ExpectationsJson:
    """Return what all sentences came to as a document."""
    counts = Counter(each.judged.outcome for each in results)
    return ExpectationsJson(
        format="crosswalk-expectations/1",
        sentences=[_sentence(each) for each in results],
        holds=counts[Outcome.HOLDS],
        broken=counts[Outcome.BROKEN],
        unsaid=counts[Outcome.UNSAID],
    )


def _sentence(result: Result) -> SentenceJson:
    judged, sentence = result.judged, result.judged.sentence
    count = UNSET if judged.count is None else judged.count
    return SentenceJson(
        text=sentence.text,
        outcome=judged.outcome.value,
        file=sentence.place if sentence.line else UNSET,
        line=sentence.line or UNSET,
        point=result.point or UNSET,
        tables="loader" if result.loader else UNSET,
        reason=result.reason or UNSET,
        assumption=result.assumption or UNSET,
        mappings=UNSET if result.of_entries else count,
        first=[_evidence(*each, named=result.named) for each in result.evidence],
        more=judged.more,
        entries=count if result.of_entries else UNSET,
        first_entries=[_entry(*each, named=result.named) for each in result.entries],
    )


def _evidence(evidence: Evidence, labels: _Labels, *, named: bool) -> EvidenceJson:
    found = evidence.range
    region, symbol = labels
    return EvidenceJson(
        va=hex(found.va),
        pa=hex(found.pa),
        size=found.size,
        mappings=found.count,
        flags=hex(found.flags),
        rights=RightsJson(found.rights.supervisor, found.rights.user),
        stride=found.stride or UNSET,
        root=hex(evidence.context.root) if named else UNSET,
        roots=evidence.roots if named else UNSET,
        region=UNSET if region is None else region,
        symbol=UNSET if symbol is None else symbol,
        change=evidence.note or UNSET,
    )


def _entry(found: FlawedEntry, labels: _Labels, *, named: bool) -> EntryJson:
    region, symbol = labels
    return EntryJson(
        level=found.level,
        pa=hex(found.pa),
        entry=hex(found.entry),
        va=hex(found.va),
        reserved_bits=hex(found.reserved) if found.reserved else UNSET,
        root=hex(found.context.root) if named else UNSET,
        region=UNSET if region is None else region,
        symbol=UNSET if symbol is None else symbol,
    )


def expectations_junit(results: Sequence[Result], title: str) -> bytes:
    """Return a JUnit report in UTF-8: a case a sentence, broken ones failures, unsaid ones errors.

    What one depends on that holds, in part or by what is assumed, is in the case's output.
    `title` is the suite's name. It has no times: the same sentences give the same bytes.
    """
    counts = Counter(each.judged.outcome for each in results)
    suite = ET.Element(
        "testsuite",
        name=clean(title),
        tests=str(len(results)),
        failures=str(counts[Outcome.BROKEN]),
        errors=str(counts[Outcome.UNSAID]),
        skipped="0",
    )
    for each in results:
        case = ET.SubElement(suite, "testcase", classname=_CLASS, name=clean(each.text))
        sentence = each.judged.sentence
        if sentence.line:
            case.set("file", clean(sentence.place))
            case.set("line", str(sentence.line))
        if each.judged.outcome is not Outcome.HOLDS:
            broken = each.judged.outcome is Outcome.BROKEN
            kind = "failure" if broken else "error"
            told = ET.SubElement(case, kind, type="expectation", message=clean(_message(each)))
            told.text = clean("\n".join(detail_lines(each)))
        elif each.reason or each.assumption:
            # It holds in part, or by what is assumed.
            notes = filter(None, [each.reason, *detail_lines(each)])
            ET.SubElement(case, "system-out").text = clean("\n".join(notes))
    ET.indent(suite)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def expectation_annotations(results: Iterable[Result]) -> Iterator[str]:
    """Yield an annotation for each sentence that doesn't hold, at its line of its file."""
    for each in results:
        if each.judged.outcome is Outcome.HOLDS:
            continue
        sentence = each.judged.sentence
        place = (sentence.place, sentence.line) if sentence.line else None
        text = "\n".join([_message(each), *detail_lines(each)])
        yield annotation(f"{each.word}: {each.text}", text, place)


def _message(result: Result) -> str:
    return f"{result.word}: {result.reason}" if result.reason else result.word
