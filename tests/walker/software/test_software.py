"""Entries that aren't present: found at every address, decoded as the systems write them."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import BadInput, Leaves
from crosswalk.walker.formats import load_case
from crosswalk.walker.software import SYSTEMS, absent_entries, entries, windows
from crosswalk.walker.software.linux import FIRST_SPECIAL, LINUX
from crosswalk.walker.software.states import Field, StateKind
from crosswalk.walker.software.windows import WINDOWS
from tests.random_tables import extended_tables
from tests.tables import (
    KIB4,
    LONG,
    MIB2,
    PS,
    USED,
    A,
    CountingMemory,
    D,
    G,
    P,
    PageTables,
    chain,
    context,
)
from tests.walker.software import naive_states

HERE = Path(__file__).parent
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
ALL = (1 << 64) - 1


def states_of(system, memory, paging, *range_):
    return [
        each
        for rows in absent_entries(memory, paging, *range_)
        for each in system.each(system.states(rows))
    ]


def state_of(system, entry, *, va=0x1000, level=1):
    rows = Leaves(
        np.array([va], np.uint64),
        np.array([entry], np.uint64),
        np.zeros(1, np.uint8),
        np.array([12 + 9 * (level - 1)], np.uint8),
    )
    (state,) = system.each(system.states(rows))
    return state


def test_entries_of_a_real_linux_are_what_its_pagemap_says():
    case = load_case(HERE / "linux-6.1.json")
    found = {
        state.va + at: state
        for state in states_of(LINUX, case.memory(), case.context())
        for at in range(0, state.size, KIB4)
    }
    lines = (HERE / "linux-6.1.pagemap").read_text(encoding="utf-8").splitlines()
    pages = dict(line.split() for line in lines if not line.startswith("#"))
    seen = set()
    for va, word in ((int(va, 16), int(word, 16)) for va, word in pages.items()):
        state = found.get(va)
        if not word >> 62:  # Neither present nor swapped.
            assert None is state
            continue
        if state is None:  # A page that is present.
            assert 1 == word >> 63
            continue
        seen.add(state.kind.name)
        if word >> 63:
            assert "prot-none" == state.kind.name
            assert (word & (1 << 55) - 1) * KIB4 == state.fields["pa"] + va - state.va
            continue
        kind = "special" if word & 31 >= FIRST_SPECIAL else "swap"
        assert kind == state.kind.name
        assert (word & 31, word >> 5 & (1 << 50) - 1) == tuple(state.fields.values())
        if kind == "swap":  # Of a marker pagemap tells what its offset means.
            assert word >> 57 & 1 == ("uffd-wp" in state.flags)
        # An area may be soft-dirty as a whole, too.
        assert word >> 55 & 1 >= ("soft-dirty" in state.flags)
    assert {"prot-none", "swap", "special"} == seen
    assert {KIB4, MIB2} == {state.size for state in found.values()}
    assert {True, False} == {"exclusive" in state.flags for state in found.values()}


@pytest.mark.parametrize(
    ("entry", "level", "kind", "fields", "flags"),
    [
        (ALL ^ 0x5000 ^ 0xFFF ^ 1 << 63 | G | A, 1, "prot-none", {"pa": 0x5000}, ("accessed",)),
        (ALL ^ MIB2 ^ 0xFFF | G | PS, 2, "prot-none", {"pa": MIB2}, ("no-execute",)),
        (ALL ^ MIB2 ^ 0xFFF | PS, 2, "splitting", {"pa": MIB2}, ("no-execute",)),
        (3 << 59 | (ALL >> 5 ^ 0x1234 << 9) & -512, 1, "swap", {"type": 3, "offset": 0x1234}, ()),
        (((1 << 50) - 1) << 9 | 0b1110, 2, "swap", {"type": 0, "offset": 0},
         ("soft-dirty", "uffd-wp", "exclusive")),
        (21 << 59, 1, "swap", {"type": 21, "offset": (1 << 50) - 1}, ()),
        (22 << 59, 1, "special", {"type": 22, "offset": (1 << 50) - 1}, ()),
        (A | D, 1, "none", {}, ()),
        (PS | 1 << 40, 1, "unknown", {}, ()),
        (G | 1 << 40, 2, "unknown", {}, ()),
        (1 << 40, 4, "unknown", {}, ()),
    ],
)  # fmt: skip
def test_a_state_of_linux(entry, level, kind, fields, flags):
    state = state_of(LINUX, entry, level=level)
    assert (kind, fields, flags) == (state.kind.name, state.fields, state.flags)


def test_the_kernels_half_has_no_swapped_pages():
    state = state_of(LINUX, ALL ^ 0x5000 ^ 0xFFF | D, va=0xFFFF_8000_0000_1000)
    assert ("invalid", {"pa": 0x5000}) == (state.kind.name, state.fields)
    assert ("dirty", "no-execute") == state.flags


@pytest.mark.parametrize(
    ("entry", "kind", "fields", "flags"),
    [
        (1 << 11 | 4 << 5 | 0x12345000 | 2, "transition", {"pa": 0x12345000, "protection": 4},
         ("write",)),
        (1 << 10 | 1 << 5 | 0xFFFF_8000_1234 << 16 & ALL, "prototype",
         {"prototype": 0xFFFF_FFFF_8000_1234, "protection": 1}, ()),
        (1 << 10 | 0x7FFF_8000_1234 << 16 | 1 << 11 | 8, "prototype",
         {"prototype": 0x7FFF_8000_1234, "protection": 0}, ("read-only", "combined")),
        (1 << 10 | 0xFFFF_FFFF_0000 << 16 | 6 << 5, "prototype-vad", {"protection": 6}, ()),
        (0x77 << 32 | 2 << 12 | 4 << 5 | 16, "pagefile",
         {"number": 2, "offset": 0x77000, "protection": 4}, ("swizzle",)),
        (4 << 5, "demand-zero", {"protection": 4}, ()),
        (2, "unknown", {}, ()),
    ],
)  # fmt: skip
def test_a_state_of_windows(entry, kind, fields, flags):
    state = state_of(WINDOWS, entry)
    assert (kind, fields, flags) == (state.kind.name, state.fields, state.flags)


def test_protections_of_windows_have_names():
    names = windows.WINDOWS.kinds[0].fields[0].names
    assert 32 == len(names) == len(set(names))
    shown = [names[value] for value in (0, 4, 5, 7, 12, 16, 17, 24, 28)]
    expected = ["none", "rw-", "rw- copy", "rwx copy", "rw- uncached", "decommitted"]
    assert [*expected, "r-- guard", "no access", "rw- write-combined"] == shown


def test_an_entry_is_found_at_every_address_that_selects_it():
    tables = PageTables().map(0x1000, 0x5000).map(0x2000, 0x7000, USED & ~P)
    tables.map(MIB2, 0, USED & ~P, level=2)
    # Another 2 MiB by the same table, before the first.
    shared = tables.entries[tables.entry_pa(0x1000, 2)]
    tables.entries[tables.entry_pa(MIB2, 2) + 8] = shared
    found = [(each.va, each.level) for each in states_of(LINUX, tables.memory, context())]
    assert [(0x2000, 1), (MIB2, 2), (2 * MIB2 + 0x2000, 1)] == found
    assert [(MIB2, 2)] == [
        (each.va, each.level)
        for each in states_of(LINUX, tables.memory, context(), 0x3000, 2 * MIB2 + 0x2000)
    ]
    assert [] == states_of(LINUX, tables.memory, context(), 0x3000, 0x3000)


def test_of_a_hostile_memory_only_what_is_asked_for_is_read():
    # 512 ** 4 addresses, all of them absent.
    counting = CountingMemory(chain(4, 0x5000))
    first = next(absent_entries(counting, context()))
    assert 0 == first.va[0]
    assert counting.read_tables < 3000
    counting.read_tables = 0
    rows = list(absent_entries(counting, context(), MIB2, 2 * MIB2))
    assert 512 == sum(map(len, rows))
    # All four tables first, and those that lead there again.
    assert counting.read_tables < 20


def test_tables_that_lead_to_no_absent_entry_are_looked_at_once():
    # 512 ** 4 mappings of one page.
    counting = CountingMemory(chain(4, 0x5000 | USED))
    assert [] == list(absent_entries(counting, context()))
    assert counting.read_tables < 20


def is_as_the_twin_has_it(tables, system, naive):
    """Whether the entries with P clear, and their states, are those of the naive twin."""
    expected = [
        (va, level, entry, *naive(va, level, entry))
        for va, level, entry in islice(naive_states.absent(tables), 4000)
    ]
    found = states_of(system, tables.memory, tables.context)
    return expected == [
        (each.va, each.level, each.entry, each.kind.name, numbers(system, each))
        for each in found[: len(expected)]
    ] and len(found) >= len(expected)


def numbers(system, state):
    values = tuple(state.fields.values())
    if system is WINDOWS:
        return values
    return values if len(values) > 1 else values[0] if values else None


SYSTEMS_AND_TWINS = [(LINUX, naive_states.linux), (WINDOWS, naive_states.windows)]


@pytest.mark.parametrize(("system", "naive"), SYSTEMS_AND_TWINS, ids=["linux", "windows"])
@QUICK
@given(tables=extended_tables(LONG, most=3))
def test_states_are_those_of_the_naive_twin(system, naive, tables):
    assert is_as_the_twin_has_it(tables, system, naive)


@pytest.mark.parametrize(("system", "naive"), SYSTEMS_AND_TWINS, ids=["linux", "windows"])
@given(
    entry=st.integers(1, 1 << 63).map(lambda half: half * 2 & ALL).filter(bool),
    flags=st.integers(0, 4095).map(lambda low: low & ~1),
    level=st.integers(1, 5),
    upper=st.booleans(),
)
def test_any_entry_has_the_state_of_the_naive_twin(system, naive, entry, flags, level, upper):
    va = 0xFFFF_8000_0000_0000 if upper else 0
    for word in (entry, entry & -4096 | flags, flags or 2):
        state = state_of(system, word, va=va, level=level)
        assert naive(va, level, word) == (state.kind.name, numbers(system, state))


@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (Field, "of", lambda self, entry, size: entry >> self.low & (1 << self.bits) - 1),
        (StateKind, "holds", lambda self, rows: rows.entry & self.mask == np.uint64(self.value)),
        (entries, "canonical", lambda paging, va: va),
        (entries, "among", lambda frames, some: np.isin(frames, some[:1])),
    ],
    ids=["not inverted", "any level", "not canonical", "one table alone"],
)
def test_a_planted_bug_is_found(monkeypatch, target, name, bug):
    monkeypatch.setattr(target, name, bug)
    example = find(
        extended_tables(LONG, most=3),
        lambda tables: not is_as_the_twin_has_it(tables, LINUX, naive_states.linux),
        settings=SEARCH,
    )
    assert not is_as_the_twin_has_it(example, LINUX, naive_states.linux)


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_other_paging_modes_have_other_entries(mode):
    for system in SYSTEMS.values():
        with pytest.raises(BadInput, match=f"known in 4-level and 5-level paging, this is {mode}"):
            system.require(context(mode))
        for each in LONG:
            system.require(context(each))
