"""`findings`: what campaigns have found, listed and written as reports; nothing is run."""

import argparse
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from crosswalk.emu.cli.campaign_findings import case_finding, kept_findings, report_of
from crosswalk.emu.cli.output import emit_document, remark
from crosswalk.emu.findings.describe import joined_findings
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign.cases import FINDINGS, STATE
from crosswalk.emu.fuzz.campaign.state import decode_state, unpack
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.report.annotations import annotation_lines
from crosswalk.emu.report.finding import (
    PEER,
    FindingJson,
    FindingsJson,
    dump_findings,
    search_lines,
    search_title,
)
from crosswalk.emu.report.report_files import write_report
from crosswalk.emu.report.text import count_text
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import printable

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """List the findings below a folder, write the reports, and return the exit status."""
    folder: Path = options.folder
    if not folder.is_dir():
        raise BadInput(f"{folder}: no folder of a campaign, nor of cases")
    problems: list[str] = []
    kept = _searches(folder, problems)
    searches = [_chosen(search, options.cause) for search in kept]
    document = report_of(searches)
    for path in options.report or ():
        write_report(path, document)
    if options.map is not None:
        # What draws isn't needed for anything else.
        from crosswalk.emu.cli.charts import write_findings_map  # noqa: PLC0415

        write_findings_map(options.map, document, _covered(folder))
    for problem in problems:
        remark(problem)
    if options.github:
        for line in (line for search in searches for line in annotation_lines(search)):
            remark(line)
    if options.json:
        emit_document(dump_findings(document))
    else:
        for line in _lines(folder, searches, _unmatched(kept, options.cause)):
            print(line)
    found = any(search.findings for search in searches)
    return 2 if problems and not found else 0


def _covered(folder: Path) -> CoverageMap | None:
    """Return the coverage map of a folder's campaign; None where there are several, or none."""
    campaigns = _campaigns(folder)
    if len(campaigns) != 1:
        return None
    try:
        seen = decode_state(read_file(campaigns[0] / STATE)).seen
        return None if seen is None else CoverageMap.unpack(unpack(seen))
    except CrosswalkError as error:
        # Its cases are drawn all the same.
        remark(f"no coverage map is drawn: {error}")
        return None


def _unmatched(searches: Sequence[FindingsJson], patterns: Sequence[str] | None) -> str | None:
    """Return that no finding matches the patterns of --cause, where there are some of both."""
    count = sum(len(search.findings) for search in searches)
    if not count or patterns is None:
        return None
    which = "the 1 finding doesn't match" if count == 1 else f"none of {count:,} findings matches"
    return f"{which} {' or '.join(repr(pattern) for pattern in patterns)}"


def _lines(folder: Path, searches: Sequence[FindingsJson], unmatched: str | None) -> Iterator[str]:
    if not any(search.findings for search in searches):
        yield unmatched or f"nothing found in {printable(str(folder))}"
    for search in searches:
        if search.findings:
            where = "" if search.folder is None else f" in {printable(search.folder)}"
            yield f"{search_title(search)}{where}: {count_text(len(search.findings), 'finding')}"
            yield from search_lines(search)


def _searches(folder: Path, problems: list[str]) -> list[FindingsJson]:
    """Return what is kept in a campaign's folder, in those below it, or in a folder of cases."""
    campaigns = _campaigns(folder)
    if not campaigns:
        return _of_cases(folder, problems)
    searches = []
    for each in campaigns:
        try:
            searches.append(kept_findings(each, problems))
        except CrosswalkError as error:
            # Of another release, perhaps. Its cases can be read all the same.
            problems.append(str(error))
            searches += _of_cases(each, problems)
    return searches


def _campaigns(folder: Path) -> list[Path]:
    """Return the folders of campaigns: this one, and those in it."""
    below = sorted(each for each in folder.iterdir() if (each / STATE).is_file())
    return [folder, *below] if (folder / STATE).is_file() else below


def _of_cases(folder: Path, problems: list[str]) -> list[FindingsJson]:
    """Return what the cases of a folder tell of, by the walker that they name."""
    paths = {*folder.glob("*.json"), *folder.glob(f"{FINDINGS}/*.json")} - {folder / STATE}
    by_walker: dict[str | None, list[tuple[Signature, FindingJson]]] = {}
    for path in sorted(paths):
        try:
            made = case_finding(path, read_file(path))
        except CrosswalkError as error:
            problems.append(str(error))
            continue
        witness = made[0].witness
        walker = witness.removeprefix(PEER) if witness.startswith(PEER) else None
        by_walker.setdefault(walker, []).append(made)
    return [
        FindingsJson(walker=walker, findings=joined_findings(made), folder=str(folder))
        for walker, made in sorted(by_walker.items(), key=lambda item: item[0] or "")
    ]


def _chosen(search: FindingsJson, patterns: Sequence[str] | None) -> FindingsJson:
    """Return the findings whose cause or rule a pattern matches."""
    found = [each for each in search.findings if patterns is None or _matches(each, patterns)]
    return msgspec.structs.replace(search, findings=found)


def _matches(finding: FindingJson, patterns: Sequence[str]) -> bool:
    texts = [finding.cause, finding.rule, *(each.rule for each in finding.variants)]
    return any(fnmatchcase(text.lower(), pattern.lower()) for text in texts for pattern in patterns)
