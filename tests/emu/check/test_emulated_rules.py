"""The second walk's rules and answers, by hand from the manuals."""

from dataclasses import replace

import pytest

from crosswalk.emu.check.departures import DEPARTURES
from crosswalk.emu.check.emulated import emulated_many
from crosswalk.emu.check.emulated_rules import Keys, levels_of, rules_of
from crosswalk.walker import Access, Accesses, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.tables import OPEN, PS, RW, US, USED, XD, A, D, P, PageTables, context

READ, WRITE, EXECUTE = AccessType

# By hand, from the manuals. Bits 51:40 and, without NXE, bit 63; of a page also what would be an
# address within it, but for PAT in bit 12.
HIGH = 0x000F_FF00_0000_0000
NX = 1 << 63


def masks(registers):
    """The bits reserved at each level from the root: of an entry of a table, of one of a page."""
    return [(each.reserved, each.reserved_page) for each in levels_of(rules_of(registers))]


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        (
            context(),
            [
                (HIGH | 0x80, HIGH | 0x80),
                (HIGH, HIGH | 0x3FFF_E000),
                (HIGH, HIGH | 0x001F_E000),
                (HIGH, HIGH),
            ],
        ),
        (
            context(5, nxe=False, page1gb=False, vendor=Vendor.AMD, maxphyaddr=52),
            [
                (NX | 0x180, NX | 0x180),
                (NX | 0x180, NX | 0x180),
                (NX | 0x80, NX | 0x80),
                (NX, NX | 0x001F_E000),
                (NX, NX),
            ],
        ),
        (
            context("PAE", maxphyaddr=36),
            [
                (0xFFFF_FFF0_0000_01E6, 0xFFFF_FFF0_0000_01E6),
                (0x7FFF_FFF0_0000_0000, 0x7FFF_FFF0_001F_E000),
                (0x7FFF_FFF0_0000_0000, 0x7FFF_FFF0_0000_0000),
            ],
        ),
        (context("32-bit"), [(0, 0x0020_0000), (0, 0)]),
        (context("32-bit", maxphyaddr=36), [(0, 0x003E_0000), (0, 0)]),
    ],
    ids=["4-level", "5-level, AMD", "PAE, 36 bits", "32-bit", "32-bit, 36 bits"],
)
def test_the_reserved_bits_are_the_manuals(registers, expected):
    assert expected == masks(registers)


def answer(memory, registers, *, va=0, kind=READ, cpl=0, ac=False, departures=()):
    """The second walk's answer to one access with some departures, as an `Outcome`."""
    rules = rules_of(registers)
    for each in DEPARTURES:
        if each.id in departures:
            rules = each.change(rules)
    return emulated_many(memory, rules, Accesses.of([Access(va, kind, cpl, ac)]))[0]


def test_a_write_sets_a_on_every_level_and_d_in_the_leaf():
    memory = PageTables().map(0x40_0000, 0x8000).memory
    marks = ((0x1000, 0x2000 | USED), (0x2000, 0x3000 | USED), (0x3010, 0x4000 | USED))
    expected = Translation(0x8123, entries=(*marks, (0x4000, 0x8000 | USED | D)))
    assert expected == answer(memory, context(), va=0x40_0123, kind=WRITE)


def test_a_word_that_is_an_entry_of_two_levels_has_the_bits_of_both():
    # The last entry of the root leads to the root: four levels of one word, which is a page, too.
    va = 0xFFFF_FFFF_FFFF_FFF8
    memory = SparseWords([(0, 1 << 16)], {0x1FF8: 0x1000 | OPEN})
    expected = Translation(0x1FF8, entries=((0x1FF8, 0x1000 | USED | D),))
    assert expected == answer(memory, context(), va=va, kind=WRITE)


@pytest.mark.parametrize(
    ("departures", "expected"),
    [
        ((), PageFault(0x9, 0x10)),
        (("pdpte-leaf-accessed-on-fault",), PageFault(0x9, 0x10, ((0x2000, 0x2000 | USED | PS),))),
        (("maxphyaddr-40",), PageFault(0x9, 0x10)),
    ],
)
def test_a_reserved_bit_of_a_1_gib_leaf_faults_with_a_as_the_departures_have_it(
    departures, expected
):
    memory = PageTables().map(0, 0x2000, OPEN | PS, level=3, upper=USED).memory
    assert expected == answer(memory, context(), va=0x10, departures=departures)


def test_departures_together_answer_what_neither_does_alone():
    # PS of a PDPTE, and bit 38 where there are 36: only with both is there a page.
    memory = PageTables(ram=((0, 1 << 24), (1 << 38, 1 << 30)))
    memory = memory.map(0, 1 << 38, USED | PS, level=3, upper=USED).memory
    registers = context(maxphyaddr=36, page1gb=False)
    both = ("maxphyaddr-40", "pdpte-ps-always-leaf")
    assert PageFault(0x9, 0x10) == answer(memory, registers, va=0x10)
    for name in both:
        alone = answer(memory, registers, va=0x10, departures=(name,))
        assert PageFault(0x9, 0x10) == alone
    together = answer(memory, registers, va=0x10, departures=both)
    assert Translation(1 << 38 | 0x10) == together


def test_where_the_processor_may_choose_the_emulated_one_marks_1_gib_leaves_alone():
    for level, chosen in ((3, ((0x2000, USED & ~RW | PS),)), (2, ()), (1, ())):
        memory = PageTables().map(0, 0, P | US | (PS if level > 1 else 0), level=level, upper=USED)
        registers = context()
        rules, write = rules_of(registers), Accesses.of([Access(0, WRITE, 0)])
        assert chosen == emulated_many(memory.memory, rules, write)[0].entries
        every = emulated_many(memory.memory, rules, write, every_choice=True)[0]
        place = memory.entry_pa(0, level)
        assert ((place, memory.words[place] | A),) == every.entries


@pytest.mark.parametrize(
    ("access", "switches", "flags", "code"),
    [
        ({"kind": WRITE}, {}, P | US, 0x3),
        ({"kind": WRITE}, {"wp": False}, P | US, None),
        ({"kind": WRITE, "cpl": 3}, {"wp": False}, P | US, 0x7),
        ({"cpl": 3}, {}, P | RW, 0x5),
        ({"kind": EXECUTE}, {}, OPEN | XD, 0x11),
        ({"kind": EXECUTE}, {"smep": True, "nxe": False}, OPEN, 0x11),
        ({"kind": EXECUTE, "cpl": 3}, {"smep": True, "nxe": False}, OPEN, None),
        ({"kind": READ}, {"smap": True}, OPEN, 0x1),
        ({"kind": READ, "ac": True}, {"smap": True}, OPEN, None),
        ({"kind": READ}, {"pke": True, "pkru": 0b01_00}, OPEN | 1 << 59, 0x21),
        ({"kind": WRITE}, {"pke": True, "pkru": 0b10_00}, OPEN | 1 << 59, 0x23),
        ({"kind": WRITE}, {"pke": True, "pkru": 0b10_00, "wp": False}, OPEN | 1 << 59, None),
        ({"kind": READ}, {"pke": True, "pkru": 0b01_00}, P | RW | 1 << 59, None),
        ({"kind": READ}, {"pke": False, "pkru": 0b01_00}, OPEN | 1 << 59, None),
        ({"kind": READ}, {"pks": True, "pkrs": 0b01_00}, P | RW | 1 << 59, 0x21),
        ({"kind": READ, "cpl": 3}, {"pks": True, "pkrs": 0b01_00}, P | RW | 1 << 59, 0x25),
        ({"kind": WRITE}, {"pks": True, "pkrs": 0b10_00}, P | RW | 1 << 59, 0x23),
        ({"kind": WRITE}, {"pks": True, "pkrs": 0b10_00, "wp": False}, P | RW | 1 << 59, None),
        (
            {"kind": WRITE, "cpl": 3},
            {"pks": True, "pkrs": 0b10_00, "wp": False},
            P | RW | 1 << 59,
            0x7,
        ),
        ({"kind": EXECUTE}, {"pks": True, "pkrs": 0b11_00}, P | RW | 1 << 59, None),
        ({"kind": READ}, {"pks": True, "pkrs": 0b01_00}, OPEN | 1 << 59, None),
        ({"kind": READ}, {"pks": False, "pkrs": 0b01_00}, P | RW | 1 << 59, None),
        ({"kind": READ}, {"pks": True, "pkrs": 0b01_00_00}, P | RW | 1 << 59, None),
    ],
)
def test_rights_are_the_manuals(access, switches, flags, code):
    memory = PageTables().map(0, 0x8000, flags | A | D, upper=USED).memory
    found = answer(memory, context(**switches), **access)
    if code is None:
        assert Translation(0x8000) == found
    else:
        assert PageFault(code, 0) == found


SUPERVISOR_LEAF, SUPERVISOR_TABLE, USER_PAGE = (USED, P | RW), (P | RW | A, OPEN), (USED, OPEN)


@pytest.mark.parametrize(
    ("keys", "page", "cpl", "pkru_code", "pkrs_code"),
    [
        (Keys.PAGES, SUPERVISOR_LEAF, 0, None, 0x21),
        (Keys.TABLES, SUPERVISOR_LEAF, 0, 0x21, None),
        (Keys.ACCESSES, SUPERVISOR_LEAF, 0, None, 0x21),
        (Keys.PAGES, SUPERVISOR_LEAF, 3, 0x5, 0x25),
        (Keys.TABLES, SUPERVISOR_LEAF, 3, 0x25, 0x5),
        (Keys.ACCESSES, SUPERVISOR_LEAF, 3, 0x25, 0x5),
        (Keys.PAGES, SUPERVISOR_TABLE, 3, 0x5, 0x25),
        (Keys.TABLES, SUPERVISOR_TABLE, 3, 0x5, 0x25),
        (Keys.ACCESSES, SUPERVISOR_TABLE, 3, 0x25, 0x5),
        (Keys.PAGES, USER_PAGE, 0, 0x21, None),
        (Keys.TABLES, USER_PAGE, 0, 0x21, None),
        (Keys.ACCESSES, USER_PAGE, 0, None, 0x21),
    ],
)
def test_keys_that_go_by_something_else_than_the_page(keys, page, cpl, pkru_code, pkrs_code):
    upper, flags = page
    memory = PageTables().map(0, 0x8000, flags | A | D | 1 << 59, upper=upper).memory
    for switches, change, code in (
        ({"pke": True, "pkru": 0b01_00}, {"user_keys": keys}, pkru_code),
        ({"pks": True, "pkrs": 0b01_00}, {"supervisor_keys": keys}, pkrs_code),
    ):
        rules = replace(rules_of(context(**switches)), **change)
        asked = Accesses.of([Access(0, READ, cpl)])
        found = emulated_many(memory, rules, asked)[0]
        assert (Translation(0x8000) if code is None else PageFault(code, 0)) == found


def test_addresses_that_are_not_canonical_raise_gp():
    memory = PageTables().memory
    assert GeneralProtection() == answer(memory, context(), va=0x8000_0000_0000)
    assert PageFault(0, 0x7FFF_FFFF_FFFF) == answer(memory, context(), va=0x7FFF_FFFF_FFFF)
    five = context(5)
    assert PageFault(0, 0x8000_0000_0000) == answer(memory, five, va=0x8000_0000_0000)
    assert GeneralProtection() == answer(memory, five, va=1 << 56)


def test_a_4_mib_page_has_its_high_address_bits_in_bits_20_13():
    tables = PageTables("32-bit", ram=((0, 1 << 16), (1 << 32, 1 << 23)))
    tables.entries[0x1004] = 0x40_0000 | USED | PS | 1 << 13
    found = answer(tables.memory, context("32-bit"), va=0x40_0123)
    assert Translation((1 << 32) + 0x40_0123) == found
    small = replace(context("32-bit"), cr4=0)
    assert PageFault(0, 0x40_0123) == answer(tables.memory, small, va=0x40_0123)


def test_the_encryption_mask_is_no_part_of_an_address_and_stays_in_the_words():
    bit = 1 << 47
    words = {0x1000: 0x2000 | bit | OPEN, 0x2000: bit | OPEN | PS}
    memory = SparseWords([(0, 1 << 16)], words)
    registers = PagingContext(cr3=0x1000 | bit, encryption_mask=bit, maxphyaddr=48)
    entries = ((0x1000, 0x2000 | bit | USED), (0x2000, bit | USED | PS))
    assert Translation(0x123, entries=entries) == answer(memory, registers, va=0x123)


def test_one_malformed_pdpte_keeps_intels_pae_paging_from_being_entered():
    tables = PageTables("PAE").map(0, 0x8000, USED, upper=USED)
    tables.entries[0x1008] = 0x2000 | P | 1 << 7
    refused = "pae-pdpte-read-when-used"
    registers = context("PAE")
    assert GeneralProtection() == answer(tables.memory, registers, va=0x10)
    assert Translation(0x8010) == answer(tables.memory, registers, va=0x10, departures=[refused])
    amd = replace(registers, vendor=Vendor.AMD)
    assert Translation(0x8010) == answer(tables.memory, amd, va=0x10)
    assert PageFault(0x9, 0x4000_0010) == answer(tables.memory, amd, va=0x4000_0010)


TOP = 1 << 63


@pytest.mark.parametrize(
    ("va", "switches", "linear"),
    [
        (0x2A00_0000_0040_0123, {"cr3": 0x1000 | 1 << 61}, 0x40_0123),
        (0x7FFF_0000_0040_0123, {"cr3": 0x1000 | 1 << 62}, 0x40_0123),
        (0x7FFF_0000_0040_0123, {"cr3": 0x1000 | 1 << 61}, None),
        (TOP | 0x40_0123, {"cr3": 0x1000 | 3 << 61}, None),
        (0x5500_8000_0040_0123, {"cr4": 0x20 | 1 << 28}, None),
        (TOP | 0x1234_FFFF_FFE0_0000 & TOP - 1, {"cr4": 0x20 | 1 << 28}, TOP * 2 - 0x20_0000),
        (0xFE00_0000_0040_0123, {"efer": 0x10_0D00, "vendor": Vendor.AMD}, 0x40_0123),
        (0xFE80_0000_0040_0123, {"efer": 0x10_0D00, "vendor": Vendor.AMD}, None),
    ],
)
def test_metadata_in_pointers_is_masked_in_data_accesses_alone(va, switches, linear):
    memory = PageTables().memory
    registers = PagingContext(**{"cr3": 0x1000} | switches)
    for kind in (READ, WRITE):
        found = answer(memory, registers, va=va, kind=kind)
        expected = PageFault(2 if kind is WRITE else 0, linear) if linear else GeneralProtection()
        assert expected == found
    assert GeneralProtection() == answer(memory, registers, va=va, kind=EXECUTE)


@pytest.mark.parametrize(
    ("va", "access", "smap", "refused"),
    [
        (TOP * 2 - 8, {"kind": EXECUTE}, True, False),
        (TOP * 2 - 8, {"cpl": 3}, False, True),
        (0, {"cpl": 3, "kind": EXECUTE}, True, False),
        (0, {"kind": EXECUTE, "ac": True}, False, True),
        (0, {"kind": WRITE}, True, True),
        (0, {"kind": WRITE, "ac": True}, True, False),
        (0, {"kind": WRITE}, False, False),
    ],
)
def test_lass_refuses_the_other_half_before_there_is_a_walk(va, access, smap, refused):
    registers = PagingContext(cr3=0x1000, cr4=0x20 | 1 << 27 | smap << 21)
    found = answer(PageTables().memory, registers, va=va, **access)
    assert refused == isinstance(found, GeneralProtection)
