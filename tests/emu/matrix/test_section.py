import numpy as np
import pytest

from crosswalk.emu.matrix.bits import ENTRY_BITS, LEVEL_NAMES
from crosswalk.emu.matrix.feature_sections import FEATURE_SECTIONS
from crosswalk.emu.matrix.section import HIGH_RAM, KEY, MAX_VARIANTS, Section
from crosswalk.emu.matrix.sections import BOUNDARY_SECTIONS, SECTIONS
from crosswalk.emu.matrix.select import parse_choice
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.translate import StepKind, walk
from tests.emu.matrix.running import laid_out

SMALL = Section(
    name="small",
    covers="two bits of a PTE, one of a PDE",
    free={4: (), 3: (), 2: ("p",), 1: ("rw", "us")},
    fixed={4: ("p",), 3: ("p",), 1: ("p",)},
    one_of={1: ("bit40", "bit51")},
    controls=("cr0.wp", "cr4.pke", "pkru.ad"),
    ac=(False, True),
)


def test_every_combination_of_entries_has_one_path():
    variants, memory, va = laid_out(SMALL, {})
    assert [1, 1, 2, 12] == [len(each.word) for each in variants]
    # One path ends at the absent PDE; the other twelve each at their PTE.
    assert len(va) == len(set(va.tolist())) == 13
    context = next(iter(SMALL.contexts()))
    seen = {
        tuple(step.entry & ~0xFFF_F000 for step in walk(memory, context, at).steps)
        for at in va.tolist()
    }
    expected = {(1, 1, 0)} | {(1, 1, 1, int(word)) for word in variants[-1].word}
    assert seen == expected


def test_control_states_are_the_product_of_their_bits():
    contexts = list(SMALL.contexts())
    assert len(contexts) == len(set(contexts)) == 8
    assert {0, 1 << 2 * KEY} == {context.pkru for context in contexts}
    assert {(context.wp, context.pke) for context in contexts} == {
        (wp, pke) for wp in (False, True) for pke in (False, True)
    }


def test_accesses_are_the_product_of_type_privilege_and_ac():
    accesses = SMALL.accesses_to(np.array([0x1000], np.uint64))
    rows = {(accesses[row].type, accesses[row].cpl, accesses[row].ac) for row in range(12)}
    assert len(accesses) == len(rows) == 12


@pytest.mark.parametrize(
    ("text", "paths", "states", "accesses"),
    [
        ("", 13, 8, 12),
        ("pde.p=1", 12, 8, 12),
        ("pde.p=0", 1, 8, 12),
        ("pte.rw=1,pte.us=0", 4, 8, 12),
        ("pte.bit51=1", 5, 8, 12),
        ("cr0.wp=0,cr0.wp=1", 13, 8, 12),
        ("cr0.wp=0,pkru.ad=1", 13, 2, 12),
        ("access=write,cpl=3,rflags.ac=0", 13, 8, 1),
    ],
)
def test_a_choice_narrows_by_name(text, paths, states, accesses):
    choice = parse_choice(text)
    _, _, va = laid_out(SMALL, choice)
    assert len(va) == paths
    assert len(list(SMALL.contexts(choice))) == states
    assert len(SMALL.accesses_to(va[:1], choice)) == accesses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pte.nx", "not NAME=VALUE"),
        ("pte.foo=1", "no 'pte.foo'"),
        ("pte.nx=2", "one of 0, 1"),
        ("maxphyaddr=48", "one of 36, 39, 40"),
        ("then.cpl=1", "one of 0, 3"),
        ("access=fetch", "one of cross, cross:execute"),
        ("section=x", "one of"),
        ("mode=long", "one of 32bit, 4level, 5level, pae"),
    ],
)
def test_what_there_is_not_can_not_be_chosen(text, message):
    with pytest.raises(BadInput, match=message):
        parse_choice(text)


@pytest.mark.parametrize(
    "section", [*SECTIONS, *BOUNDARY_SECTIONS, *FEATURE_SECTIONS], ids=lambda section: section.name
)
def test_a_section_fits_its_tables_and_says_what_it_leaves_out(section):
    variants = section.variants()
    assert all(0 < len(each.word) <= MAX_VARIANTS for each in variants)
    assert all(len(set(each.word.tolist())) == len(each.word) for each in variants)
    assert section.covers
    assert section.pruned
    assert section.mode is next(iter(section.contexts())).mode


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_entry_of_a_section_is_looked_at(section):
    variants, memory, va = laid_out(section, {})
    context = next(iter(section.contexts()))
    kinds = translate_many(memory, context, section.accesses_to(va[:2000])).kind
    assert (kinds != Kind.GENERAL_PROTECTION).all()
    seen = {each.level: set() for each in variants}
    stop = {StepKind.RESERVED, StepKind.NOT_PRESENT}
    chance = np.random.default_rng(0)
    for at in chance.choice(va, min(len(va), 4000), replace=False).tolist():
        steps = walk(memory, context, at).steps
        for step in steps:
            seen[step.level].add(step.pa & 0xFFF)
        assert steps[-1].kind in stop or steps[-1].kind is StepKind.LEAF
    (root, *_) = variants
    # The PDPTs of PAE paging are tried one after the other.
    shown = 1 if section.mode is PagingMode.PAE else len(root.word)
    assert shown <= len(seen[root.level]) <= max(shown, 2)


def test_what_a_bit_is_called_is_what_it_is():
    assert 2 == ENTRY_BITS["rw"]
    assert 1 << 63 == ENTRY_BITS["nx"]
    assert 15 << 59 == ENTRY_BITS["key15"]
    assert KEY << 59 == ENTRY_BITS["pk"]
    assert {1, 2, 3, 4, 5} == set(LEVEL_NAMES)


def limit(name):
    (section,) = [each for each in BOUNDARY_SECTIONS if each.name == name]
    return section


@pytest.mark.parametrize(("levels", "first"), [(4, 47), (5, 56)])
def test_every_bit_that_makes_an_address_none_is_flipped(levels, first):
    section = limit(f"canonical-{levels}level")
    _, memory, va = laid_out(section, {})
    context = next(iter(section.contexts()))
    good = [at for at in va.tolist() if context.canonical(at)]
    assert len(va) == len(set(va.tolist())) == len(good) * (65 - first)
    assert set(va.tolist()) == {at ^ 1 << bit for at in good for bit in range(first, 64)} | set(
        good
    )
    kinds = translate_many(memory, context, section.accesses_to(va)).kind
    assert (kinds == Kind.GENERAL_PROTECTION).mean() == pytest.approx(1 - 1 / (65 - first))


def test_entries_with_the_highest_address_bit_lead_to_ram():
    section = limit("highest-4k")
    assert HIGH_RAM == section.ram
    _, memory, va = laid_out(section, {})
    context = next(iter(section.contexts({"efer.nx": frozenset("1")})))
    pas = translate_many(memory, context, section.accesses_to(va)).pa
    assert ((pas >> np.uint64(39)) == 1).any()
    kinds = {walk(memory, context, at).steps[-1].kind for at in va.tolist()}
    assert {StepKind.LEAF, StepKind.RESERVED} == kinds


def test_processors_are_crossed_with_control_states_and_can_be_chosen():
    section = limit("vendor")
    assert 2 * 4 == len(list(section.contexts()))
    chosen = list(section.contexts(parse_choice("vendor=amd,page1gb=0")))
    assert 2 == len(chosen)
    assert {("amd", False)} == {(each.vendor.value, each.page1gb) for each in chosen}
    assert [] == list(SMALL.contexts(parse_choice("vendor=amd")))
    assert 8 == len(list(SMALL.contexts(parse_choice("maxphyaddr=40"))))


def test_two_paths_to_one_table_have_different_rights():
    # Tables are shared by all paths: the same PTE, by way of other PDEs.
    variants, memory, va = laid_out(SECTIONS[0], {})
    context = next(iter(SECTIONS[0].contexts()))
    leaves = {}
    for at in va[:: len(va) // 2000].tolist():
        path = walk(memory, context, at)
        leaves.setdefault(path.steps[-1].pa, set()).add(path.grant)
    assert 4 == len(variants)
    assert any(len(grants) > 1 for grants in leaves.values())
