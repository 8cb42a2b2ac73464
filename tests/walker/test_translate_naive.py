"""Both statements of the rules, for one access and for many, against a model written apart."""

from dataclasses import replace
from importlib import import_module

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Access,
    Accesses,
    GeneralProtection,
    PageFault,
    PagingContext,
    Translation,
    bulk,
)
from crosswalk.walker import linear as pre_processing
from tests.random_tables import LASS, extended_tables
from tests.tables import EXECUTE, LONG, READ, WRITE
from tests.walker.naive_access import answer

translating = import_module(
    "crosswalk.walker.translate"
)  # The package has the function by that name.

TAGS = st.integers(0, 2**16 - 1).map(lambda tag: tag << 48)
SEARCH = settings(
    max_examples=4000, deadline=None, database=None, phases=[Phase.generate], derandomize=True
)
CHOICES = st.lists(
    st.tuples(st.integers(0, 2**46 - 1), st.sampled_from((0, 0, 1, 2)), TAGS, st.booleans()),
    min_size=3,
    max_size=6,
)


def pointers(tables, choices):
    """Addresses that follow entries in use: as they are, with a tag, with a tag below bit 57."""
    for number, how, tag, ac in choices:
        va = tables.address(number)
        if how and tables.mode in LONG:
            va = va & ~(0xFFFF << 48) | (tag if how == 1 else tag & ~((1 << 57) - 1))
        yield va, ac


def disagreement(tables, choices):
    """The first access that the model and the two statements of the rules answer differently."""
    rows = [
        (va, kind, cpl, ac)
        for va, ac in pointers(tables, choices)
        for kind in (READ, WRITE, EXECUTE)
        for cpl in (0, 3)
    ]
    accesses = [Access(*row) for row in rows]
    many = bulk.translate_many(tables.memory, tables.context, Accesses.of(accesses))
    for at, row in enumerate(rows):
        expected = answer(tables, row[0], int(row[1]), *row[2:])
        one = translating.translate(tables.segments, tables.context, accesses[at])
        for said in (one, many[at]):
            if expected != numbers(said):
                return row, expected, said
    return None


def numbers(outcome):
    match outcome:
        case Translation():
            return ("ok", outcome.pa, outcome.page_size, outcome.entries)
        case PageFault():
            return ("fault", outcome.error_code, outcome.cr2, outcome.entries)
        case GeneralProtection():
            return ("general protection",)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=extended_tables(), choices=CHOICES)
def test_both_statements_of_the_rules_answer_as_the_model_does(tables, choices):
    assert None is disagreement(tables, choices)


def masks_fetches(original):
    def planted(found, access):
        return original(found, Access(access.va, READ, access.cpl, access.ac))

    return planted


def keeps_metadata(original):
    return lambda found, pointer: pointer


def masks_bit_63(original):
    return lambda found, pointer: pre_processing._extended(pointer, found.lam_user or 64)


def crosses_whatever_ac(original):
    return lambda found, access: original(found, Access(access.va, access.type, access.cpl, False))


def crosses_nowhere(original):
    return lambda found, access: False


def in_bulk_without_lass(original):
    def planted(memory, found, accesses):
        fields = {name: getattr(found, name) for name in PagingContext.__dataclass_fields__}
        return original(memory, PagingContext(**fields | {"cr4": found.cr4 & ~LASS}), accesses)

    return planted


def in_bulk_of_48_bits(original):
    return lambda va, bits: original(va, 48)


def in_bulk_without_the_mask(original):
    return lambda found, level, leaf: original(found, level, leaf=leaf) | found.encryption_mask


def leaves_a_denied_leaf_alone(original):
    return lambda steps, *on_leaf: original(steps if on_leaf else steps[:-1], *on_leaf)


def sets_all_or_nothing(original):
    return lambda steps: translating._marked(steps) if steps else ()


def gives_pdptes_rights(original):
    return lambda found, number: replace(original(found, number), restricts=True)


@pytest.mark.parametrize(
    ("module", "rule", "plant"),
    [
        (translating, "linear_address", masks_fetches),
        (pre_processing, "masked", keeps_metadata),
        (pre_processing, "masked", masks_bit_63),
        (pre_processing, "crosses", crosses_whatever_ac),
        (pre_processing, "crosses", crosses_nowhere),
        (translating, "_marked", leaves_a_denied_leaf_alone),
        (translating, "_choices", sets_all_or_nothing),
        (translating, "level_of", gives_pdptes_rights),
        (bulk, "_linear", in_bulk_without_lass),
        (bulk, "sign_extended", in_bulk_of_48_bits),
        (bulk, "reserved_bits", in_bulk_without_the_mask),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_rule_broken_in_either_statement_is_found(module, rule, plant, monkeypatch):
    monkeypatch.setattr(module, rule, plant(getattr(module, rule)))
    case = st.tuples(extended_tables(), CHOICES)
    tables, choices = find(case, lambda it: disagreement(*it) is not None, settings=SEARCH)
    monkeypatch.undo()
    assert None is disagreement(tables, choices)
