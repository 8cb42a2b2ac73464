"""Findings as a JUnit report, which CI services show as failed tests."""

import re
from xml.etree import ElementTree as ET

from crosswalk.emu.report.finding import (
    FindingsJson,
    finding_lines,
    found_text,
    headline,
)

__all__ = ["clean", "junit"]

_CLASS = "crosswalk.fuzz"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(
    document: FindingsJson, title: str, searched: str, seconds: float, error: str | None = None
) -> bytes:
    """Return a report in UTF-8: a case named `searched` for the search, one that fails a finding.

    What fails has both answers, the walk with the entry to blame, and the command that shows it
    again. `title` is the suite's name, `seconds` its time; `error` says why the search itself is
    no result.
    """
    suite = ET.Element(
        "testsuite",
        name=clean(title),
        tests=str(len(document.findings) + 1),
        failures=str(len(document.findings)),
        errors=str(int(error is not None)),
        skipped="0",
        time=f"{seconds:.3f}",
    )
    search = ET.SubElement(suite, "testcase", classname=_CLASS, name=clean(searched))
    if error is not None:
        ET.SubElement(search, "error", type="search", message=clean(error))
    for finding in document.findings:
        case = ET.SubElement(suite, "testcase", classname=_CLASS, name=finding.id)
        failure = ET.SubElement(case, "failure", type="finding", message=clean(headline(finding)))
        lines = [found_text(finding), *finding_lines(finding)]
        if finding.reproduce is not None:
            lines.append(f"reproduce: {finding.reproduce}")
        failure.text = clean("\n".join(lines))
    ET.indent(suite)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def clean(text: str) -> str:
    """Return text without what XML can't hold: a walker's name may be anything."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
