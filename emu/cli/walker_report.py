"""What commands report of findings, and of what a walker under test was asked and answered."""

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from crosswalk.emu.findings.baseline import Accepted, Muting
from crosswalk.emu.report.finding import FindingsJson, headline, told
from crosswalk.emu.targets.tally import Tally, by_claim, by_mode
from crosswalk.walker.context import PagingMode

__all__ = ["accepted_of", "finding_records", "only", "question_lines"]


def accepted_of(muting: Muting, document: FindingsJson) -> Accepted:
    """Return which findings are new, and which are ignored or known."""
    rules, texts = dict[str, list[str]](), dict[str, list[str]]()
    for finding in document.findings:
        rules[headline(finding)] = [each.rule for each in finding.variants]
        texts[headline(finding)] = [
            told(finding, text) for each in finding.variants for text in each.causes
        ]
    return muting.accepted(rules, texts)


def only(document: FindingsJson, causes: Collection[str]) -> FindingsJson:
    """Return the document with the findings of these causes alone."""
    some = [finding for finding in document.findings if headline(finding) in causes]
    return msgspec.structs.replace(document, findings=some)


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
