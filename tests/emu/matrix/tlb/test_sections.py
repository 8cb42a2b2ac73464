"""The sequences of the matrix: that they are what their names say, and that they show something."""

import random

import pytest

from crosswalk.emu.check.sequences import judge
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.emu.matrix.tlb.fixture import FAR, Fixture
from crosswalk.emu.matrix.tlb.sections import RANDOM_SEQUENCES, SEQUENCE_SECTIONS
from crosswalk.emu.matrix.unit import SEQUENCE_UNIT, Unit, Worker, units_of
from crosswalk.emu.probe.sequences import Runner, routines
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.tlb import Invlpg, Rule, Store, parse_sequence
from crosswalk.walker.translate import translate

SECTIONS = {section.name: section for section in SEQUENCE_SECTIONS}
FEW = "section=tlb-leaf,page=4k,change=target,g=0,prime=read,access=read"


@pytest.fixture(scope="module")
def runner():
    return Runner()


@pytest.mark.parametrize("section", SEQUENCE_SECTIONS, ids=lambda section: section.name)
def test_a_section_says_what_it_covers_and_leaves_out(section):
    assert section.covers
    assert section.pruned
    names = [section.text(named) for named in section.combinations({})]
    assert len(names) == len(set(names))
    for text in names[:: max(1, len(names) // 20)]:
        assert [text] == [section.text(named) for named in section.combinations(parse_choice(text))]


@pytest.mark.parametrize("section", SEQUENCE_SECTIONS, ids=lambda section: section.name)
def test_every_value_of_every_dimension_is_there(section):
    seen = {name: set() for name in section.dimensions}
    for named in section.combinations({}):
        for name, value in named.items():
            seen[name].add(value)
    assert {name: set(values) for name, values in section.dimensions.items()} == seen


@pytest.mark.parametrize("section", SEQUENCE_SECTIONS, ids=lambda section: section.name)
def test_the_sequences_of_a_section_run_and_some_are_stale(section, runner):
    combinations = list(section.combinations({}))
    stale = unknown = 0
    for named in random.Random(section.name).sample(combinations, 300):
        sequence = section.make(named)
        judged = judge(sequence, runner.run(sequence))
        stale += judged.stale
        unknown += judged.violation is not None and judged.violation.known is None
    assert 0 == unknown
    # The emulator caches nothing of upper levels by itself, as tlb-late would need.
    assert (stale > 0) == (section.name != "tlb-late")


@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("levels", [4, 5])
def test_both_versions_of_each_entry_of_a_scene_lead_to_pages_of_their_own(leaf, levels):
    fixture = Fixture(leaf, levels)
    entries = fixture.entries()
    memory = SparseWords(((0, 32 << 30),), entries)
    reached = {}
    for level in [None, *range(leaf, levels + 1)]:
        words = dict(entries)
        if level is not None:
            words[fixture.entry_pa(level)] = fixture.entry(level, other=True)
        memory = SparseWords(((0, 32 << 30),), words)
        for va in (fixture.va, fixture.near):
            outcome = translate(memory, fixture.context(), Access(va, AccessType.WRITE, 3))
            assert isinstance(outcome, Translation)
            assert () == outcome.entries
            reached[level, va] = outcome.pa
    # Of a small page the neighbour is the same in both versions of the leaf.
    assert len(set(reached.values())) == len(reached) - (leaf == 1)
    far = translate(memory, fixture.context(), Access(FAR, AccessType.READ, 3))
    assert isinstance(far, PageFault)


def test_a_named_sequence_is_what_its_name_says():
    section = SECTIONS["tlb-leaf"]
    choice = parse_choice(FEW + ",invalidate=invlpg,cpl=3")
    (named,) = section.combinations(choice)
    sequence = section.make(named)
    read, store, invlpg, *last = sequence.steps
    assert isinstance(store, Store)
    assert store.value & ~0xFFF != sequence.entries[store.pa] & ~0xFFF
    assert store.value & 0xFFF == sequence.entries[store.pa] & 0xFFF
    assert [read, Invlpg(read.va), read, read] == [read, invlpg, *last]
    assert Access(Fixture(1).va, AccessType.READ, 3, ac=False) == read


def test_random_sequences_differ_and_each_is_the_same_for_ever():
    section = SECTIONS["tlb-random"]
    made = [section.make({"number": str(number)}) for number in range(200)]
    assert made == [section.make({"number": str(number)}) for number in range(200)]
    assert len({sequence.steps for sequence in made}) == len(made)
    assert RANDOM_SEQUENCES == sum(1 for _ in section.combinations({}))


def test_units_cover_each_sequence_once():
    for section in SEQUENCE_SECTIONS:
        units = list(units_of(section, {}))
        count = sum(1 for _ in section.combinations({}))
        assert [0, *(unit.last for unit in units[:-1])] == [unit.first for unit in units]
        assert units[-1].last == count == sum(unit.combinations for unit in units)
        assert all(unit.combinations <= SEQUENCE_UNIT for unit in units)


def test_names_of_sequences_choose_no_single_accesses_and_the_other_way_round():
    assert {"tlb-random"} == {unit.section for unit in chosen_units(parse_choice("number=17"))}
    sections = {unit.section for unit in chosen_units(parse_choice("pte.nx=1,access=read"))}
    assert sections
    assert not any(name.startswith("tlb-") for name in sections)
    both = {unit.section for unit in chosen_units(parse_choice("access=read,cpl=3"))}
    assert both >= {"tlb-leaf", "rights-4k"}
    everything = {unit.section for unit in chosen_units({})}
    assert everything >= {*SECTIONS, "rights-4k"}


def unit_of(text):
    ((unit),) = chosen_units(parse_choice(text))
    return unit


def test_a_unit_counts_what_its_sequences_came_to():
    unit = unit_of(FEW)
    assert isinstance(unit, Unit)
    result = Worker(SEQUENCE_SECTIONS, parse_choice(FEW)).do(unit)
    assert 20 == result.unit.combinations
    assert 60 == sum(result.counts)
    assert result.counts[2]
    assert ({}, {}) == (result.known, result.findings)


def test_a_violation_is_grouped_by_its_cause_and_comes_with_a_sequence(monkeypatch):
    monkeypatch.setitem(routines.ROUTINE, "invlpg", routines._NEXT)
    result = Worker(SEQUENCE_SECTIONS, parse_choice(FEW)).do(unit_of(FEW))
    (violation,) = result.findings.values()
    assert (str(Rule.INVLPG), 2) == (violation.signature, violation.count)
    assert "invalidate=invlpg" in violation.select.split(",")
    record = parse_sequence(violation.sequence, "x")
    assert violation.select == record.note
    # The instruction is there again, and so is the right outcome.
    monkeypatch.undo()
    assert None is judge(record.sequence, Runner().run(record.sequence)).violation


def test_known_departures_are_counted_apart():
    text = "section=tlb-pcid,page=4k,level=0,change=target,g=0,prime=read,between=invpcid-1"
    result = Worker(SEQUENCE_SECTIONS, parse_choice(text)).do(unit_of(text))
    assert {"invpcid-undefined": 6} == result.known
    assert {} == result.findings
