"""Writes docs/schemas: a JSON Schema of each format, made from the types that read and write it."""

import json
from pathlib import Path
from typing import Any

import msgspec

from crosswalk.emu.findings.baseline import Baseline
from crosswalk.emu.fuzz.campaign.state import State
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.report.change_json import CHANGES
from crosswalk.emu.report.composites import CompositeJson
from crosswalk.emu.report.expectations import ExpectationsJson
from crosswalk.emu.report.finding import ReportJson
from crosswalk.emu.report.protect_json import (
    ProtectBeyondJson,
    ProtectBuiltInJson,
    ProtectEndedJson,
    ProtectFailedJson,
    ProtectGuestJson,
    ProtectKernelEptJson,
    ProtectKernelJson,
    ProtectSourceJson,
)
from crosswalk.emu.report.protection import ProtectionJson
from crosswalk.emu.report.run_json import RunBuiltInJson, RunEndedJson, RunJson
from crosswalk.emu.suite.document import SuiteJson
from crosswalk.emu.suite.results import ResultsJson
from crosswalk.emu.suite.suite import IndexJson
from crosswalk.emu.targets.jsonl import MESSAGES
from crosswalk.walker.formats.case import CaseJson
from crosswalk.walker.formats.memory_map import MemoryMapJson
from crosswalk.walker.tlb.record import SequenceJson

__all__ = ["FOLDER", "FORMATS", "main", "schemas"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"

FORMATS: dict[str, tuple[type, ...]] = {
    "crosswalk-case-1": (CaseJson,),
    "crosswalk-composite-1": (CompositeJson,),
    "crosswalk-memory-map-1": (MemoryMapJson,),
    "crosswalk-sequence-1": (SequenceJson,),
    "crosswalk-baseline-1": (Baseline,),
    "crosswalk-changes-1": CHANGES,
    "crosswalk-matrix-1": (Summary,),
    "crosswalk-fuzz-1": (State,),
    "crosswalk-findings-1": (ReportJson,),
    "crosswalk-protection-1": (ProtectionJson,),
    "crosswalk-protect-1": (
        ProtectGuestJson,
        ProtectKernelJson,
        ProtectKernelEptJson,
        ProtectBuiltInJson,
        ProtectSourceJson,
        ProtectBeyondJson,
        ProtectFailedJson,
        ProtectEndedJson,
    ),
    "crosswalk-expectations-1": (ExpectationsJson,),
    "crosswalk-run-1": (RunJson, RunEndedJson, RunBuiltInJson),
    "crosswalk-suite-1": (SuiteJson,),
    "crosswalk-suite-index-1": (IndexJson,),
    "crosswalk-suite-results-1": (ResultsJson,),
    "crosswalk-walker-1": MESSAGES,
}
"""The types of each format by the name of its schema; of lists and protocols, of each line."""


def main() -> None:
    """Write the schemas."""
    for name, text in schemas().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


def schemas() -> dict[str, str]:
    """Return the text of each schema by the name of its format."""
    return {name: _schema(name, kinds) for name, kinds in FORMATS.items()}


def _schema(name: str, kinds: tuple[type, ...]) -> str:
    references, definitions = msgspec.json.schema_components(kinds)
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name.rpartition("-")[0] + "/1",
        **(references[0] if len(references) == 1 else {"anyOf": list(references)}),
        "$defs": definitions,
    }
    # The end of a string is \Z in Python alone.
    return json.dumps(document, indent=2).replace("\\\\Z", "$") + "\n"


if __name__ == "__main__":
    main()
