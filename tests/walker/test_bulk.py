from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Access,
    Accesses,
    GeneralProtection,
    Outcomes,
    PageFault,
    Translation,
    bulk,
    translate,
    translate_many,
)
from crosswalk.walker.bulk import are_canonical
from crosswalk.walker.outcome import ErrorCode
from tests.random_tables import CHOICES, accesses_of, extended_tables
from tests.tables import EXECUTE, READ, WRITE, PageTables, context, linear

SEARCH = settings(
    max_examples=50_000, deadline=None, database=None, phases=[Phase.generate], derandomize=True
)


def difference(tables, accesses):
    """The first access that the two translations answer differently, or None."""
    many = translate_many(tables.memory, tables.context, Accesses.of(accesses))
    for row, access in enumerate(accesses):
        one = translate(tables.segments, tables.context, access)
        if one != many[row]:
            return access, one, many[row]
    return None


@settings(max_examples=140, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=extended_tables(), choices=CHOICES)
def test_many_translations_are_those_of_each_on_its_own(tables, choices):
    assert None is difference(tables, accesses_of(tables, choices))


def without_us(original):
    return lambda entries: original(entries | np.uint64(4))


def without_bit_8(original):
    return lambda found, level, leaf: original(found, level, leaf=leaf) & ~(1 << 8)


def with_1_gib_pages(original):
    return lambda found, level, entries: original(context(page1gb=True), level, entries)


def without_keys(original):
    def planted(*arguments):
        denied = original(*arguments)
        return np.where(denied == ErrorCode.PK, np.uint16(0), denied)

    return planted


def fetches_always_told(original):
    def planted(found, accesses):
        code = original(found, accesses)
        code[accesses.type == EXECUTE] |= np.uint16(ErrorCode.ID)
        return code

    return planted


def without_merging(original):
    def planted(entry_pa, before, after):
        order = np.argsort(entry_pa, axis=1, kind="stable")
        changed = np.take_along_axis(before != after, order, 1)
        columns = (np.take_along_axis(column, order, 1) for column in (entry_pa, after))
        return tuple(np.where(changed, column, np.uint64(0)) for column in columns)

    return planted


def without_upper_half(original):
    return lambda *where: original(*where) & np.uint64(0xFFFF_FFFF)


def without_folding(original):
    return lambda entries: entries & np.uint64(0xFFC0_0000)


def every_pdpte_loads(original):
    return lambda memory, context: None


def pdptes_with_rights(original):
    return lambda found, number: replace(original(found, number), restricts=True)


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("grants_of", without_us),
        ("reserved_bits", without_bit_8),
        ("leaves_among", with_1_gib_pages),
        ("_judge", without_keys),
        ("_cause", fetches_always_told),
        ("merge_changes", without_merging),
        ("read_words", without_upper_half),
        ("addresses_4mib", without_folding),
        ("invalid_pdpte", every_pdpte_loads),
        ("level_of", pdptes_with_rights),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_rule_that_the_bulk_translation_breaks_is_found(rule, plant, monkeypatch):
    monkeypatch.setattr(bulk, rule, plant(getattr(bulk, rule)))
    case = st.tuples(extended_tables(), CHOICES)

    tables, choices = find(case, lambda it: difference(it[0], accesses_of(*it)), settings=SEARCH)

    monkeypatch.undo()
    assert None is difference(tables, accesses_of(tables, choices))


def test_no_accesses_have_no_outcomes():
    tables = PageTables().map(0, 0x5000)
    assert 0 == len(translate_many(tables.memory, context(), Accesses.of([])))


def test_each_access_starts_from_the_same_state():
    tables = PageTables().map(0, 0x5000)
    twice = [Access(0, WRITE), Access(0, WRITE)]
    found = translate_many(tables.memory, context(), Accesses.of(twice))

    assert found[0] == found[1]
    assert 4 == len(found[1].entries)


@pytest.mark.parametrize("block", [1, 2, 3, 64])
def test_the_seams_between_blocks_of_accesses_dont_show(block, monkeypatch):
    tables = PageTables().map(0, 0x5000).map(linear(256, 0, 0, 0), 0x6000)
    rows = [
        Access(va, access)
        for va in (0x123, 0x1000, 1 << 47, linear(256, 0, 0, 0))
        for access in (READ, WRITE)
    ]
    monkeypatch.setattr(bulk, "_BLOCK", block)
    found = translate_many(tables.memory, context(), Accesses.of(rows))

    kinds = [Translation] * 2 + [PageFault] * 2 + [GeneralProtection] * 2 + [Translation] * 2
    assert kinds == [type(found[row]) for row in range(len(rows))]
    assert [0x5123, 0x5123, 0, 0, 0, 0, 0x6000, 0x6000] == found.pa.tolist()
    assert [0, 0, 0, 2, 0, 0, 0, 0] == found.error_code.tolist()
    assert [0, 0, 0x1000, 0x1000, 0, 0, 0, 0] == found.cr2.tolist()


def test_accesses_of_one_table_read_it_once(monkeypatch):
    tables = PageTables().map(0, 0x5000).map(0x1000, 0x6000)
    seen = []

    class Memory:
        def tables(self, frames):
            seen.append(len(frames))
            return tables.memory.tables(frames)

    many = Accesses.product(np.array([0, 0x1000] * 50, np.uint64), ac=False)
    assert 600 == len(translate_many(Memory(), context(), many))
    assert [1, 1, 1, 1] == seen


def test_columns_that_say_nothing_are_zero():
    tables = PageTables().map(0, 0x5000)
    found = translate_many(
        tables.memory, context(), Accesses.of([Access(0, READ), Access(0x1000, READ)])
    )

    assert isinstance(found, Outcomes)
    assert [0, 0] == [int(found.pa[1]), int(found.page_size[1])]
    assert [0, 0] == [int(found.rights[1]), int(found.cr2[0])]


@pytest.mark.parametrize(
    ("mode", "canonical", "beyond"),
    [
        ("32-bit", (0, 0xFFFF_FFFF), (1 << 32, 1 << 47, (1 << 64) - 1)),
        ("PAE", (0, 0xFFFF_FFFF), (1 << 32, 1 << 47, (1 << 64) - 1)),
        (4, (0, (1 << 47) - 1, (1 << 64) - (1 << 47), (1 << 64) - 1), (1 << 47, 1 << 63)),
        (5, (0, 1 << 47, (1 << 56) - 1, (1 << 64) - (1 << 56)), (1 << 56, 1 << 63)),
    ],
)
def test_addresses_are_canonical_by_the_mode(mode, canonical, beyond):
    addresses = np.array([*canonical, *beyond], np.uint64)
    expected = [True] * len(canonical) + [False] * len(beyond)
    assert expected == are_canonical(context(mode), addresses).tolist()
