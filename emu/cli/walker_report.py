"""What commands report of findings, and of what a walker under test was asked and answered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from crosswalk.emu.cli.output import remark
from crosswalk.emu.findings.baseline import Accepted, Muting
from crosswalk.emu.findings.cause import Part, parts_of
from crosswalk.emu.findings.describe import joined_findings
from crosswalk.emu.findings.form import Form
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.report.finding import FindingJson, FindingsJson, headline, told
from crosswalk.emu.report.text import count_text
from crosswalk.emu.targets.tally import Tally, by_claim, by_mode
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats.located_errors import printable

__all__ = ["Variants", "finding_records", "question_lines", "wrong_text"]


@dataclass(frozen=True, slots=True)
class Variants:
    """The findings of a run before those of one cause are joined: signature and description.

    `forms` are those of the smallest cases by the finding's id, `about` lines on the whole search.
    """

    walker: str | None
    made: Sequence[tuple[Signature, FindingJson]]
    forms: Mapping[str, Form] = field(default_factory=dict)
    about: Sequence[str] = ()

    def document(self) -> FindingsJson:
        """Return one finding a cause."""
        found = joined_findings(self.made, self.forms)
        return FindingsJson(walker=self.walker, findings=found, about=list(self.about))

    def judged(self, muting: Muting, *, whole: bool = True) -> tuple[FindingsJson, Accepted]:
        """Return the findings that fail, and which don't.

        What fails is described by what is new of it alone. A `whole` run writes the baseline, if
        one is to be written, and says what it didn't find.
        """
        found = muting.sort((each, _told_parts(each)) for each in self.made)
        new, known = found.new, found.known
        if whole and muting.write is not None:
            muting.write_baseline(found.unlisted)
            remark(f"{muting.write}: a baseline of {count_text(len(found.unlisted), 'cause')}")
            both = {id(each) for each in (*new, *known)}
            new, known = (), tuple(each for each in self.made if id(each) in both)
        ignored = {pattern: self._causes(some) for pattern, some in found.ignored.items()}
        accepted = Accepted(
            {pattern: causes for pattern, causes in ignored.items() if causes or whole},
            self._causes(known),
            found.vanished if whole else (),
        )
        document = replace(self, made=new).document()
        return msgspec.structs.replace(document, accepted=accepted.count), accepted

    def _causes(self, some: Sequence[tuple[Signature, FindingJson]]) -> tuple[str, ...]:
        return tuple(map(headline, joined_findings(some, self.forms)))


def _told_parts(made: tuple[Signature, FindingJson]) -> tuple[Part, ...]:
    """Return the rules that a finding breaks at once, each with its cause as it is printed."""
    signature, finding = made
    return tuple(
        Part(told(finding, printable(part.text)), printable(part.rule))
        for part in parts_of(signature)
    )


def wrong_text(walker: str | None, wrong: int) -> str:
    """Return how many answers of a walker under test are wrong, behind counts of its probes."""
    return "" if walker is None else f"; wrong answers of {printable(walker)}: {wrong:,}"


def question_lines(walker: str, tally: Tally) -> Iterator[str]:
    """Yield what a walker under test was asked and answered, by paging mode and by claim."""
    asked, answered, declined = (
        by_mode(each) for each in (tally.asked, tally.answered, tally.declined)
    )
    failed = asked.total() - answered.total() - declined.total()
    yield (
        f"{walker}: asked for {asked.total():,} accesses, answered {answered.total():,}, "
        f"declined {declined.total():,}" + (f", failed at {failed:,}" if failed else "")
    )
    for mode in PagingMode:
        if asked[mode]:
            what = "declined" if asked[mode] == declined[mode] else f"answered {answered[mode]:,}"
            yield f"    {mode.slug}: asked for {asked[mode]:,}, {what}"
    claims = by_claim(tally.asked), by_claim(tally.answered)
    for claim, count in sorted(claims[0].items()):
        if count != claims[1][claim]:
            yield f"    {claim.value}: asked for {count:,}, answered {claims[1][claim]:,}"


def finding_records(document: FindingsJson) -> list[dict[str, Any]]:
    """Return the findings as a summary document has them."""
    return [
        {
            "id": found.id,
            "cause": found.cause,
            "signature": found.signature,
            "count": found.count,
            "layout": found.layout,
            "case": found.case,
            "entries": found.entries,
            "reproduce": found.reproduce,
            "variants": msgspec.to_builtins(found.variants),
        }
        for found in sorted(document.findings, key=lambda found: found.id)
    ]
