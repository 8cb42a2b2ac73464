"""What a case shows of its finding: composites, refused accesses, cases that aren't small."""

from dataclasses import replace

import msgspec
import pytest

from crosswalk.emu.check import Divergence
from crosswalk.emu.findings.describe import (
    described_case,
    described_composite,
    described_divergence,
)
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.report.composites import composite_accesses, composite_case
from crosswalk.emu.report.finding import answer_rows, entry_lines
from crosswalk.walker import Access, PageFault, Translation
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.translate import walk_access
from tests.emu.composites import composite
from tests.tables import EXECUTE, KIB4, OPEN, READ, US, WRITE, XD, P, PageTables, context

VA = 0x40_0000
RAM = ((0, 1 << 26),)
MAPPED = Signature("peer:it", "a 4-KiB page that is there", "not mapped", "mapped")


def case_of(tables, probe, **switches):
    cpu = Cpu.from_context(context(**switches))
    return Case(cpu=cpu, ram=RAM, entries=tables.words, probes=(probe,))


def blamed(finding):
    return {entry.name: entry.blame for entry in finding.walk if entry.blame is not msgspec.UNSET}


def crossing(first=OPEN, second=OPEN):
    tables = PageTables(ram=RAM).map(VA, 0x8000, first).map(VA + KIB4, 0x9000, second)
    at = composite("cross:write", VA + 0xFFC, cpl=3)
    return composite_case(context(), RAM, tables.words, at)


def test_the_accesses_of_a_composite():
    assert [Access(VA + 0xFFC, WRITE, 3, False), Access(VA + KIB4, WRITE, 3, False)] == (
        composite_accesses(crossing())
    )
    twice = composite("twice:read+execute", VA, 3, then=(0, True))
    case = composite_case(context(), RAM, {}, twice)
    assert [Access(VA, READ, 3, False), Access(VA, EXECUTE, 0, True)] == composite_accesses(case)
    implicit = composite_case(context(), RAM, {}, composite("implicit:write", VA, 3))
    assert [Access(VA, READ, 0, False), Access(VA, WRITE, 0, False)] == composite_accesses(implicit)
    rmw = composite_case(context(), RAM, {}, composite("rmw:xadd", VA, 3))
    assert [Access(VA, WRITE, 3, False)] == composite_accesses(rmw)


def test_to_blame_for_a_composite_is_what_refuses_one_of_its_accesses():
    signature = Signature("walker", "cross:write", "ok and ok", "#PF P W/R U/S")
    good = described_composite(signature, crossing())
    assert {} == blamed(good)
    assert ["PML4E[0]", "PDPTE[0]", "PDE[2]", "PTE[0]", "PTE[1]"] == [
        entry.name for entry in good.walk
    ]
    second = described_composite(signature, crossing(second=P | US))
    assert {"PTE[1]": "R/W clear"} == blamed(second)
    both = described_composite(signature, crossing(first=P | US, second=0))
    assert {"PTE[0]": "R/W clear", "PTE[1]": "P clear"} == blamed(both)
    assert ("ok and ok", "#PF P W/R U/S") == (second.answer, second.observed)
    assert "cross:write at 0x400ffc, CPL 3" == second.access


def test_a_page_that_an_access_may_not_reach_is_told_as_mapped_all_the_same():
    tables = PageTables(ram=RAM).map(VA, 0x8000, OPEN | XD)
    probe = Probe(va=VA + 5, access="execute", predicted=PageFault(0, 0))
    found = described_case(MAPPED, case_of(tables, probe))
    fault = "#PF, error code 0x11 (P I/D), CR2 0x400005"
    assert f"mapped, pa 0x8005; but this access: {fault}" == found.predicted
    reached = described_case(MAPPED, case_of(tables, replace(probe, access="read")))
    assert "ok, pa 0x8005" == reached.predicted


@pytest.mark.parametrize(
    ("said", "seen", "rule"),
    [
        (PageFault(1, VA + 5), Translation(0x8005), "read of a 4-KiB page that withholds nothing"),
        (Translation(0x9005), Translation(0x8005), "address of a 4-KiB page"),
        (PageFault(4, VA + 5), PageFault(0, VA + 5), "U/S in the error code of a read"),
        (PageFault(4, VA), PageFault(4, VA + 5), "CR2 of a fault at a PTE"),
        (
            Translation(0x8005, entries=((0x1000, 0x2027),)),
            Translation(0x8005),
            "A of a table's entry",
        ),
    ],
    ids=["kind", "address", "code", "CR2", "marks"],
)
def test_a_divergence_is_named_by_what_differs(said, seen, rule):
    memory, asked = PageTables(ram=RAM).map(VA, 0x8000).memory, context()
    access = Access(VA + 5, READ)
    divergence = Divergence(access, said, seen, walk_access(memory, asked, access))
    signature, found = described_divergence(memory, asked, divergence)
    assert (rule, "walker") == (signature.rule, signature.witness)
    assert ["predicted", "observed"] == [who for who, _ in answer_rows(found)]
    assert found.observed != found.answer


def test_the_error_code_of_a_fetch_is_that_of_an_execute():
    memory, asked = PageTables(ram=RAM).map(VA, 0x8000).memory, context()
    access = Access(VA, EXECUTE)
    said, seen = PageFault(0x14, VA), PageFault(0x10, VA)
    divergence = Divergence(access, said, seen, walk_access(memory, asked, access))
    signature, _ = described_divergence(memory, asked, divergence)
    assert "U/S in the error code of an execute" == signature.rule


def test_of_a_case_that_is_not_small_few_entries_are_shown():
    tables = PageTables(ram=RAM)
    for page in range(40):
        tables.map(VA + page * KIB4, 0x8000 + page * KIB4)
    probe = Probe(va=VA, access="read", predicted=Translation(0x9000))
    found = described_case(MAPPED, case_of(tables, probe))
    assert (4, 4, 35) == (len(found.walk), len(found.beside), found.more)
    lines = list(entry_lines(found))
    assert [
        "not on this walk:",
        "PTE[1]       at 0x00000004008 = 0x0000000000009007  leaf  RW US  for 0x401000 and up",
    ] == lines[4:6]
    assert "… and 35 more" == lines[-2]


def test_of_an_address_that_is_not_canonical_the_entries_that_it_selects_come_first():
    tables = PageTables(ram=RAM)
    for page in range(40):
        tables.map(VA + page * KIB4, 0x8000 + page * KIB4)
    wrong = Signature("peer:it", "canonical addresses", "mapped", "not mapped")
    probe = Probe(va=1 << 60 | VA + 39 * KIB4, access="read", predicted=Translation(0x2F000))
    found = described_case(wrong, case_of(tables, probe))
    names = ["PML4E[0]", "PDPTE[0]", "PDE[2]", "PTE[39]", "PTE[0]", "PTE[1]", "PTE[2]", "PTE[3]"]
    assert names == [entry.name for entry in found.beside]
    assert ([], 35) == (found.walk, found.more)
    assert "not canonical: linear addresses have 48 bits" == found.remark


def test_a_case_of_several_accesses_has_no_walk_but_its_entries():
    tables = PageTables(ram=RAM).map(VA, 0x8000)
    case = case_of(tables, Probe(va=VA, access="read"))
    due = Signature("peer:it", "an answer within the limits", "hang, no answer", "due")
    found = described_case(due, replace(case, probes=case.probes * 2))
    assert (None, [], 4) == (found.access, found.walk, len(found.beside))
    assert "hang, no answer" == found.answer
