"""The second walk: by the manuals what the walker predicts, else what the emulated CPU does."""

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from crosswalk.emu.check.compare import as_emulated, by_the_manuals, same_rows
from crosswalk.emu.check.departures import DEPARTURES, Scope, departures
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.probe import ProberCache
from crosswalk.walker import Accesses, AccessType
from crosswalk.walker.bulk import translate_many
from tests.emu.check.planted_bugs import GUEST
from tests.emu.seeded_tables import SeededTables, seeded_tables
from tests.random_tables import CHOICES, accesses_of, random_tables
from tests.tables import MODES

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
READ, WRITE, EXECUTE = AccessType


@cache
def layouts():
    """Layouts as `fuzz` makes them."""
    some = [generate(12, index, accesses=2048) for index in range(16)]
    return [SeededTables(each.memory(), each.context, each.accesses) for each in some]


def unlike(found, predict=translate_many):
    """How many accesses the walker predicts otherwise than the second walk."""
    memory, registers, accesses = found
    manual = by_the_manuals(memory, registers, accesses)
    return int((~same_rows(manual, predict(memory, registers, accesses))).sum())


@QUICK
@given(tables=random_tables(MODES), choices=CHOICES)
def test_with_every_departure_off_it_answers_what_the_walker_predicts(tables, choices):
    assert 0 == unlike(
        SeededTables(tables.memory, tables.context, Accesses.of(accesses_of(tables, choices)))
    )


@pytest.mark.parametrize("plain", [True, False], ids=["the CPU's features", "other features"])
def test_of_seeded_tables_it_answers_what_the_walker_predicts(plain):
    assert 0 == sum(unlike(seeded_tables(seed, 400, plain=plain)) for seed in range(60))
    assert 0 == sum(
        unlike(seeded_tables(seed, 200, mode, plain=plain, loadable=bool(seed % 3)))
        for seed in range(20)
        for mode in ("32-bit", "PAE")
    )


def test_of_layouts_it_answers_what_the_walker_predicts():
    assert [0] * 16 == [unlike(each) for each in layouts()]


@pytest.mark.parametrize("bug", GUEST, ids=lambda bug: bug.name)
def test_a_bug_of_the_walker_shows_against_it(bug):
    some = (seeded_tables(seed, 400, plain=True) for seed in range(10))
    assert any(unlike(each, bug.predict) for each in (*some, *layouts()))


@pytest.mark.parametrize("plain", [True, False], ids=["the CPU's features", "other features"])
def test_with_all_departures_it_answers_what_the_cpu_does(plain):
    probers = ProberCache()
    for seed in range(20):
        memory, registers, accesses = seeded_tables(seed, 300, plain=plain)
        observed = asked(probers, memory, registers, accesses)
        assert same_rows(as_emulated(*observed[:3]), observed[3]).all(), seed


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
@pytest.mark.parametrize("plain", [True, False], ids=["the CPU's features", "other features"])
def test_in_32_bit_and_pae_paging_it_does_too(mode, plain):
    probers = ProberCache()
    for seed in range(8):
        found = seeded_tables(seed, 40, mode, plain=plain, loadable=False)
        observed = asked(probers, *found)
        assert same_rows(as_emulated(*observed[:3]), observed[3]).all(), seed


def asked(probers, memory, registers, accesses):
    """What can be asked of the emulated CPU, and what it does."""
    prober = probers.prober(memory, registers)
    some = accesses.take(np.flatnonzero(prober.lacking(accesses) == 0))
    return memory, registers, some, prober.probe(some)


SINGLE = departures(Scope.ACCESS)


@pytest.mark.parametrize("entry", SINGLE, ids=lambda entry: entry.id)
def test_without_one_of_its_departures_it_is_another_cpu(entry, monkeypatch):
    rest = tuple(each for each in DEPARTURES if each is not entry)
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    probers, different = ProberCache(), 0
    for seed in range(40):
        for found in (seeded_tables(seed, 300), seeded_tables(seed, 10, "PAE", loadable=False)):
            memory, registers, accesses, observed = asked(probers, *found)
            different += int((~same_rows(as_emulated(memory, registers, accesses), observed)).sum())
        if different:
            break
    assert different


@pytest.mark.fuzz
def test_of_fresh_seeded_tables_and_layouts_it_answers_what_the_walker_predicts(fresh_seed):
    start = fresh_seed
    for seed in range(start, start + 1500):
        some = [seeded_tables(seed, 500), seeded_tables(seed, 300, "32-bit")]
        some.append(seeded_tables(seed, 300, "PAE", loadable=False))
        if seed % 8 == 0:
            layout = generate(seed, 0)
            some.append(SeededTables(layout.memory(), layout.context, layout.accesses))
        assert 0 == sum(unlike(each) for each in some), f"seed {seed}"
