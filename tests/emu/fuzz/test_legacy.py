"""Layouts of 32-bit and PAE paging before all witnesses, and what a finding of theirs is about."""

import numpy as np
import pytest

from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce import reduce_case
from crosswalk.emu.fuzz.reduce.interesting import reduced_to, signatures_of
from crosswalk.emu.fuzz.reduce.reducer import one_by_one
from crosswalk.emu.report.records import structures_case
from crosswalk.walker import bulk, translate_many
from crosswalk.walker.formats import Case, Cpu, Probe
from tests.emu.seeded_tables import seeded_tables
from tests.tables import OPEN, PS, RW, US, P, PageTables, context

MODES = pytest.mark.parametrize("mode", ["32-bit", "PAE"])
VA = 0xC000_1000


def case(tables, access="read", cpl=0, va=VA, **switches):
    return Case(
        cpu=Cpu.from_context(context(tables.mode, **switches)),
        ram=tables.ram,
        entries=tables.words,
        probes=(Probe(va=va, access=access, cpl=cpl, ac=False),),
    )


@MODES
def test_a_layout_is_tried_and_covers_nothing_of_long_modes_map(mode):
    memory, context, _ = seeded_tables(2, 0, mode, plain=True)
    probes = tuple(Probe(va=va << 22, access="write", cpl=3, ac=False) for va in range(40))
    whole = structures_case(memory, context)
    asked = Case(cpu=whole.cpu, ram=whole.ram, entries=whole.entries, probes=probes)
    tried = Executor().run(lambda: case_layout(asked))
    assert (40, 0, ()) == (tried.probes, tried.divergent, tried.findings)
    assert not tried.coverage.any()


def grants(level_bit):
    real = bulk.grants_of
    return lambda entries: real(entries) | np.uint8(level_bit)


@pytest.mark.parametrize(
    ("mode", "build", "access", "cpl", "rule"),
    [
        ("32-bit", lambda t: t.map(VA, 0x8000).change(VA, 1, drop=RW), "write", 3, "R/W of a PTE"),
        ("32-bit", lambda t: t.map(VA, 0x8000).change(VA, 2, drop=RW), "write", 0, "R/W of a PDE"),
        ("PAE", lambda t: t.map(VA, 0x8000).change(VA, 2, drop=RW), "write", 3, "R/W of a PDE"),
        (
            "PAE",
            lambda t: t.map(VA, 0x8000).change(VA, 2, drop=RW).change(VA, 1, drop=RW),
            "write",
            0,
            "R/W of several levels, the leaf among them",
        ),
    ],
)
def test_a_finding_names_the_level_that_withholds(mode, build, access, cpl, rule, monkeypatch):
    monkeypatch.setattr(bulk, "grants_of", grants(1))
    built = case(build(PageTables(mode)), access, cpl)
    (signature,) = signatures_of(Executor(translate_many), built)
    assert rule == signature.rule


@pytest.mark.parametrize(
    ("plant", "build", "access", "rule"),
    [
        (
            ("addresses_4mib", lambda entries: entries & np.uint64(0xFFC0_0000)),
            lambda t: t.map(VA, 1 << 13, OPEN | PS, level=2),
            "read",
            "address of a 4-MiB page",
        ),
        (
            ("reserved_bits", lambda *_, **__: 0),
            lambda t: t.map(VA, 1 << 21, OPEN | PS, level=2),
            "read",
            "reserved in a PDE: low address bits",
        ),
    ],
)
def test_a_finding_about_a_4_mib_page_says_so(plant, build, access, rule, monkeypatch):
    monkeypatch.setattr(bulk, *plant)
    found = signatures_of(Executor(), case(build(PageTables("32-bit")), access))
    assert [rule] == [signature.rule for signature in found]


def test_a_finding_about_bits_52_to_62_in_pae_says_so(monkeypatch):
    monkeypatch.setattr(bulk, "reserved_bits", lambda *_, **__: 0)
    for level, entry in ((1, "PTE"), (2, "PDE")):
        tables = PageTables("PAE").map(VA, 0x8000).change(VA, level, add=1 << 58)
        (signature,) = signatures_of(Executor(), case(tables))
        assert f"reserved in a {entry}: bits 62:52" == signature.rule


@pytest.mark.parametrize("va", [VA, VA ^ 0x1000])
def test_a_finding_about_d_names_it_in_either_half_of_a_word(va, monkeypatch):
    real = bulk.merge_changes
    dirty = np.uint64(0x40 | 0x40 << 32)
    monkeypatch.setattr(bulk, "merge_changes", lambda pa, old, new: real(pa, old, new & ~dirty))
    tables = PageTables("32-bit").map(va, 0x8000)
    (signature,) = signatures_of(Executor(), case(tables, "write", va=va))
    assert "D of a leaf" == signature.rule


def test_a_pdpt_that_can_not_be_loaded_is_a_rule_of_its_own(monkeypatch):
    tables = PageTables("PAE").map(VA, 0x8000).change(VA, 3, add=US)
    assert [] == signatures_of(Executor(), case(tables))
    monkeypatch.setattr(bulk, "invalid_pdpte", lambda *_: None)
    (signature,) = signatures_of(Executor(), case(tables))
    assert "reserved in a PDPTE" in signature.rule


@MODES
def test_a_case_is_reduced_while_it_shows_the_same(mode, monkeypatch):
    monkeypatch.setattr(bulk, "grants_of", grants(1))
    tables = PageTables(mode)
    for number in range(12):
        tables.map(VA + (number << 12), 0x8000 + (number << 12), P | US)
    whole = case(tables, "write", 3, smap=True, pke=True)
    executor = Executor()
    (signature,) = signatures_of(executor, whole)
    reduced = reduced_to(executor, whole, signature)
    assert reduced.done
    assert [signature] == signatures_of(executor, reduced.case)
    assert len(reduced.case.entries) == (2 if mode == "32-bit" else 3)
    assert context(mode).mode is reduced.case.context().mode
    again = reduce_case(
        reduced.case, one_by_one(lambda each: [signature] == signatures_of(executor, each))
    )
    assert reduced.case == again.case
