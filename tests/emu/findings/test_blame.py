"""The entries that are to blame, worked out by hand."""

import pytest

from crosswalk.emu.findings.blame import beside, blamed
from crosswalk.walker import Access, SparseWords, Vendor
from crosswalk.walker.translate import walk_access
from tests.tables import (
    EXECUTE,
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    READ,
    RW,
    US,
    WRITE,
    XD,
    G,
    P,
    PageTables,
    context,
)

VA = 0x40_0000
PML4E, PDPTE, PDE, PTE = 0x1000, 0x2000, 0x3010, 0x4000


def of(tables, rule, access=READ, cpl=0, va=VA, **switches):
    asked = context(tables.mode, **switches)
    one = Access(va, access, cpl)
    return blamed(asked, rule, one, walk_access(tables.memory, asked, one))


def pages(flags=OPEN, **others):
    return PageTables().map(VA, 0x8000, flags, **others)


CASES = [
    (pages(P | US), "R/W of a PTE", {"access": WRITE}, {PTE: "R/W clear"}),
    (
        pages(P | US).change(VA, 3, drop=RW),
        "R/W of several levels, the leaf among them",
        {"access": WRITE},
        {PTE: "R/W clear", PDPTE: "R/W clear"},
    ),
    (
        pages(P).change(VA, 4, drop=US),
        "R/W, U/S at once",
        {"access": WRITE, "cpl": 3},
        {PTE: "R/W clear, U/S clear", PML4E: "U/S clear"},
    ),
    (pages(OPEN | XD), "XD of a PTE", {"access": EXECUTE}, {PTE: "XD set"}),
    (
        pages(),
        "SMEP",
        {"access": EXECUTE, "smep": True},
        {PTE: "U/S set at every level: SMEP bars the supervisor"},
    ),
    (
        pages(),
        "SMAP",
        {"smap": True},
        {PTE: "U/S set at every level: SMAP bars the supervisor"},
    ),
    (
        pages(OPEN | 3 << 59),
        "protection key of a 4-KiB page, write",
        {"access": WRITE, "cpl": 3, "pke": True, "pkru": 0x80},
        {PTE: "key 3, for which PKRU has WD"},
    ),
    (pages(), "P of a PDE", {"va": VA + MIB2}, {0x3018: "P clear"}),
    (pages().change(VA, 4, add=PS), "reserved in a PML4E: PS", {}, {PML4E: "reserved: PS (7)"}),
    (
        pages(OPEN | XD | 0x7 << 45),
        "reserved in a PTE: XD, address bits above MAXPHYADDR",
        {"nxe": False},
        {PTE: "reserved: XD (63), bits 47:45"},
    ),
    (
        pages().change(VA, 3, add=1 << 51 | 1 << 44),
        "reserved in a PDPTE: address bits above MAXPHYADDR",
        {},
        {PDPTE: "reserved: bits 51, 44"},
    ),
    (
        pages().change(VA, 4, add=G),
        "reserved in a PML4E: bit 8",
        {"vendor": Vendor.AMD},
        {PML4E: "reserved: bit 8"},
    ),
    (
        pages().change(VA, 2, add=1 << 30),
        "a table outside RAM, PT",
        {},
        {PDE: "its table at 0x40004000 is outside RAM"},
    ),
    (
        PageTables().map(VA, 1 << 22, OPEN | PS, level=2),
        "size of a 2-MiB page",
        {},
        {PDE: "maps 2 MiB"},
    ),
    (
        PageTables().map(0, GIB1, OPEN | PS, level=3),
        "a 1-GiB page that is there",
        {"va": 5},
        {PDPTE: "maps 1 GiB"},
    ),
    (pages(), "address of a 4-KiB page", {}, {PTE: "maps 0x8000"}),
    (pages(), "flags of a 4-KiB page", {}, {PTE: "its bits outside the address"}),
    (
        pages(),
        "read of a 4-KiB page that withholds nothing",
        {},
        {PTE: "withholds nothing, nor does an entry above it"},
    ),
    (pages(), "A of a leaf, D of a leaf", {"access": WRITE}, {PTE: "its A and D"}),
    (
        pages(),
        "A of a table's entry",
        {},
        {PML4E: "its A", PDPTE: "its A", PDE: "its A"},
    ),
    (pages(P), "P in the error code at a present entry", {"cpl": 3}, {PTE: "U/S clear"}),
    (pages(), "canonical addresses", {"va": 1 << 60}, {}),
    (
        PageTables(mode="32-bit").map(VA, 1 << 22, OPEN | PS | 1 << 21, level=2),
        "reserved in a PDE: low address bits",
        {},
        {0x1004: "reserved: bit 21"},
    ),
    (
        PageTables(mode="PAE").map(VA, 0x8000, P | US),
        "R/W of a PTE",
        {"access": WRITE},
        {0x3000: "R/W clear"},
    ),
    (
        PageTables(mode="PAE").map(VA, 0x8000),
        "bit 5 of a PDPTE of PAE paging",
        {},
        {0x1000: "its bit 5"},
    ),
]


@pytest.mark.parametrize(
    ("tables", "rule", "asked", "expected"),
    CASES,
    ids=[f"{case[1]}, {case[0].mode}".replace("/", "") for case in CASES],
)
def test_the_entry_to_blame(tables, rule, asked, expected):
    assert expected == of(tables, rule, **asked)


def others(tables, *, va=VA, words=None, **switches):
    asked = context(tables.mode, **switches)
    words = tables.words if words is None else words
    memory = SparseWords(tables.ram, words)
    return beside(memory, asked, words, [walk_access(memory, asked, Access(va, READ))])


def test_what_a_walk_does_not_read_is_named_with_the_address_that_it_is_for():
    tables = pages().map(VA + KIB4, 0x9000).map(0xFFFF_8000_0000_0000, 0xA000)
    found = [(each.pa, each.step.level, each.va) for each in others(tables)]
    assert [
        (0x1800, 4, 0xFFFF_8000_0000_0000),
        (0x5000, 3, 0xFFFF_8000_0000_0000),
        (0x6000, 2, 0xFFFF_8000_0000_0000),
        (0x4008, 1, VA + KIB4),
        (0x7000, 1, 0xFFFF_8000_0000_0000),
    ] == found


def test_a_word_in_no_table_is_named_as_such():
    tables = pages()
    (found,) = others(tables, words=tables.words | {0xC000: 0x1234})
    assert (0xC000, 0x1234, None) == (found.pa, found.word, found.step)


@pytest.mark.parametrize(
    ("level", "bits"), [(4, {"add": PS}), (3, {"drop": P}), (2, {"add": 1 << 51})]
)
def test_what_is_read_by_who_takes_a_bad_entry_for_good_is_named(level, bits):
    tables = pages().change(VA, level, **bits)
    found = [(each.pa, each.level, each.va) for each in others(tables)]
    below = [(PDPTE, 3, 0), (PDE, 2, VA), (PTE, 1, VA)]
    assert below[4 - level :] == found


def test_the_other_half_of_a_word_is_an_entry_of_its_own():
    tables = PageTables(mode="32-bit").map(VA, 0x8000).map(VA + KIB4, 0x9000)
    (found,) = others(tables)
    assert (0x2004, 0x9007, VA + KIB4) == (found.pa, found.word, found.va)


@pytest.mark.parametrize("index", [0, 1])
def test_tables_that_lead_back_to_themselves_come_to_an_end(index):
    tables = pages().change(VA, 1, drop=0)
    words = tables.words | {0x1000 + 8 * 511: 0x1007, 0x1008 + 8 * index: 0x1007}
    found = others(tables, words=words)
    assert {0x1FF8, 0x1008 + 8 * index} == {each.pa for each in found}
