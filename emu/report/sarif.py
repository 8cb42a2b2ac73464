"""Findings as SARIF 2.1.0, which code-scanning services read.

Source: OASIS, *Static Analysis Results Interchange Format (SARIF) Version 2.1.0*.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from crosswalk.emu.report.finding import (
    FindingJson,
    FindingsJson,
    ReportJson,
    finding_lines,
    found_text,
    headline,
    manual_text,
)

__all__ = ["sarif"]

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def sarif(document: ReportJson) -> bytes:
    """Return the findings as a SARIF log in UTF-8: a run for each search, a rule for each cause.

    A result lies in the walker's file where that is known, else in the case file.
    """
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [_run(document, search) for search in document.searches],
    }
    return msgspec.json.format(msgspec.json.encode(log)) + b"\n"


def _run(document: ReportJson, search: FindingsJson) -> dict[str, Any]:
    name, _, version = document.made_by.partition(" ")
    rules = {_rule_id(finding): finding for finding in search.findings}
    driver: dict[str, Any] = {
        "name": name,
        "semanticVersion": version,
        "rules": [_rule(name, finding) for name, finding in rules.items()],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "results": [_result(search, finding, list(rules)) for finding in search.findings],
        "columnKind": "unicodeCodePoints",
        "properties": {"about": search.about},
    }
    if search.walker is not None:
        run["automationDetails"] = {"id": f"crosswalk/{quote(search.walker, safe='')}/"}
    return run


def _rule(name: str, finding: FindingJson) -> dict[str, Any]:
    text = f"The rule: {finding.rule}."
    if finding.manual:
        text += f" {manual_text(finding.manual)}."
    return {
        "id": name,
        "shortDescription": {"text": headline(finding)},
        "fullDescription": {"text": text},
        "help": {"text": text},
        "defaultConfiguration": {"level": "error"},
    }


def _result(search: FindingsJson, finding: FindingJson, rules: Sequence[str]) -> dict[str, Any]:
    name = _rule_id(finding)
    lines = [headline(finding), *finding_lines(finding)]
    if finding.reproduce is not None:
        lines.append(f"To see it again: {finding.reproduce}")
    result: dict[str, Any] = {
        "ruleId": name,
        "ruleIndex": rules.index(name),
        "level": "error",
        "message": {"text": _message("\n".join(lines))},
        "occurrenceCount": max(1, finding.count),
        "partialFingerprints": {"crosswalkCause/v1": _digest(search.walker or "", finding.cause)},
        "properties": {"id": finding.id, "found": found_text(finding)},
    }
    location = finding.location or (None if finding.case is None else (finding.case, 1))
    if location is not None:
        file, line = location
        artifact = {"uri": quote(file)}
        region = {"startLine": line}
        result["locations"] = [
            {"physicalLocation": {"artifactLocation": artifact, "region": region}}
        ]
    return result


def _message(text: str) -> str:
    """Return text without placeholders: braces stand for themselves where there are two."""
    return text.replace("{", "{{").replace("}", "}}")


def _rule_id(finding: FindingJson) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", finding.cause.lower()).strip("-")[:80].rstrip("-")
    return f"{words}-{_digest(finding.cause)[:8]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
