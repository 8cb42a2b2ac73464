"""What judges say of the suite, as documents and as a table."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    Status,
    Verdicts,
    access_verdicts,
    composite_verdicts,
    kind_of,
)
from crosswalk.emu.judges.judge import Judge
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.report.judged import composite_document, judged_probes
from crosswalk.emu.suite.images import question_of
from crosswalk.emu.suite.suite import content_of, digest_of_suite
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.case import Case
from crosswalk.walker.formats.documents import (
    Count,
    Document,
    document_bytes,
    json_block,
    json_line,
)
from crosswalk.walker.formats.judged import JudgedCompositeJson, JudgedCpuJson, JudgedJson

__all__ = ["ResultsJson", "results_name", "results_of", "table_of"]


class OtherJson(Document, frozen=True):
    """A probe that didn't agree: its number in the case, and what the judge said."""

    probe: Count
    judged: JudgedJson


class CaseResultJson(Document, frozen=True):
    """The results of a case: the judge's CPU, how many probes agreed, what became of others."""

    cpu: JudgedCpuJson
    agreed: Count
    others: list[OtherJson]


class CompositeResultJson(Document, frozen=True):
    """The result of a composite: the judge's CPU, and what it said."""

    cpu: JudgedCpuJson
    judged: JudgedCompositeJson


class ResultsJson(Document, frozen=True):
    """A document of the format crosswalk-suite-results/1: what a judge said of the suite.

    `suite` is the SHA-256 of its index, `verdicts` how many probes there are of each verdict.
    """

    format: Literal["crosswalk-suite-results/1"]
    suite: str
    version: str
    verdicts: dict[str, Count]
    cases: dict[str, CaseResultJson]
    composites: dict[str, CompositeResultJson]


def results_of(judge: Judge, files: Mapping[str, bytes]) -> bytes:
    """Return what a judge says of all cases of a suite, as a document."""
    parsed = {
        path: content_of(path, data) for path, data in files.items() if path.startswith("cases/")
    }
    singles = {path: each for path, each in parsed.items() if isinstance(each, Case)}
    composites = {path: each for path, each in parsed.items() if isinstance(each, CompositeCase)}
    questions = [question_of(each) for each in singles.values()]
    answers = zip(singles, questions, judge.accesses(questions), strict=True)
    who = kind_of(judge.name, judge.version)
    found = {path: access_verdicts(question, said, who) for path, question, said in answers}
    rows = [
        (each.case.memory(), each.case.context(), each.composite) for each in composites.values()
    ]
    several = dict[str, CompositeVerdicts]()
    for path, row, answer in zip(composites, rows, judge.composites(rows), strict=True):
        several[path] = composite_verdicts(row[0], row[2], answer, who)
    verdicts: Counter[Status] = Counter()
    for each in _verdicts(found, several):
        verdicts.update(map(Status, each.status.tolist()))
    counts = {status.name.lower(): verdicts[status] for status in Status if verdicts[status]}
    cases = {path: _case_result(each) for path, each in found.items()}
    more = {
        path: CompositeResultJson(_cpu(each.context), composite_document(composites[path], each))
        for path, each in several.items()
    }
    return document_bytes(
        {
            "format": json_line("crosswalk-suite-results/1"),
            "suite": json_line(digest_of_suite(files)),
            "version": json_line(judge.version),
            "verdicts": json_line(counts),
            "cases": json_block("{", map(_member, cases.items()), "}"),
            "composites": json_block("{", map(_member, more.items()), "}"),
        }
    )


def _member(item: tuple[str, Document]) -> str:
    path, value = item
    return f"{json_line(path)}: {json_line(value)}"


def results_name(version: str) -> str:
    """Return the path of a judge's results: by what it is, without the CPUs that it had."""
    name = re.sub(r"[^a-z0-9.]+", "-", _who(version).lower()).strip("-")
    return f"results/{name}.json"


def _who(version: str) -> str:
    """Return what a judge is, of its version, without the CPUs that it had."""
    return re.split(r", \w+ of \d", version)[0]


def _case_result(found: AccessVerdicts) -> CaseResultJson:
    said = judged_probes(found, [found.predicted[row] for row in range(len(found.verdicts))])
    others = [
        OtherJson(row, each)
        for row, each in enumerate(said)
        if found.verdicts.of(row)[0] is not Status.AGREED
    ]
    agreed = len(found.verdicts) - len(others)
    return CaseResultJson(_cpu(found.context), agreed, others)


def _cpu(context: PagingContext) -> JudgedCpuJson:
    return JudgedCpuJson(context.vendor, context.maxphyaddr, context.page1gb)


def _verdicts(
    found: Mapping[str, AccessVerdicts], several: Mapping[str, CompositeVerdicts]
) -> Iterator[Verdicts]:
    for each in found.values():
        yield each.verdicts
    for one in several.values():
        yield one.verdicts


def _ordered(version: str) -> list[tuple[int, str]]:
    """Return a key by which versions are sorted, their numbers as numbers."""
    return [
        (int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", version)
    ]


def table_of(results: Iterable[ResultsJson]) -> str:
    """Return what judges said as a table in Markdown: of each, how many probes came to what."""
    some = sorted(results, key=lambda each: _ordered(each.version))
    statuses = [
        status.name.lower()
        for status in Status
        if any(status.name.lower() in each.verdicts for each in some)
    ]
    lines = [
        f"| judge | probes | {' | '.join(each.replace('_', ' ') for each in statuses)} |",
        f"|---|---:|{'---:|' * len(statuses)}",
    ]
    for each in some:
        numbers = (f"{each.verdicts.get(status, 0):,}" for status in statuses)
        total = sum(each.verdicts.values())
        lines.append(f"| {_who(each.version)} | {total:,} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"
