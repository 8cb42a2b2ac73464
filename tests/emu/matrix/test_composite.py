import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.findings.findings import judged_case
from crosswalk.emu.matrix.bits import ENTRY_BITS, LEVEL_NAMES
from crosswalk.emu.matrix.composite_sections import COMPOSITE_SECTIONS
from crosswalk.emu.matrix.counts import value_counts
from crosswalk.emu.matrix.crossing import adjacent_entries, canonical_borders, de_bruijn
from crosswalk.emu.matrix.section import KEY
from crosswalk.emu.matrix.select import ALL_SECTIONS, chosen_sections, chosen_units, parse_choice
from crosswalk.emu.matrix.summary import reduced_cases
from crosswalk.emu.matrix.unit import units_of
from crosswalk.emu.probe.composites import FORMS, NAMES, SAME_PKRU, Family
from crosswalk.emu.report.composites import parse_composite
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingMode
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.translate import walk
from tests.emu.check.planted_bugs import GUEST
from tests.emu.matrix.running import all_of, laid_out
from tests.tables import PS

BY_NAME = {section.name: section for section in COMPOSITE_SECTIONS}


@pytest.mark.parametrize("count", [1, 2, 3, 9, 19])
def test_each_of_some_neighbours_stands_once_before_each(count):
    row = de_bruijn(count)
    pairs = Counter(pairwise(row))
    assert len(row) == count**2 + 1
    assert pairs == {(one, two): 1 for one in range(count) for two in range(count)}


def entries_at(section, shape, va):
    memory = SparseWords.of_tables(section.ram, shape.frames, shape.words)
    context = next(iter(section.contexts()))
    steps = walk(memory, context, va % (1 << 64)).steps
    # But for addresses, in which each differs.
    return tuple(
        step.entry & ~(0xF_FFE0_0000 if step.entry & PS else 0xF_FFFF_F000) for step in steps
    )


@pytest.mark.parametrize("name", ["cross-4k", "cross-2m", "cross-1g", "cross-512g"])
def test_every_entry_lies_beside_every_other_once(name):
    section = BY_NAME[name]
    (shape,) = adjacent_entries(section, {})
    pairs = Counter(
        (entries_at(section, shape, border - 1), entries_at(section, shape, border))
        for border in shape.va.tolist()
    )
    variants = section.variants({})
    count = max(len(each.word) for each in variants)
    assert len(shape.va) == count**2
    assert {1} == set(pairs.values())
    assert len({first for first, _ in pairs}) == len({second for _, second in pairs}) == count


@pytest.mark.parametrize("name", ["cross-ends", "cross-ends-5level"])
def test_the_ends_of_the_halves_have_every_pair_of_entries(name):
    section = BY_NAME[name]
    shapes = canonical_borders(section, {})
    pairs = set()
    for shape in shapes:
        half, upper, top = shape.va.tolist()
        assert (half, upper) == (1 << 11 + 9 * section.levels, (1 << 64) - half)
        last = {entries_at(section, shape, half - 1), entries_at(section, shape, top - 1)}
        first = {entries_at(section, shape, upper), entries_at(section, shape, top)}
        assert len(last) == len(first) == 1
        pairs.add((*last, *first))
    assert len(pairs) == len(shapes) == 9**2


def test_composites_are_the_product_of_their_dimensions():
    section = BY_NAME["twice-key"]
    rows = section.accesses_to(np.array([0x1000], np.uint64))
    columns = (rows.form, rows.cpl, rows.ac, rows.then_cpl, rows.then_ac, rows.then_pkru)
    assert len(rows) == len(set(zip(*(each.tolist() for each in columns), strict=True)))
    assert 4 * 3 * 3 * 4 == len(rows)
    assert {0x1040} == set(rows.va.tolist())
    section = BY_NAME["cross-4k"]
    rows = section.accesses_to(np.array([0x1000], np.uint64))
    assert {
        "cross:read": 0xFFC,
        "cross:write": 0xFFC,
        "cross:execute": 0xFFA,
    } == {NAMES[form]: int(va) for form, va in zip(rows.form, rows.va, strict=True)}
    assert {SAME_PKRU} == set(rows.then_pkru.tolist())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("access=rmw", {"rmw-4k", "rmw-2m"}),
        ("access=twice,then.cpl=3", {"twice-4k", "twice-2m", "twice-alias", "twice-key"}),
        ("access=twice:execute+read", {"twice-4k", "twice-2m", "twice-alias"}),
        ("then.ac=1", {"twice-4k", "twice-2m", "twice-alias", "twice-key"}),
        ("access=cross:write,pml4e.ps=1", {"cross-512g"}),
    ],
)
def test_a_choice_of_composites_leaves_their_sections_alone(text, left):
    assert {unit.section for unit in chosen_units(parse_choice(text))} == left


@pytest.mark.parametrize("section", COMPOSITE_SECTIONS, ids=lambda section: section.name)
def test_a_section_has_units_for_all_its_spaces_and_says_what_it_leaves_out(section):
    sizes = section.sizes()
    units = list(units_of(section, {}))
    assert [unit.first for unit in units] == [0, *(unit.last for unit in units[:-1])]
    assert units[-1].last == len(sizes)
    assert sum(unit.combinations for unit in units) == sum(sizes)
    assert section.covers
    assert section.pruned
    assert len(next(iter(section.spaces())).accesses) == sizes[0]


@pytest.mark.parametrize(
    ("section", "chosen"),
    [
        ("rmw-4k", "cr0.wp=1,cr4.smap=1,cr4.pke=1,pkru.ad=0,pkru.wd=1,pde.us=1,pte.d=0"),
        ("implicit-2m", "cr0.wp=1,cr4.smap=1,cr4.pke=1,pkru.ad=0,pkru.wd=1,pdpte.us=1,pde.d=0"),
        ("cross-4k", "cr0.wp=1,efer.nx=1,cr4.smep=1,cr4.smap=0,cr4.pke=1,pkru.ad=0,pkru.wd=1"),
        ("cross-1g", "cr0.wp=1,efer.nx=1,cr4.smep=1,cr4.smap=0,rflags.ac=0"),
        ("cross-512g", "cr0.wp=1,efer.nx=0,cr4.smep=1,cr4.smap=0,rflags.ac=0"),
        ("cross-ends", "cr0.wp=1,cr4.smap=0,rflags.ac=0,pte.nx=0"),
        ("cross-ends-5level", "cr4.smap=1,rflags.ac=1,pte.nx=0"),
        ("twice-4k", "cr0.wp=1,cr4.smep=1,cr4.smap=1,pde.rw=1,pte.a=0"),
        ("twice-key", "cr0.wp=1,cr4.smap=0,pkru.ad=0,pkru.wd=1,pte.us=1"),
    ],
)
def test_walker_and_cpu_agree_on_composites(section, chosen):
    summary = all_of(f"section={section},{chosen}")
    assert summary.probes > 100
    assert 0 == summary.divergent
    assert [] == summary.crashes
    counts = summary.outcomes[section]
    assert sum(counts) == summary.probes
    assert counts[0] > 0
    assert counts[1] > 0
    assert (counts[2] > 0) == section.startswith("cross-ends")


@pytest.mark.parametrize(
    ("bug", "chosen"),
    [
        (
            "R/W of a PTE ignored",
            "section=cross-4k,access=cross:write,cr4.smap=0,cr4.smep=0,cr4.pke=0,pkru.ad=0",
        ),
        ("D not set", "section=twice-4k,access=twice:read+write,cr4.smap=0,cr4.smep=0,pde.us=1"),
    ],
)
def test_a_planted_bug_is_found_grouped_and_made_small(bug, chosen):
    (bug,) = [each for each in GUEST if each.name == bug]
    summary = all_of(chosen, bug.predict)
    assert summary.divergent > 0
    assert 1 <= len(summary.groups) <= 20
    slug = next(iter(summary.groups))
    summary.groups = {slug: summary.groups[slug]}
    small = dict(reduced_cases(summary, bug.predict))
    case = parse_composite(small[slug].encode(), slug)
    assert len(case.case.entries) <= 5
    again = CompositeChecker(bug.predict)
    assert judged_case(again, case).differ.all()
    assert not judged_case(CompositeChecker(translate_many), case).differ.any()
    assert json.loads(small[slug])["observed"]


def test_what_the_emulator_is_known_for_is_counted_apart():
    summary = all_of("section=rmw-4k,cr0.wp=1,cr4.smap=0,cr4.pke=0,pkru.ad=0,pkru.wd=0,pte.d=0")
    assert 0 == summary.divergent
    assert ["locked-rmw-reads-first"] == list(summary.known)


def test_each_combination_is_counted_once_for_each_dimension():
    for section in chosen_sections({}):
        total = sum(unit.combinations for unit in units_of(section, {}))
        for name, values in value_counts(section, {}).items():
            if name.partition(".")[0] in ("pte", "pde", "pdpte", "pml4e", "pml5e"):
                assert sum(values.values()) <= total
            else:
                assert sum(values.values()) == total


@pytest.mark.parametrize("name", ["rmw-4k", "junk-pde", "cross-ends"])
def test_counts_are_what_counting_gives(name):
    (section,) = [each for each in ALL_SECTIONS if each.name == name]
    context = next(iter(section.contexts()))
    states = len(list(section.contexts()))
    counted = Counter()
    if name == "cross-ends":
        for shape in section.shapes(section, {}):
            memory = SparseWords.of_tables(section.ram, shape.frames, shape.words)
            for border in shape.va.tolist():
                words = [memory.word(0x4000), memory.word(0x4FF8)]
                counted["pte.nx"] += border >= 0 and any(word >> 63 for word in words)
        each = len(section.accesses_to(np.zeros(1, np.uint64)))
        assert value_counts(section, {})["pte.nx"]["1"] == counted["pte.nx"] * each * states
        return
    _, memory, va = laid_out(section, {})
    for at in va.tolist():
        for step in walk(memory, context, at).steps:
            counted[step.level] += step.entry >> 51 & 1
    each = len(section.accesses_to(va[:1]))
    counts = value_counts(section, {})
    for level, spelt in ((1, "pte"), (2, "pde")):
        if f"{spelt}.bit51" in counts:
            assert counts[f"{spelt}.bit51"]["1"] == counted[level] * each * states
    assert sum(counts["access"].values()) == len(va) * each * states


@pytest.mark.parametrize("name", ["cross-2m", "cross-512g", "twice-alias", "twice-4k"])
def test_an_entry_bit_counts_once_if_it_is_set_on_either_path(name):
    (section,) = [each for each in ALL_SECTIONS if each.name == name]
    _, memory, va = laid_out(section, {})
    states = len(list(section.contexts()))

    def held(at):
        """The bits on the path of an address, whatever is reserved."""
        found, table = set(), 0x1000
        for level in (4, 3, 2, 1):
            entry = memory.word(table + (at >> 3 + 9 * level) % 512 * 8)
            for bit in ("p", "rw", "us", "nx", "d"):
                if entry & ENTRY_BITS[bit]:
                    found.add(f"{LEVEL_NAMES[level]}.{bit}")
            if not entry & 1 or (entry & PS and level in (2, 3)):
                break
            table = entry & 0xF_FFFF_F000
        return found

    places = [held(at) for at in va.tolist()]
    if section.aliases:
        places = [one | other for one in places for other in places]
    elif name.startswith("cross"):
        places = [both | held(at - 1) for both, at in zip(places, va.tolist(), strict=True)]
    each = len(section.accesses_to(va[:1])) * states
    counts = value_counts(section, {})
    for bit, number in Counter(bit for place in places for bit in place).items():
        assert number * each == counts[bit]["1"], bit


@pytest.mark.parametrize("name", ["pae-pdpte", "pae-junk-pde", "32bit-large"])
@pytest.mark.parametrize("chosen", ["", "pdpte.p=1,cpl=0", "pdpte.p=0"])
def test_counts_of_32_bit_and_pae_paging_are_what_counting_gives(name, chosen):
    (section,) = [each for each in ALL_SECTIONS if each.name == name]
    choice = parse_choice(chosen)
    _, memory, va = laid_out(section, choice)
    each = len(section.accesses_to(va[:1], choice))
    bits = {"p": 1, "us": 1 << 2, "ps": 1 << 7, "nx": 1 << 63, "bit51": 1 << 51}
    counted = Counter()
    for context in section.contexts(choice):
        for at in va.tolist():
            for level, entry in selected(memory, context, at):
                counted.update(f"{level}.{bit}" for bit, mask in bits.items() if entry & mask)
    counts = value_counts(section, choice)
    assert {name: values["1"] for name, values in counts.items() if name in every(bits)} == {
        name: counted[name] * each for name in counts.keys() & every(bits)
    }
    assert set(counted) <= set(counts)


def every(bits):
    """The names of these bits on all levels."""
    return {f"{level}.{bit}" for level in ("pte", "pde", "pdpte") for bit in bits}


def selected(memory, context, va):
    """The entries that an address selects, by level; reserved bits are nothing here."""
    size = 4 if context.mode is PagingMode.BIT32 else 8
    table = context.root
    levels = [("pde", 22, 10), ("pte", 12, 10)]
    if size == 8:
        levels = [("pdpte", 30, 2), ("pde", 21, 9), ("pte", 12, 9)]
    for name, shift, bits in levels:
        pa = table + (va >> shift) % (1 << bits) * size
        entry = memory.word(pa & -8) >> pa % 8 * 8 & (1 << 8 * size) - 1
        yield name, entry
        if not entry & 1 or (name == "pde" and entry & PS and (size == 8 or context.pse)):
            return
        table = entry & 0xFF_F000


def test_every_form_and_every_denial_is_in_the_matrix():
    forms = {form for section in COMPOSITE_SECTIONS for form in section.accesses}
    assert forms == set(FORMS)
    assert {FORMS[form].family for form in forms} == set(Family)
    pkrus = {pkru for section in COMPOSITE_SECTIONS for pkru in section.then_pkrus}
    assert pkrus == {SAME_PKRU, *(denied << 2 * KEY for denied in range(4))}
