"""Findings as Markdown, as GitHub shows it: to be kept, or to be pasted into an issue."""

import re
from collections.abc import Iterator

from crosswalk.emu.report.finding import (
    NOTHING,
    FindingJson,
    FindingsJson,
    ReportJson,
    VariantJson,
    case_file,
    entry_lines,
    found_text,
    has_predicted,
    headline,
    manual_text,
    nothing_text,
    search_title,
    titled_answers,
)

__all__ = ["markdown"]

_PLAIN = re.compile(r"[\w ,.:;/()'+×%=-]*")
"""What is shown as it is: no mark-up, no mention of a person, no number of an issue."""
_RUNS = re.compile("`+")


def markdown(document: ReportJson) -> bytes:
    """Return the findings as Markdown in UTF-8: a table of them, then all that is known of each."""
    return "".join(f"{line}\n" for line in _lines(document)).encode()


def _lines(document: ReportJson) -> Iterator[str]:
    for number, search in enumerate(document.searches):
        if number:
            yield ""
        yield from _search(search)
    if not document.searches:
        yield NOTHING
    yield ""
    yield f"Made by {_inline(document.made_by)}. Sections of the manuals are named by their"
    yield f"titles: {document.editions}."


def _search(search: FindingsJson) -> Iterator[str]:
    yield f"# {_inline(search_title(search))}"
    yield ""
    for line in search.about:
        yield f"- {_inline(line)}"
    if search.about:
        yield ""
    if not search.findings:
        yield nothing_text(search)
        return
    yield "| | finding | times |"
    yield "|---:|---|---:|"
    for number, finding in enumerate(search.findings, 1):
        yield f"| {number} | {_cell(headline(finding))} | {finding.count:,} |"
    for number, finding in enumerate(search.findings, 1):
        yield ""
        yield from _finding(number, finding)


def _finding(number: int, finding: FindingJson) -> Iterator[str]:
    yield f"## {number}. {_inline(headline(finding))}"
    yield ""
    yield f"**Rule:** {_inline(finding.rule)}"
    if finding.manual:
        yield f"<br>**Manual:** {manual_text(finding.manual)}"
    yield ""
    yield f"| | {_cell(finding.access or 'answer')} |"
    yield "|---|---|"
    for who, text in titled_answers(finding):
        yield f"| {_cell(who)} | {_cell(text)} |"
    yield ""
    yield from _block("text", entry_lines(finding))
    yield f"Found {found_text(finding)}."
    if finding.reproduce is not None:
        yield ""
        yield "To see it again:"
        yield ""
        yield from _block("sh", [finding.reproduce])
    if finding.case_text is not None:
        yield "<details><summary>The case file</summary>"
        yield ""
        if has_predicted(finding):
            yield "In the case file, `predicted` is what the walker said."
            yield ""
        yield from _block("json", finding.case_text.splitlines())
        yield "</details>"
    yield from _others(finding.variants[1:])


def _others(variants: list[VariantJson]) -> Iterator[str]:
    if variants:
        yield ""
        yield f"<details><summary>{len(variants)} more of the same cause</summary>"
        yield ""
        for each in variants:
            name = case_file(each)
            where = "" if name is None else f": {_code(name)}"
            yield f"- {each.count:,} × {_inline(each.rule)}{where}"
        yield ""
        yield "</details>"


def _inline(text: str) -> str:
    """Return text of others as it is if it is plain, and else as code."""
    return text if _PLAIN.fullmatch(text) else _code(text)


def _cell(text: str) -> str:
    return _inline(text).replace("|", r"\|")


def _code(text: str) -> str:
    fence = "`" * (max((len(run) for run in _RUNS.findall(text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _block(language: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    text = list(lines)
    longest = max((len(run) for line in text for run in _RUNS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}"
    yield from text
    yield fence
    yield ""
