"""Findings as annotations of a pull request: workflow commands of GitHub Actions.

Source: GitHub's documentation, "Workflow commands for GitHub Actions".
"""

from collections.abc import Iterator

from crosswalk.emu.report.finding import FindingsJson, finding_lines, headline

__all__ = ["annotation", "annotation_lines"]


def annotation_lines(search: FindingsJson) -> Iterator[str]:
    """Yield a line for each finding, in the walker's file where that is known."""
    for finding in search.findings:
        place = finding.location or (None if finding.case is None else (finding.case, 1))
        lines = list(finding_lines(finding))
        if finding.reproduce is not None:
            lines.append(f"To see it again: {finding.reproduce}")
        yield annotation(headline(finding), "\n".join(lines), place)


def annotation(title: str, text: str, place: tuple[str, int] | None) -> str:
    """Return an error as a workflow command; `place` is a file, and a line of it."""
    parts = [] if place is None else [f"file={_property(place[0])}", f"line={place[1]}"]
    parts.append(f"title={_property(title)}")
    return f"::error {','.join(parts)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
