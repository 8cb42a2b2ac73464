"""The emulator's departures as `fuzz` sees them: those that are stated, and no others."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import DEPARTURES
from crosswalk.emu.check.departures import Departure, Scope, departures
from crosswalk.emu.findings.findings import INTENDED, SECOND_WALK, WALKER
from crosswalk.emu.findings.layout import IntendedOutcomes, case_layout
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.formats import Case, Cpu, Probe, load_case
from tests.emu.case_files import KNOWN_CASES

EACH = pytest.mark.parametrize("entry", departures(Scope.ACCESS), ids=lambda entry: entry.id)


pytestmark = pytest.mark.usefixtures("fresh_executors")


def table(monkeypatch, *entries):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", entries)


def without(entry):
    return [each for each in DEPARTURES if each is not entry]


# What the emulated CPU doesn't do.
PLANTED = [
    Departure(name, Scope.ACCESS, "", "", "", change=change)
    for name, change in (
        ("SMEP isn't looked at", lambda rules: replace(rules, smep=False)),
        ("WP isn't looked at", lambda rules: replace(rules, wp=False)),
        ("39 address bits", lambda rules: replace(rules, width=39)),
        ("G of a PML4E is reserved", lambda rules: replace(rules, high_bit_8=True)),
        ("a fetch isn't told", lambda rules: replace(rules, fetch_bit=False)),
        ("a leaf of 1 GiB isn't marked early", lambda rules: replace(rules, early=False)),
    )
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda entry: entry.id)
def test_a_departure_that_the_emulator_does_not_have_is_found(planted, monkeypatch):
    table(monkeypatch, *DEPARTURES, planted)
    executor = Executor()
    for index in range(40):
        found = executor.findings(generate(3, index, accesses=2048))
        if found.divergent:
            break
    witnesses = {each.witness for each in found.signatures}
    assert witnesses & {SECOND_WALK, WALKER}
    # What isn't explained any more is taken for the truth, and the intention contradicts it.
    assert {SECOND_WALK, WALKER, INTENDED} >= witnesses


@EACH
def test_a_departure_that_is_taken_out_of_the_table_is_found(entry, monkeypatch):
    table(monkeypatch, *without(entry))
    layout = case_layout(load_case(KNOWN_CASES / entry.case))
    found = Executor().findings(layout)
    assert (1, Counter()) == (found.divergent, found.known)
    assert {WALKER} == {each.witness for each in found.signatures}


@EACH
def test_a_departure_that_is_in_the_table_is_counted(entry):
    found = Executor().findings(case_layout(load_case(KNOWN_CASES / entry.case)))
    assert (0, Counter({entry.id: 1})) == (found.divergent, found.known)


def test_a_composite_that_is_not_as_stated_is_found(monkeypatch):
    executor = Executor()

    def attempted():
        made = (generate(3, index, accesses=4096) for index in range(6))
        return {
            str(each.signature)
            for layout in made
            for each in executor.run(lambda layout=layout: layout, cross=True).findings
        }

    assert set() == attempted()
    table(monkeypatch, *DEPARTURES, PLANTED[1])
    assert any(each.startswith("cross:") and f"{SECOND_WALK} says" in each for each in attempted())


@pytest.mark.parametrize("entry", departures(Scope.COMPOSITE), ids=lambda entry: entry.id)
def test_a_departure_of_composites_that_is_taken_out_of_the_table_is_found(entry, monkeypatch):
    executor = Executor()

    def first(*, known):
        for index in range(60):
            layout = generate(5, index, accesses=2048)
            found = executor.run(lambda layout=layout: layout, cross=True)
            if found.findings or (known and entry.id in found.known):
                return found
        raise AssertionError(entry.id)

    assert () == first(known=True).findings
    table(monkeypatch, *without(entry))
    assert {WALKER} == {each.signature.witness for each in first(known=False).findings}


def masked():
    """Reads through pointers with metadata, which LAM masks and the emulated CPU can't."""
    context = PagingContext(cr3=0x1000 | 1 << 61)
    probes = tuple(Probe(va=at << 58 | 0x123, access="read", cpl=3) for at in range(1, 16))
    entries = {0x1000: 0x2007, 0x2000: 0x87}
    case = Case(cpu=Cpu.from_context(context), ram=((0, 1 << 20),), entries=entries, probes=probes)
    return case_layout(case)


def test_what_can_only_be_predicted_is_held_against_the_second_walk_by_the_manuals():
    def without_lam(memory, context, accesses):
        return translate_many(memory, replace(context, cr3=context.cr3 & ~(3 << 61)), accesses)

    right, wrong = Executor(), Executor(predict=without_lam)
    assert (0, set()) == (right.findings(masked()).divergent, right.findings(masked()).signatures)
    found = wrong.findings(masked())
    assert 15 == found.divergent
    assert {SECOND_WALK} == {each.witness for each in found.signatures}
    for each in found.all():
        assert each.signature in wrong.findings(case_layout(each.case)).signatures


def test_a_case_of_a_masked_pointer_has_the_entries_of_its_walk():
    def elsewhere(memory, context, accesses):
        found = translate_many(memory, context, accesses)
        return replace(found, pa=found.pa ^ np.uint64(0x1000))

    (found,) = Executor(predict=elsewhere).findings(masked()).all()
    assert {0x1000: 0x2007, 0x2000: 0x87} == found.case.entries


@pytest.mark.fuzz
def test_fresh_seeds_find_nothing(fresh_seed):
    chance = np.random.default_rng(fresh_seed)
    executor = Executor()
    for seed in chance.integers(0, 1 << 32, 40).tolist():
        for index in range(6):
            made = generate(seed, index)
            found = executor.run(lambda made=made: made, cross=True)
            texts = [str(each.signature) for each in found.findings]
            assert (0, []) == (found.divergent, texts), (seed, index)


def departing(seed):
    """A layout under a context of which the emulated CPU is no instance, and bits that tell."""
    chance = np.random.default_rng(seed)
    layout = generate(seed, 0)
    amd = bool(chance.random() < 0.5)
    context = PagingContext(
        cr3=layout.context.cr3 & 0xFFFF_FFFF,
        cr0=layout.context.cr0,
        cr4=layout.context.cr4 & ~(3 << 27 | 1 << 24) | 1 << 20,
        efer=0x500 | 0x800 * bool(chance.random() < 0.5),
        pkru=layout.context.pkru,
        maxphyaddr=int(chance.choice([36, 37, 38, 39, 40])),
        page1gb=bool(chance.random() < 0.3),
        vendor=Vendor.AMD if amd else Vendor.INTEL,
    )
    words = layout.words.copy()
    present = np.argwhere(words & np.uint64(1))
    for row, at in chance.choice(present, len(present) // 6, replace=False):
        words[row, at] ^= np.uint64(1) << chance.choice(np.array([7, 7, 8, 13, 36, 38, 39], "u8"))
    count = len(layout.accesses)
    nothing = IntendedOutcomes.nothing(count)
    return replace(layout, context=context, words=words, intended=nothing)


def met_in(seeds):
    """The names under which departures met in layouts of these seeds, and how often."""
    executor, names = Executor(), Counter()
    for seed in seeds:
        layout = departing(seed)
        found = executor.run(lambda layout=layout: layout, cross=True)
        assert [] == [str(each.signature) for each in found.findings], seed
        names.update(found.known)
    return names


def test_any_number_of_departures_that_meet_are_explained():
    names = met_in(range(12))
    assert {1, 2, 3} <= {name.count("+") + 1 for name in names}
    used = {each for name in names for each in name.split("+")}
    assert {each.id for each in departures(Scope.ACCESS, Scope.COMPOSITE)} - used <= {PAE, AC}


PAE, AC = "pae-pdpte-read-when-used", "implicit-access-honours-ac"
"""Of PAE paging alone; and too rare for a few layouts."""


@pytest.mark.fuzz
def test_of_fresh_seeds_too(fresh_seed):
    assert len(met_in(range(fresh_seed, fresh_seed + 200))) > 20
