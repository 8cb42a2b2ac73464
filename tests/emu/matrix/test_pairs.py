"""The selection for slow machines has each pair of values, as read from what is selected."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from crosswalk.emu.matrix.bits import CONTROLS, ENTRY_BITS, FEATURES, KEY_BITS
from crosswalk.emu.matrix.pairs import NO_VALUE, covering
from crosswalk.emu.matrix.section import KEY, feature_of
from crosswalk.emu.matrix.select import ACCESS_SECTIONS, parse_choice
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import CR4, PagingMode
from crosswalk.walker.entry import FORMATS

SINGLE = [section for section in ACCESS_SECTIONS if not section.composite]
QUICK = {"highest-large", "32bit-rights", "vendor-fetch"}
"""Sections that are looked at each time; the others take longer together."""

SMALL = 2_000
"""The most combinations of a section that are all looked at."""

LOW = (1 << 32) - 1
"""Bits of an entry that say where a table is: where there are others, none is, or a copy of it."""


def values_of(section, context, memory, access):
    """What a combination has of each dimension, by name: of entries, by a walk of its own."""
    found = {"access": access.type, "cpl": access.cpl, "ac": access.ac}
    found |= registers_of(section, context)
    if section.mode.long:
        bits = 12 + 9 * section.levels
        sign = -(access.va >> bits - 1 & 1) & (1 << 64 - bits) - 1
        found["upper"] = access.va >> bits ^ sign
    table = context.cr3 & LOW & -32
    for level in sorted(section.free, reverse=True):
        form = FORMATS[section.mode][level]
        index, tried = form.index(access.va), form.index(access.va)
        if not form.restricts:
            found["neighbour"], tried = index, 0
        for name in (*section.free[level], *section.one_of.get(level, ())):
            found[f"{level}.{name}"] = has(word_at(memory, form, table, tried), name)
        word = word_at(memory, form, table, index)
        small = section.mode is PagingMode.BIT32 and not context.cr4 & CR4.PSE
        if not has(word, "p") or (form.large and has(word, "ps") and not small):
            break
        table = word & LOW & -4096
    return found


def registers_of(section, context):
    found = {}
    for name in section.controls:
        register, bit = CONTROLS[name] if name in CONTROLS else KEY_BITS[name]
        bit = bit if name in CONTROLS else bit << 2 * KEY
        found[name] = bool(getattr(context, register) & bit)
    for name, many in (("pkru", section.pkrus), ("pkrs", section.pkrs)):
        if many:
            found[name] = getattr(context, name)
    if len(section.processors) > 1:
        found |= {name: feature_of(context, name) for name in FEATURES}
    return found


def word_at(memory, form, table, index):
    return int.from_bytes(memory.read(table + index * form.entry_size, form.entry_size), "little")


def has(word, name):
    if name == "pk" or name.startswith("key"):
        return word & 15 << 59 == ENTRY_BITS[name]
    return word & ENTRY_BITS[name] == ENTRY_BITS[name]


def combinations_of(section, most=None):
    """What each combination of a section has, or so many drawn at random have."""
    spaces = list(section.spaces())
    rows = [range(len(space.accesses)) for space in spaces]
    if most is not None:
        chance = np.random.default_rng(5)
        numbers = Counter(chance.integers(0, len(spaces), most).tolist())
        drawn = [chance.integers(0, len(each), numbers[at]) for at, each in enumerate(rows)]
        rows = [each.tolist() for each in drawn]
    for space, some in zip(spaces, rows, strict=True):
        memory = space.memory() if some else None
        for row in some:
            yield values_of(section, space.context, memory, space.accesses[row])


def pairs_of(some):
    found = set()
    for values in some:
        found.update(combinations(sorted(values.items()), 2))
    return found


def each_of(sections):
    """The sections as parameters, those slow that aren't quick."""
    return [
        pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.slow)
        for each in sections
    ]


def test_quick_sections_are_there():
    assert {section.name for section in SINGLE} >= QUICK


@pytest.mark.parametrize("section", each_of(SINGLE))
def test_each_pair_of_values_comes_up_but_for_what_else_is_drawn(section, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.matrix.section.OTHERS", 0)
    selected = replace(section, pairs=True)
    total, some = sum(section.sizes()), sum(selected.sizes())
    assert 0 < some <= min(total, 1200)
    there = pairs_of(combinations_of(section, None if total <= SMALL else SMALL))
    assert len(there) > 50
    assert there <= pairs_of(combinations_of(selected))


def test_some_others_are_selected_as_well():
    assert 900 < sum(replace(SINGLE[0], pairs=True).sizes()) < 1100


def test_a_selection_that_lacks_a_combination_may_lack_a_pair():
    section = next(each for each in SINGLE if each.name == "vendor-fetch")
    some = list(combinations_of(section))[::2]
    assert not pairs_of(combinations_of(section)) <= pairs_of(some)


def test_the_same_is_selected_each_time_and_no_combination_twice():
    section = replace(SINGLE[0], pairs=True)
    one, two = (
        [(space.context, access) for space in section.spaces() for access in space.accesses]
        for _ in range(2)
    )
    assert one == two
    assert len(one) == len(set(one))


def test_what_is_selected_is_of_the_choice():
    choice = parse_choice("pte.nx=1,cr0.wp=0,access=write")
    section = replace(SINGLE[0], pairs=True)
    spaces = list(section.spaces(choice))
    assert spaces
    for space in spaces:
        for access in space.accesses:
            values = values_of(section, space.context, space.memory(), access)
            assert values["1.nx"]
            assert not values["cr0.wp"]
            assert AccessType.WRITE is values["access"]


def test_rows_of_one_part_go_with_all_of_another_and_pairs_that_there_arent_are_not_asked_for():
    one = np.array([[0, 0], [1, NO_VALUE]], np.int16)
    two = np.array([[0], [1], [2]], np.int16)
    chosen = covering((one, two), 1)
    assert [(a, b) for a in range(2) for b in range(3)] == chosen


def test_nothing_covers_nothing():
    assert [] == covering((np.zeros((0, 2), np.int16), np.zeros((3, 1), np.int16)), 1)


@pytest.mark.parametrize("chosen", ["cr4.pks=1", "maxphyaddr=52", "cpl=3,rflags.ac=1"])
def test_sections_without_what_is_chosen_are_empty(chosen):
    choice = parse_choice(chosen)
    sizes = {
        section.name: (sum(replace(section, pairs=True).sizes(choice)), sum(section.sizes(choice)))
        for section in SINGLE
        if section.name in QUICK
    }
    assert all((some > 0) == (whole > 0) for some, whole in sizes.values())
    assert 0 in {some for some, _ in sizes.values()}
