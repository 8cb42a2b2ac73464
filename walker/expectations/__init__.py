"""Expectations: sentences about mappings that are to stay true, and how they are judged."""

from crosswalk.walker.expectations.changes import Snapshot, take_snapshot
from crosswalk.walker.expectations.flaws import FlawedEntry
from crosswalk.walker.expectations.grammar import parse_expectations, quoted
from crosswalk.walker.expectations.judgement import Evidence, Judged, Outcome, Subject, judge
from crosswalk.walker.expectations.sentences import Sentence

__all__ = [
    "Evidence",
    "FlawedEntry",
    "Judged",
    "Outcome",
    "Sentence",
    "Snapshot",
    "Subject",
    "judge",
    "parse_expectations",
    "quoted",
    "take_snapshot",
]
