import numpy as np
import pytest

from crosswalk.emu.check.compare import agreements, differing_fields
from crosswalk.walker.columns import Kind, Outcomes

FIELDS = ("outcome", "pa", "error_code", "cr2", "entries")


def outcomes(kind=Kind.OK, pa=0, error_code=0, cr2=0, entries=(), page_size=0, rights=0):
    row = Outcomes.empty(1)
    row.kind[0], row.pa[0], row.error_code[0], row.cr2[0] = kind, pa, error_code, cr2
    row.page_size[0], row.rights[0] = page_size, rights
    for at, (address, value) in enumerate(entries):
        row.entry_pa[0, at], row.entry_value[0, at] = address, value
    return row


def differing(predicted, observed):
    fields = differing_fields(predicted, observed)
    assert FIELDS == tuple(fields)
    return [name for name, column in fields.items() if column[0]]


MARKED = ((0x1000, 0x2027), (0x2008, 0x3067))
REACHED = {"pa": 0x5123, "entries": MARKED}
FAULTED = {"kind": Kind.PAGE_FAULT, "error_code": 7, "cr2": 0x4000, "entries": MARKED}


@pytest.mark.parametrize(
    ("same", "change", "field"),
    [
        (REACHED, {"kind": Kind.GENERAL_PROTECTION}, "outcome"),
        (REACHED, {"pa": 0x5122}, "pa"),
        (REACHED, {"entries": MARKED[:1]}, "entries"),
        (REACHED, {"entries": (*MARKED, (0x3000, 0x20))}, "entries"),
        (REACHED, {"entries": (MARKED[0], (0x2008, 0x3027))}, "entries"),
        (REACHED, {"entries": (MARKED[0], (0x2010, 0x3067))}, "entries"),
        (REACHED, {"entries": ()}, "entries"),
        (FAULTED, {"error_code": 5}, "error_code"),
        (FAULTED, {"cr2": 0x4001}, "cr2"),
        (FAULTED, {"entries": (*MARKED, (0x3000, 0x20))}, "entries"),
        (FAULTED, {"entries": ((0x1000, 0x2067),)}, "entries"),
        (FAULTED, {"entries": ((0x1008, 0x2027),)}, "entries"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_one_field_alone_makes_a_disagreement(same, change, field):
    predicted, observed = outcomes(**same), outcomes(**same | change)
    assert [True] == agreements(predicted, predicted).tolist()
    assert [False] == agreements(predicted, observed).tolist()
    assert [field] == differing(predicted, observed)


@pytest.mark.parametrize(
    "marked",
    [(), MARKED[:1], MARKED[1:], MARKED],
    ids=["none", "first", "second", "both"],
)
def test_a_fault_may_mark_any_of_the_entries_it_was_allowed(marked):
    assert [] == differing(outcomes(**FAULTED), outcomes(**FAULTED | {"entries": marked}))


def test_a_fault_that_was_allowed_nothing_may_mark_nothing():
    predicted = outcomes(**FAULTED | {"entries": ()})
    assert ["entries"] == differing(predicted, outcomes(**FAULTED))
    assert [] == differing(predicted, predicted)


def test_a_success_has_to_mark_all_of_its_entries():
    reached = outcomes(**REACHED)
    assert ["entries"] == differing(reached, outcomes(**REACHED | {"entries": MARKED[1:]}))


def test_page_size_and_rights_are_not_observed_and_not_compared():
    assert [] == differing(outcomes(**REACHED, page_size=4096, rights=3), outcomes(**REACHED))


def test_rows_are_compared_each_for_itself():
    good, bad = outcomes(**REACHED), outcomes(**REACHED | {"pa": 1})
    predicted = Outcomes.join([good, good, good])
    observed = Outcomes.join([good, bad, good])
    assert [True, False, True] == agreements(predicted, observed).tolist()


def test_nothing_agrees_with_nothing():
    assert np.array_equal(np.zeros(0, np.bool_), agreements(Outcomes.empty(0), Outcomes.empty(0)))
