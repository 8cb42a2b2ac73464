"""How plain cases of walkers under test become, of lists above all, in every paging mode."""

from dataclasses import replace

import pytest

from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.generate.shares import Share
from crosswalk.emu.fuzz.reduce.interesting import reduced_to, signatures_of
from crosswalk.walker.context import PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.memory import FRAME
from tests.emu.check.planted_bugs import ADDRESSES, MARKS, RESERVED, RIGHTS
from tests.emu.wrong_walkers import LISTS, TRANSLATIONS

PLAIN = 7
TRIES = 80

SIZES = {
    ("no bit is reserved", "leaves"): (4, 1),
    ("PS of a PDPTE ignored", "leaves"): (2, 1),
    ("supervisor pages left out", "leaves"): (4, 1),
    ("pages above 64 GiB wrap around", "leaves"): (4, 1),
    ("last entry of a table left out", "leaves"): (4, 1),
    ("upper half left out", "leaves"): (4, 1),
    ("XD missing from the flags", "leaves,flags"): (4, 1),
    ("effective rights of the leaf alone", "leaves,effective"): (4, 2),
    ("pages above 64 GiB wrap around", "translation"): (4, 1),
}
"""Walkers, and the most entries and flags that aren't plain which may be left of a finding."""


QUICK = {
    "no bit is reserved",
    "pages above 64 GiB wrap around",
    "XD missing from the flags",
    "effective rights of the leaf alone",
}


def flags_of(case):
    return sum(((word ^ PLAIN) & ~ADDRESS_FIELD).bit_count() for word in case.entries.values())


def first_finding(executor, layouts, witness):
    for layout in layouts:
        for found in executor.findings(layout).all():
            if found.signature.witness == witness:
                return found
    raise AssertionError("no layout shows it")


def assert_plain(case):
    """Tables lie in a row from 0x1000 up; RAM ends with them; the rest of each address is one bit.

    Pages lie behind the tables, where their addresses don't matter.
    """
    tables = sorted({pa // FRAME * FRAME for pa in case.entries} | {case.context().root})
    assert [FRAME * (at + 1) for at in range(len(tables))] == tables
    assert ((0, tables[-1] + FRAME),) == case.ram
    behind = {tables[-1] + FRAME, 1 << 21, 1 << 22, 1 << 30}
    size = 32 if case.context().mode is PagingMode.BIT32 else 64
    every = [
        word >> at & (1 << size) - 1 for word in case.entries.values() for at in range(0, 64, size)
    ]
    for entry in every:
        field = entry & ADDRESS_FIELD
        assert field in {*tables, *behind} or field.bit_count() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(
            wrong,
            id=f"{wrong.name}, {wrong.claims}",
            marks=[] if wrong.name in QUICK else [pytest.mark.slow],
        )
        for wrong in (*LISTS, *TRANSLATIONS)
        if (wrong.name, wrong.claims) in SIZES
    ],
)
def test_a_wrong_answer_is_left_with_its_entries_at_low_addresses(wrong):
    entries, flags = SIZES[wrong.name, wrong.claims]
    executor = Executor(target=wrong.target())
    layouts = (generate(5, index, accesses=256) for index in range(12))
    found = first_finding(executor, layouts, f"peer:{wrong.name}")
    reduced = reduced_to(executor, found.whole, found.signature)
    case = reduced.case
    assert reduced.done
    assert reduced.tries <= TRIES
    assert (1, 0) == (len(case.probes), case.probes[0].va % FRAME)
    assert len(case.entries) <= entries
    assert flags_of(case) <= flags
    assert_plain(case)
    assert found.signature in signatures_of(executor, case)
    assert case == reduced_to(executor, case, found.signature).case
    assert_needed(executor, case, found.signature)


def assert_needed(executor, case, signature):
    """Without any one of its entries, or of their flags that aren't plain, it isn't shown."""
    for pa, word in case.entries.items():
        without = {at: kept for at, kept in case.entries.items() if at != pa}
        words = [without]
        odd = (word ^ PLAIN) & ~ADDRESS_FIELD
        words += [{**without, pa: word ^ 1 << bit} for bit in range(64) if odd >> bit & 1]
        for entries in words:
            left = shown(executor, replace(case, entries=entries))
            assert (signature, case.probes[0].va) not in left


def shown(executor, case):
    """What a case shows, and at which address."""
    return {
        (found.signature, found.case.probes[0].va)
        for found in executor.findings(case_layout(case)).all()
    }


@pytest.mark.parametrize("mode", [PagingMode.BIT32, PagingMode.PAE], ids=lambda mode: mode.slug)
@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("R/W of a PTE ignored", 3),
        ("addresses of 32 bits", 3),
        pytest.param("low address bits of a large page not reserved", 2, marks=pytest.mark.slow),
        pytest.param("D not set", 2, marks=pytest.mark.slow),
    ],
)
def test_cases_of_other_modes_become_as_plain(mode, name, entries):
    (bug,) = [bug for bug in (*RIGHTS, *RESERVED, *ADDRESSES, *MARKS) if bug.name == name]
    executor = Executor(predict=bug.predict)
    layouts = (generate(5, index, accesses=2048, share=Share(mode)) for index in range(30))
    found = first_finding(executor, layouts, "walker")
    reduced = reduced_to(executor, found.whole, found.signature)
    case = reduced.case
    assert (True, mode) == (reduced.done, case.context().mode)
    assert len(case.entries) <= entries
    assert case.probes[0].va < 1 << 12 or case.probes[0].va in (1 << 12, 1 << 21, 1 << 22)
    assert_plain(case)
    assert case == reduced_to(executor, case, found.signature).case


def test_a_table_of_equal_entries_keeps_all_of_them_and_no_more():
    (wrong,) = [wrong for wrong in TRANSLATIONS if wrong.name.startswith("tables of equal")]
    executor = Executor(target=wrong.target())
    noise = 0x1F << 52 | 1 << 5
    entries = {
        0x7008: 0x3000 | noise | PLAIN,
        0x3010: 0x9000 | PLAIN,
        0x9018: 0x5000 | PLAIN | 0x20,
    }
    equal = {0x5000 + 8 * index: 0x123_4000 | noise | PLAIN for index in range(512)}
    va = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x18
    case = Case(
        cpu=Cpu(cr3=0x7018, cr4=0x20 | 1 << 20),
        ram=((0, 1 << 24),),
        entries=entries | equal,
        probes=(Probe(va=va, access="read", cpl=3),),
    )
    (signature,) = signatures_of(executor, case)
    reduced = reduced_to(executor, case, signature)
    left = reduced.case
    assert reduced.done
    assert reduced.tries <= 2 * TRIES
    assert {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007} == {
        pa: word for pa, word in left.entries.items() if pa < 0x4000
    }
    assert {0x4000 + 8 * index: 0x5007 for index in range(512)} == {
        pa: word for pa, word in left.entries.items() if pa >= 0x4000
    }
    assert (0, 0, "read") == (left.probes[0].va, left.probes[0].cpl, left.probes[0].access)


@pytest.mark.parametrize(("levels", "va"), [(4, 1 << 47), (5, 1 << 56)])
def test_an_address_that_is_not_canonical_has_one_bit(levels, va):
    (bug,) = [bug for bug in ADDRESSES if bug.name == "canonical not checked"]
    executor = Executor(predict=bug.predict)
    case = Case(
        cpu=Cpu(cr3=0xABC_D018, cr4=0x20 | (1 << 12 if levels == 5 else 0)),
        ram=((0xABC_D000, 1 << 20),),
        probes=(Probe(va=va | 0x1234_5678, access="write", cpl=3),),
    )
    (signature,) = signatures_of(executor, case)
    left = reduced_to(executor, case, signature).case
    assert 1 == left.probes[0].va.bit_count()
    assert not left.context().canonical(left.probes[0].va)
    assert ({}, 0x1000, ((0, 0x2000),)) == (left.entries, left.cpu.cr3, left.ram)
    assert (0x20, "read", 0) == (left.cpu.cr4, left.probes[0].access, left.probes[0].cpl)
