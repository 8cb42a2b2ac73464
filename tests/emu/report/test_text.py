from dataclasses import replace

import pytest

from crosswalk.emu.report import text
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import Vendor
from crosswalk.walker.mappings import mappings
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import walk
from tests.tables import MIB2, OPEN, PAT_LARGE, PS, RW, USED, XD, A, D, G, P, PageTables, context

VA = 0x40_0000


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (4095, "4,095 B"),
        (4096, "4 KiB"),
        (MIB2, "2 MiB"),
        (MIB2 + 4096, "2,052 KiB"),
        (1 << 30, "1 GiB"),
        (1 << 50, "1,048,576 GiB"),
    ],
)
def test_a_size_has_the_largest_unit_that_divides_it(size, expected):
    assert expected == text.size_text(size)


@pytest.mark.parametrize(
    ("level", "entry", "expected"),
    [
        (1, P, ""),
        (1, OPEN | A | D | G, "RW US A D G"),
        (1, P | PS, "PAT"),
        (2, P | PS, "PS"),
        (2, P | PS | PAT_LARGE, "PS PAT"),
        (2, P | PAT_LARGE, ""),
        (4, USED | XD, "RW US A XD"),
        (1, P | 3 << 3 | 15 << 59, "PWT PCD PK=15"),
    ],
)
def test_flags_have_the_manuals_names(level, entry, expected):
    assert expected == text.flags_text(level, entry)


def test_a_mapping_and_a_frame_are_a_line_each():
    memory = PageTables().map(VA, 0x8000, P | RW | XD).memory
    (page,) = mappings(memory, context())
    assert "0000000000400000 0000000008000   4 KiB rw- ---  RW XD" == text.mapping_text(page)
    rights = Rights.SUPERVISOR_READ | Rights.USER_EXECUTE
    assert "0000000008000-0000000008fff        4 KiB r-- --x" == text.frame_text(
        0x8000, 4096, rights
    )


@pytest.mark.parametrize(
    ("outcome", "may", "expected"),
    [
        (Translation(0x8123), False, "ok, pa 0x8123"),
        (
            Translation(0x8123, entries=((0x1000, 0x2027),)),
            False,
            "ok, pa 0x8123; changes 0x1000 = 0x2027",
        ),
        (PageFault(0x17, 5), False, "#PF, error code 0x17 (P W/R U/S I/D), CR2 0x5"),
        (
            PageFault(0x0, 5, ((0x1000, 0x2027),)),
            True,
            "#PF, error code 0x0 (none), CR2 0x5; may change 0x1000 = 0x2027",
        ),
        (GeneralProtection(), False, "#GP(0)"),
    ],
)
def test_outcomes_in_words(outcome, may, expected):
    assert expected == text.outcome_text(outcome, may=may)


def test_an_address_that_was_not_shown_is_not_printed():
    found = text.outcome_text(Translation(0x5000, entries=((0x1000, 0x21),)), placed=False)
    assert "ok, at an address that can't be shown; changes 0x1000 = 0x21" == found
    assert "#GP(0)" == text.outcome_text(GeneralProtection(), placed=False)


def test_accesses_in_words():
    assert "write of 0x400000 at CPL 3" == text.access_text(Access(VA, AccessType.WRITE, 3, False))
    assert "read of 0x0 at CPL 0, AC set" == text.access_text(Access(0, AccessType.READ, 0, True))


def test_a_walk_has_a_line_for_each_entry_and_ends_where_it_ends():
    builder = PageTables().map(VA, 0x8000)
    lines = list(text.walk_lines(context(), walk(builder.memory, context(), VA)))
    assert ["PML4E[0]", "PDPTE[0]", "PDE[2]", "PTE[0]"] == [line.split()[0] for line in lines]
    assert "  PTE[0]       at 0x00000004000 = 0x0000000000008007  leaf  RW US" == lines[-1]
    lines = list(text.walk_lines(context(), walk(builder.memory, context(), 1 << 39)))
    assert ["  PML4E[1]     at 0x00000001008 = 0x0000000000000000  not present"] == lines
    lines = list(text.walk_lines(context(), walk(builder.memory, context(), 1 << 60)))
    assert ["  not canonical: linear addresses have 48 bits"] == lines


def test_a_context_is_a_line():
    bare = text.context_text(context(wp=False, nxe=False))
    assert "4-level paging, CR3 0x1000, no protections, MAXPHYADDR 40" == bare
    full = text.context_text(context(5, smep=True, smap=True, pke=True, pkru=4))
    assert "5-level paging, CR3 0x1000, WP NXE SMEP SMAP PKE, MAXPHYADDR 40, PKRU 0x4" == full
    other = text.context_text(replace(context(), page1gb=False, vendor=Vendor.AMD))
    assert "4-level paging, CR3 0x1000, WP NXE, MAXPHYADDR 40, no 1-GiB pages, AMD" == other
