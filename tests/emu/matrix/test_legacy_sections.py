"""The sections of 32-bit and PAE paging: what they try is what their names say."""

import numpy as np
import pytest

from crosswalk.emu.matrix.sections import LEGACY_SECTIONS
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.walker import (
    Access,
    AccessType,
    PagingMode,
    bulk,
    translate,
)
from crosswalk.walker.translate import StepKind, walk
from tests.emu.check.planted_bugs import GUEST
from tests.emu.matrix.running import all_of, laid_out

BY_NAME = {section.name: section for section in LEGACY_SECTIONS}


def named(name):
    section = BY_NAME[name]
    return section, *laid_out(section, {})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mode=pae", {*(name for name in BY_NAME if name.startswith("pae-")), "pae-pdpte-amd"}),
        ("mode=32bit", {name for name in BY_NAME if name.startswith("32bit-")}),
        ("mode=pae,mode=32bit", {*BY_NAME, "pae-pdpte-amd"}),
        ("mode=pae,section=32bit-keys", set()),
        (
            "mode=5level",
            {
                "rights-5level",
                "reserved-5level",
                "junk-pml5e",
                "vendor",
                "canonical-5level",
                "lam-5level",
                "uai-5level",
                "lass-5level",
                "pks-5level",
                "cross-ends-5level",
            },
        ),
        ("mode=pae,access=rmw", set()),
    ],
)
def test_a_mode_is_chosen_by_name(text, names):
    assert names == {unit.section for unit in chosen_units(parse_choice(text))}


def test_pse_leaves_the_sections_that_have_it_set():
    chosen = {unit.section for unit in chosen_units(parse_choice("cr4.pse=1"))}
    assert {"32bit-rights", "32bit-large", "pae-large"} <= chosen
    assert chosen <= set(BY_NAME)
    assert "32bit-pse-off" not in chosen


@pytest.mark.parametrize("section", LEGACY_SECTIONS, ids=lambda section: section.name)
def test_every_control_state_is_of_the_mode_of_its_section(section):
    contexts = list(section.contexts())
    assert len(set(contexts)) == len(contexts)
    assert {section.mode} == {context.mode for context in contexts}
    wanted = PagingMode.PAE if section.name.startswith("pae") else PagingMode.BIT32
    assert wanted is section.mode
    if section.name == "32bit-pse-off":
        assert not any(context.pse for context in contexts)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("32bit-rights", {StepKind.LEAF}),
        ("32bit-large", {StepKind.LEAF}),
        ("32bit-pse-off", {StepKind.LEAF}),
        ("32bit-junk-pde", {StepKind.LEAF, StepKind.NOT_PRESENT}),
        ("pae-rights", {StepKind.LEAF}),
        ("pae-reserved-2m", {StepKind.LEAF, StepKind.RESERVED}),
        ("pae-junk-pte", {StepKind.LEAF, StepKind.NOT_PRESENT, StepKind.RESERVED}),
    ],
)
def test_paths_end_where_the_section_says(name, kinds):
    section, _, memory, va = named(name)
    (context, *_) = section.contexts(parse_choice("efer.nx=1") if "pae" in name else {})
    assert kinds == {walk(memory, context, at).steps[-1].kind for at in va.tolist()}


def test_each_pdpte_is_tried_in_a_table_of_its_own_beside_a_good_one():
    section, variants, memory, va = named("pae-pdpte")
    assert [0, 1 << 30] == va.tolist()
    tried = []
    for context in section.contexts(parse_choice("efer.nx=0,cr4.smep=0")):
        entry, good, *rest = (memory.word(context.root + 8 * at) for at in range(4))
        tried.append(entry & ~0xF_F000 & 0x8FFF_FFFF_FFFF_FFFF | entry & (7 << 60))
        assert (0x2001, [0, 0]) == (good, rest)
        assert 0x2000 == entry & 0xF000
    assert len(variants[0].word) == len(set(tried)) == len(tried)


def test_pse_36_is_part_of_the_matrix():
    section, _, memory, va = named("32bit-reserved")
    (context, *_) = section.contexts(parse_choice("cr4.pse=1"))
    found = {
        getattr(translate(memory, context, Access(at, AccessType.READ)), "pa", 0) >> 32
        for at in va.tolist()
    }
    assert {0, *(1 << bit for bit in range(8))} == found


def test_walker_and_cpu_agree_on_a_few_sections():
    summary = all_of("section=32bit-reserved,section=pae-pdpte,section=32bit-keys,cr4.smep=1")
    assert 0 == summary.divergent
    assert ["pae-pdpte-read-when-used"] == list(summary.known)
    assert all(summary.outcomes["32bit-reserved"][:2])


@pytest.mark.parametrize(
    ("rule", "plant", "text"),
    [
        ("addresses_4mib", lambda real: lambda e: e & np.uint64(0xFFC0_0000), "32bit-reserved"),
        ("maps_large", lambda real: lambda *_: False, "32bit-large"),
        ("invalid_pdpte", lambda real: lambda *_: None, "pae-pdpte"),
        (
            "reserved_bits",
            lambda real: lambda context, level, leaf: real(context, level, leaf=leaf) & ~(1 << 62),
            "pae-reserved-2m",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rule_of_these_modes_that_is_broken_is_found(rule, plant, text, monkeypatch):
    monkeypatch.setattr(bulk, rule, plant(getattr(bulk, rule)))
    assert all_of(f"section={text},cr4.smep=1,access=read").divergent > 0


@pytest.mark.parametrize("name", ["WP ignored", "D not set", "SMAP ignored"])
@pytest.mark.parametrize("section", ["32bit-rights", "pae-rights"])
def test_a_planted_bug_is_found_and_grouped(name, section):
    (bug,) = [bug for bug in GUEST if bug.name == name]
    summary = all_of(f"section={section},efer.nx=0,cr4.smep=0,access=write", bug.predict)
    assert summary.divergent > 0
    assert 1 <= len(summary.groups) <= 8
