"""What judges said of the cases of departures fits the registry, and the page is made of both."""

import json
from collections import defaultdict

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.report.known_page import Cell, cell_of, known_page
from scripts.upkeep.judged_cases import (
    DATA,
    PAGE,
    asked,
    at_hand,
    columns,
    digest_of,
    documents,
    fresh,
    label_of,
    paths,
    said_of,
)

SAID = json.loads(DATA.read_text("utf-8"))
COLUMNS = columns(SAID)
ENTRIES = departures(Scope.ACCESS, Scope.COMPOSITE, Scope.SEQUENCE, who=None)


def cells(entry):
    """What each judge's answer to a departure's case comes to, by its name and version."""
    path = f"{entry.folder}/{entry.case}"
    return {SAID[label]["who"]: cell_of(entry, COLUMNS[label].get(path))[0] for label in SAID}


def unfit(entries, found):
    """What the registry says of judges and they don't show, or the other way round."""
    wrong = []
    for entry in entries:
        by_kind = defaultdict(set)
        for who, cell in found(entry).items():
            by_kind[who.partition(" ")[0]].add(cell)
            if (cell is Cell.SHOWS) > entry.shown_by(who):
                wrong.append(f"{entry.id} isn't registered for {who}")
            if cell is Cell.RIGHT and entry.shown_by(who):
                wrong.append(f"{entry.id} isn't shown by {who}")
        missing = sorted(kind for kind in entry.judges if Cell.SHOWS not in by_kind[kind])
        wrong += [f"{entry.id}: no {kind} has shown it" for kind in missing]
    return wrong


def test_the_page_is_what_registry_and_data_say():
    assert known_page(COLUMNS) == PAGE.read_text("utf-8")


def test_every_departure_is_shown_by_the_judges_it_is_registered_for():
    assert [] == unfit(ENTRIES, cells)


def test_what_does_not_fit_is_noticed():
    def other(entry):
        swapped = {Cell.SHOWS: Cell.RIGHT, Cell.RIGHT: Cell.SHOWS}
        return {who: swapped.get(cell, cell) for who, cell in cells(entry).items()}

    found = unfit(ENTRIES, other)
    assert "maxphyaddr-40: no unicorn has shown it" in found
    assert "keys-by-privilege isn't shown by bochs 2.7" in found
    assert "keys-by-privilege isn't registered for bochs 3.1" in found


def test_what_is_written_is_about_the_cases_as_they_are_and_unicorn_was_asked_all():
    assert SAID == fresh(SAID)
    assert set(paths()) == COLUMNS["Unicorn 2.1.4"].keys()


def test_a_case_that_has_changed_since_is_not_asked():
    path, other = paths()[:2]
    cases = {
        path: {"of": "0" * 16, "said": {"right": 1}},
        "known/gone.json": {"of": "", "said": {}},
    }
    kept = {other: {"of": digest_of(other), "said": {"right": 1}}}
    column = {"who": "one", "cases": cases | kept}
    assert {"One": {"who": "one", "cases": kept}} == fresh({"One": column})


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("Unicorn 2.1.4", "Unicorn 2.1.4"),
        ("QEMU 7.2.22, TCG, AuthenticAMD of 40 bits", "QEMU 7.2.22 (TCG)"),
        ("Bochs 3.1, AuthenticAMD of 40 bits, GenuineIntel of 39, 40 bits", "Bochs 3.1"),
    ],
)
def test_a_column_is_called_by_judge_and_version(version, label):
    assert label == label_of(version)


def test_answers_are_counted_from_the_documents_of_judge():
    case = {
        "probes": [
            {"judged": {"j": {"outcome": "ok", "verdict": "agreed"}}},
            {"judged": {"j": {"outcome": "page_fault", "verdict": "known", "known": "a+b"}}},
            {"judged": {"j": {"outcome": "not_shown", "why": "no RAM"}}},
        ]
    }
    sequence = {"judged": {"j": {"verdict": "diverged", "causes": ["x"]}}}
    text = f"{json.dumps(case)}\n{json.dumps(sequence, indent=1)}\n"
    first, second = documents(text)
    assert {"right": 1, "known: a+b": 1, "not shown: no RAM": 1} == said_of(first, "j")
    assert {"diverged": 1} == said_of(second, "j")


@pytest.mark.slow
def test_judges_at_hand_say_what_is_written():
    compared = []
    for judge in at_hand():
        if judge == "kvm":  # What that is depends on the host.
            continue
        label, column = asked(judge)
        if label in SAID:
            compared.append(label)
            assert SAID[label] == column, label
    assert "Unicorn 2.1.4" in compared
