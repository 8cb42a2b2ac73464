"""Bugs that a pair of tables shows, a guest's and its host's, under `crosswalk nested`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from crosswalk.emu.check.departure import Departure
from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.fuzz.nested.judged import pair_of
from crosswalk.emu.fuzz.nested.pair import Pair
from crosswalk.emu.report.nested import nested_outcome_text, nested_walk_lines
from crosswalk.emu.report.text import access_text
from crosswalk.walker.nested.outcome import EptViolation, NestedOutcome
from crosswalk.walker.nested.translate import translate_nested, walk_nested
from crosswalk.walker.protection.policy import TableKind
from scripts.upkeep.found_bugs import SUBJECTS, Bug

__all__ = ["pair_command", "pair_lines", "pair_shown", "pair_walk"]


def pair_command(bug: Bug, given: str) -> list[str]:
    """Return the command that shows such a bug; `given` is what --with takes."""
    return ["crosswalk", "nested", "--with", given, *_entry(bug).command.split()]


def pair_shown(bug: Bug, given: str, document: dict[str, Any]) -> tuple[str, str]:
    """Return what `nested --json` shows of such a bug, a value of `Shown`, and a word on it."""
    version = document["judge"]["version"]
    listed = not _entry(bug).shown_by(kind_of(given, version))
    if bug.departure in document["known"]:
        return ("BACK" if listed else "shown"), version
    if not document["probes"]:
        return "skipped", f"{version}: {'; '.join(document['not_asked'])}"
    if document["divergences"]:
        return "UNLIKE", version
    return ("gone, as is listed" if listed else "GONE"), version


def pair_lines(bug: Bug) -> Iterator[str]:
    """Yield what a processor answers and what the program does, as lines of a list."""
    pair, right, wrong = _answers(bug)
    asked = access_text(pair.accesses[0])
    yield f"- The processor's answer, to {asked}: {nested_outcome_text(right)}"
    yield f"- The answer: `{nested_outcome_text(wrong)}`"


def pair_walk(bug: Bug) -> Iterator[str]:
    """Yield the tables of the access, and both answers."""
    pair, right, wrong = _answers(bug)
    path = walk_nested(pair.memory, pair.context, pair.accesses[0].va)
    yield access_text(pair.accesses[0])
    yield from nested_walk_lines(pair.context, path)
    yield ""
    yield f"  a processor:  {nested_outcome_text(right)}"
    yield f"  {SUBJECTS[bug.subject].name}:  {nested_outcome_text(wrong)}"


def _entry(bug: Bug) -> Departure:
    if bug.registered is None:
        raise TypeError(f"{bug.id}: no pair of tables shows it")
    return bug.registered


def _answers(bug: Bug) -> tuple[Pair, NestedOutcome, NestedOutcome]:
    """Return the pair, the predicted outcome of its access, and that with the departure."""
    entry = _entry(bug)
    if entry.pair is None:
        raise TypeError(f"{bug.id}: no pair of tables shows it")
    tables, number = entry.pair
    pair = pair_of(TableKind(tables), 0, number, 1)
    asked = pair.memory, pair.context, pair.accesses[0]
    wrong = emulated(*asked, entry.deviation)
    if wrong is None:
        raise TypeError(f"{bug.id}: it has no outcome")
    if isinstance(wrong, EptViolation):
        wrong = replace(wrong, open=0)
    return pair, translate_nested(*asked), wrong
