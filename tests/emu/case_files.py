"""The case files of the tests."""

from pathlib import Path

CASES = Path(__file__).resolve().parent.parent / "cases"
COMPOSITE_CASES = CASES / "composite"
FINDINGS = CASES / "findings"
JUDGES_CASES = CASES / "judges"
KNOWN_CASES = CASES / "known"
KNOWN_SEQUENCE_FILES = CASES / "known-sequences"
LINUX_CASE = CASES / "linux-6.1-4level.json"
RULES_CASES = CASES / "rules"
