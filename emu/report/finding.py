"""A finding as a document: the one description of which every report is made.

The text of the command line, Markdown, HTML, SARIF, JUnit and GitHub's annotations all show what
stands here, and nothing else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from crosswalk.emu.report.text import count_text
from crosswalk.walker.formats.documents import Count, Document, Hex64
from crosswalk.walker.formats.located_errors import printable

__all__ = [
    "NOTHING",
    "PEER",
    "UNSTEADY",
    "EntryJson",
    "FindingJson",
    "FindingsJson",
    "ReportJson",
    "SectionJson",
    "VariantJson",
    "answer_rows",
    "case_file",
    "dump_findings",
    "entry_lines",
    "entry_rows",
    "finding_lines",
    "found_text",
    "has_predicted",
    "headline",
    "manual_text",
    "nothing_text",
    "search_lines",
    "search_title",
    "titled_answers",
    "told",
    "variants_text",
]

UNSTEADY = "asked alone, it answers differently: the case is left as it was found"
"""What is said of a finding that who is under test, walker or machine, doesn't show by its case."""

NOTHING = "Nothing was found."
"""What a report without findings says."""

PEER = "peer:"
"""What the witness of a finding about a walker under test begins with."""


class SectionJson(Document, frozen=True):
    """A section of a manual, by its title."""

    manual: str
    section: str

    def __str__(self) -> str:
        return f'{self.manual}, "{self.section}"'


class EntryJson(Document, frozen=True):
    """An entry of a paging structure: `text` is its line, with name, value, kind and flags.

    `blame` says what of it the finding is about. `va` is the first linear address that an entry
    beside the walk is read for; a word that lies in no table has none.
    """

    name: str
    pa: Hex64
    entry: Hex64
    text: str
    blame: str | UnsetType = UNSET
    va: Hex64 | UnsetType = UNSET


class VariantJson(Document, frozen=True):
    """One signature of a finding's cause, with a case of its own.

    `causes` are what a baseline lists of it: several, where it breaks several rules at once.
    """

    id: str
    rule: str
    signature: str
    count: Count
    reproduce: str | None
    case: str | None
    causes: list[str] = msgspec.field(default_factory=list)


class FindingJson(Document, frozen=True, kw_only=True):
    """What somebody is wrong about: the rule, both answers, the entries, a case, a command.

    `cause` is what its `variants`, of several levels or sizes, have in common, in words; the first
    of them has the `id`, and all that is told here but the sum of the counts. `layout` is the
    first with any. `witness` is who is wrong: a walker under test (`peer:NAME`), the built-in
    `walker`, the `second walk`, what was `meant`, the `emulator` or `crosswalk` itself. `said` and
    `truth` are its answer and the true one in the words of the signature, `answer` that to this
    access. `predicted` is that of Crosswalk's own walk, `observed` the emulated CPU's. `manual` has
    no sections for what no manual states. `walk` is from the root down; `beside` are the case's
    entries that this walk doesn't read, without the `more` that aren't shown; `needed` says that
    the finding isn't shown without them. `case` is the path of the case file, `case_text` its text
    where it has few lines; `size` is how big it is in words, `entries` how many entries it has.
    `unsteady` says that who is under test doesn't show the finding when asked for it alone.
    `location` is where the walker is to be found: a file, and a line in it.
    """

    id: str
    cause: str
    signature: str
    rule: str
    witness: str
    said: str
    truth: str
    manual: list[SectionJson]
    access: str | None
    answer: str
    predicted: str | None
    observed: str | None
    context: str | None
    walk: list[EntryJson] = msgspec.field(default_factory=list)
    remark: str | None = None
    beside: list[EntryJson] = msgspec.field(default_factory=list)
    more: Count = 0
    needed: bool = False
    case: str | None = None
    case_text: str | None = None
    unsteady: bool = False
    size: str | None = None
    entries: Count | None = None
    reproduce: str | None = None
    count: Count = 1
    layout: Count | None = None
    location: tuple[str, Annotated[int, Meta(ge=1)]] | None = None
    variants: list[VariantJson] = msgspec.field(default_factory=list)


class FindingsJson(Document, frozen=True, kw_only=True):
    """What was found about one walker, or without one about Crosswalk itself: in one folder.

    `about` are lines on the search as a whole; `folder` is None for one that keeps nothing.
    `accepted` counts findings that aren't described here, since they don't fail.
    """

    walker: str | None
    findings: list[FindingJson]
    folder: str | None = None
    about: list[str] = msgspec.field(default_factory=list)
    accepted: Count = 0


class ReportJson(Document, frozen=True, kw_only=True):
    """A document of the format crosswalk-findings/1.

    `made_by` is the program's name and version, `editions` those of the manuals.
    """

    format: Literal["crosswalk-findings/1"] = "crosswalk-findings/1"
    made_by: str
    editions: str
    searches: list[FindingsJson]


def dump_findings(document: ReportJson) -> bytes:
    """Return the document as JSON in UTF-8, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def search_title(search: FindingsJson) -> str:
    """Return what a search is about, as a title."""
    about = "Crosswalk's own walker" if search.walker is None else search.walker
    return f"Findings about {printable(about)}"


def nothing_text(search: FindingsJson) -> str:
    """Return what a report of a search without findings says."""
    return "Nothing new was found." if search.accepted else NOTHING


def search_lines(search: FindingsJson) -> Iterator[str]:
    """Yield each finding with its walk, both answers, and the command that shows it again."""
    for finding in search.findings:
        yield f"{finding.count:,} × {headline(finding)}"
        yield from finding_lines(finding, rule=False)
        first = "" if finding.layout is None else f", first in layout {finding.layout}"
        again = "" if finding.reproduce is None else f": {finding.reproduce}"
        yield f"  {finding.size or 'no case'}{first}{again}"


def headline(finding: FindingJson) -> str:
    """Return the cause in a line, with who it is that is wrong where no walker under test is."""
    return told(finding, finding.cause)


def told(finding: FindingJson, text: str) -> str:
    """Return a cause in words with who is wrong, where that isn't the walker under test."""
    if finding.witness.startswith(PEER):
        return text
    due, says = " is due: ", ": says "
    if finding.truth == "due":
        return text.replace(due, f"{due}{finding.witness}: ", 1)
    return text.replace(says, f": {finding.witness} says ", 1)


def manual_text(sections: Sequence[SectionJson]) -> str:
    """Return sections in one line."""
    return "; ".join(map(str, sections))


def found_text(finding: FindingJson) -> str:
    """Return how often a finding occurred and its rule did, where first, how big its case is."""
    several = len(finding.variants) > 1
    own = f", {finding.variants[0].count:,} of them of this rule" if several else ""
    first = "" if finding.layout is None else f", first in layout {finding.layout:,}"
    case = "no case" if finding.size is None else f"a case of {finding.size}"
    return f"{count_text(finding.count, 'time')}{own}{first}; {case}"


def answer_rows(finding: FindingJson) -> list[tuple[str, str]]:
    """Return (who, what it says): the walker that is wrong, Crosswalk's own, the emulated CPU."""
    who = {"walker": "predicted", "meant": "intended"}.get(finding.witness, finding.witness)
    rows = [("walker" if who.startswith(PEER) else who, finding.answer)]
    for title, text in (("predicted", finding.predicted), ("observed", finding.observed)):
        if text is not None and all(title != other for other, _ in rows):
            rows.append((title, text))
    return rows


def titled_answers(finding: FindingJson) -> list[tuple[str, str]]:
    """Return the same, where a walker under test is wrong with the names of the other two.

    For reports that show the case file, in which `predicted` is that walker's answer.
    """
    if not finding.witness.startswith(PEER):
        return answer_rows(finding)
    names = {"predicted": "Crosswalk", "observed": "emulated CPU"}
    return [(names.get(who, who), text) for who, text in answer_rows(finding)]


def has_predicted(finding: FindingJson) -> bool:
    """Return whether the case file has a walker's answer, for which it says `predicted`."""
    text = finding.case_text
    return finding.witness.startswith(PEER) and text is not None and '"predicted"' in text


def case_file(variant: VariantJson) -> str | None:
    """Return the name of a variant's case file; else the command that shows it, if there is one."""
    return variant.reproduce if variant.case is None else Path(variant.case).name


def entry_lines(finding: FindingJson) -> Iterator[str]:
    """Yield the entries of the walk, those beside it, and the registers; blame behind an arrow."""
    yield from (text for text, _ in entry_rows(finding))


def entry_rows(finding: FindingJson) -> Iterator[tuple[str, bool]]:
    """Yield the same, each with whether it is to blame.

    Where no entry was walked, the remark says why, and the entries beside it aren't to blame.
    """
    if finding.remark is not None:
        yield finding.remark, True
    for entry in finding.walk:
        blamed = entry.blame is not UNSET
        yield (f"{entry.text}  <-- {entry.blame}" if blamed else entry.text), blamed
    if finding.beside or finding.more:
        if finding.walk or finding.remark is not None:
            needed = ", and needed to show it" if finding.needed else ""
            yield f"not on this walk{needed}:", False
        for entry in finding.beside:
            first = "" if entry.va is UNSET else f"  for {entry.va} and up"
            yield f"{entry.text}{first}", finding.needed and finding.remark is None
        if finding.more:
            yield f"… and {finding.more:,} more", False
    if finding.context is not None:
        yield f"under {finding.context}", False
    if finding.unsteady:
        yield UNSTEADY, False


def finding_lines(finding: FindingJson, *, rule: bool = True, access: bool = True) -> Iterator[str]:
    """Yield all that is known of one finding, but rule or access where a line above has them."""
    if access and finding.access is not None:
        yield from _row("access", finding.access)
    if rule:
        yield from _row("rule", _rule_text(finding))
    if finding.manual:
        yield from _row("manual", manual_text(finding.manual))
    for who, text in answer_rows(finding):
        yield from _row(who, text)
    for line in entry_lines(finding):
        yield f"  {line}"
    others = variants_text(finding)
    if others is not None:
        yield f"  {others}"


def variants_text(finding: FindingJson) -> str | None:
    """Return the rules of a cause in one line, that of the case first; None where there is one."""
    first, *others = [f"{each.count:,} × {each.rule}" for each in finding.variants] or [""]
    return f"{first}; also {', '.join(others)}" if others else None


def _rule_text(finding: FindingJson) -> str:
    if finding.truth == "due":
        return told(finding, f"{finding.rule} is due: {finding.said}")
    return told(finding, f"{finding.rule}: says {finding.said}, it is {finding.truth}")


def _row(title: str, text: str) -> Iterator[str]:
    yield f"  {title + ':':<10} {text}"
