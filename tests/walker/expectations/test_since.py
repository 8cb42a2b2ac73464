"""What is unchanged since another point, and what isn't."""

import pytest

from crosswalk.walker.expectations import (
    Outcome,
    Snapshot,
    judgement,
    parse_expectations,
    take_snapshot,
)
from tests.tables import KIB4, MIB2, RW, USED, XD, A, P, chain, context
from tests.walker.expectations.layouts import (
    DATA,
    EMPTY,
    NAMES,
    REGISTERS,
    UPPER,
    Plant,
    entry,
    kernel,
    page,
    verdict,
)

HOLDS, BROKEN, UNSAID = Outcome

SINCE = [
    (entry(DATA, drop=XD), "4 KiB changed", "changed, was rw- ---"),
    (page(EMPTY, 0), "4 KiB new", "new"),
    (page(0, 0), "4 KiB new", "new"),
    (Plant(lambda it: it.change(DATA, drop=P), DATA), "4 KiB gone", "gone"),
    (
        Plant(lambda it: it.change(DATA, add=1 << 13), DATA),
        "4 KiB changed",
        "changed, was 0x120000",
    ),
]


@pytest.mark.parametrize(("plant", "reason", "note"), SINCE)
def test_a_change_since_a_point_is_named(plant, reason, note):
    tables = kernel()
    earlier = {"idle": take_snapshot(tables.memory, REGISTERS)}
    assert HOLDS == verdict(tables, "unchanged since idle", earlier=earlier).outcome
    plant.change(tables)
    found = verdict(tables, "unchanged since idle", earlier=earlier)
    assert (BROKEN, reason) == (found.outcome, found.reason)
    named = [(each.range.va, each.note, each.roots) for each in found.evidence]
    assert [(plant.va, note, 1)] == named
    assert HOLDS == verdict(tables, ".text unchanged since idle", earlier=earlier).outcome


def test_what_is_gone_as_a_whole_has_changed():
    tables = kernel()
    earlier = {"A": take_snapshot(tables.memory, REGISTERS)}
    tables.change(DATA, drop=P)
    assert BROKEN == verdict(tables, ".data unchanged since A", earlier=earlier).outcome


def test_accessed_and_dirty_are_no_change_nor_is_the_size_of_pages():
    tables = kernel()
    for at in range(512):
        tables.map(EMPTY + at * KIB4, MIB2 + at * KIB4, P | RW, upper=UPPER)
    earlier = {"A": take_snapshot(tables.memory, REGISTERS)}
    tables.entries[tables.entry_pa(EMPTY, 2)] = MIB2 | P | RW | A | 1 << 7
    assert HOLDS == verdict(tables, "unchanged since A", earlier=earlier).outcome


def test_a_point_that_was_not_looked_at_leaves_nothing_to_say():
    found = verdict(kernel(), "unchanged since idle")
    assert (UNSAID, "no point idle was looked at before") == (found.outcome, found.reason)


def test_too_many_mappings_are_not_compared(monkeypatch):
    memory = chain(4, USED)
    monkeypatch.setattr("crosswalk.walker.expectations.changes.MOST", 5000)
    earlier = {"A": Snapshot(memory, context(4))}
    (found,) = judgement.judge(
        judgement.Subject(memory, context(4), NAMES, earlier=earlier),
        parse_expectations("unchanged since A", "test"),
    )
    assert (UNSAID, "there are too many mappings to compare") == (found.outcome, found.reason)
