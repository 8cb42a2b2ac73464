"""`--report`: files of findings, in the format that their name ends in."""

from collections.abc import Callable
from pathlib import Path

from crosswalk.emu.report.finding import ReportJson
from crosswalk.emu.report.html import html
from crosswalk.emu.report.markdown import markdown
from crosswalk.emu.report.sarif import sarif
from crosswalk.walker.formats.files import write_file

__all__ = ["FORMATS", "write_report"]

FORMATS: dict[str, Callable[[ReportJson], bytes]] = {
    ".md": markdown,
    ".html": html,
    ".sarif": sarif,
}
"""What makes a report, by the ending of its file."""


def write_report(path: Path, document: ReportJson) -> None:
    """Write a report in the format that the name ends in; `BadInput` where that can't be done."""
    write_file(path, FORMATS[path.suffix](document))
