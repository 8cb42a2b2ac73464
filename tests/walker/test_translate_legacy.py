"""One translation in 32-bit and PAE paging, rule by rule, from the manual."""

import pytest

from crosswalk.walker import (
    Access,
    Accesses,
    GeneralProtection,
    PageFault,
    SparseWords,
    StepKind,
    Translation,
    translate,
    translate_many,
    walk,
)
from tests.tables import (
    EXECUTE,
    OPEN,
    PAT_LARGE,
    PS,
    READ,
    RW,
    US,
    WRITE,
    XD,
    A,
    D,
    G,
    P,
    PageTables,
    context,
)

VA = 0xC123_4567
BOTH = pytest.mark.parametrize("mode", ["32-bit", "PAE"])


def ask(tables, access=READ, cpl=0, va=VA, ac=None, **switches):
    switches.setdefault("root", tables.root)
    return translate(tables.memory, context(tables.mode, **switches), Access(va, access, cpl, ac))


def code(outcome):
    assert isinstance(outcome, PageFault)
    assert VA == outcome.cr2
    return outcome.error_code


@BOTH
def test_a_4_kib_page_is_reached_through_every_level(mode):
    found = ask(PageTables(mode).map(VA, 0x8000))
    assert isinstance(found, Translation)
    assert (0x8567, 0x1000) == (found.pa, found.page_size)


@pytest.mark.parametrize(
    ("mode", "pa", "size", "reached"),
    [
        ("32-bit", 0x0080_0000, 1 << 22, 0x0080_0000 | VA & 0x3F_FFFF),
        ("32-bit", 0x0080_0000 | 1 << 13, 1 << 22, 1 << 32 | 0x0080_0000 | VA & 0x3F_FFFF),
        ("32-bit", 0xFFC0_0000 | 0xFF << 13, 1 << 22, 0xFF_FFC0_0000 | VA & 0x3F_FFFF),
        ("PAE", 0xFF_FFE0_0000, 1 << 21, 0xFF_FFE0_0000 | VA & 0x1F_FFFF),
    ],
)
def test_ps_makes_a_large_page_of_a_pde(mode, pa, size, reached):
    found = ask(PageTables(mode).map(VA, pa, OPEN | PS | PAT_LARGE, level=2))
    assert (reached, size) == (found.pa, found.page_size)


def test_without_pse_a_pde_with_ps_leads_to_a_table_in_32_bit_paging_alone():
    small = PageTables("32-bit").map(VA, 0x8000).change(VA, 2, add=PS)
    assert 0x8567 == ask(small, pse=False).pa
    assert 1 << 22 == ask(small, pse=True).page_size
    assert 1 << 21 == ask(PageTables("PAE").map(VA, 0, OPEN | PS, level=2), pse=False).page_size


@pytest.mark.parametrize("bit", range(13, 22))
@pytest.mark.parametrize("width", [32, 36, 40, 52])
def test_of_a_4_mib_page_the_address_bits_above_the_width_are_reserved(bit, width):
    found = ask(PageTables("32-bit").map(VA, 1 << bit, OPEN | PS, level=2), maxphyaddr=width)
    if bit == 21 or bit + 19 >= width:
        assert 9 == code(found)
    else:
        assert 1 << bit + 19 | VA & 0x3F_FFFF == found.pa


@BOTH
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(
    ("drop", "access", "cpl", "expected"),
    [
        (P, READ, 0, 0),
        (P, WRITE, 3, 6),
        (US, READ, 3, 5),
        (US, EXECUTE, 3, 5),
        (RW, WRITE, 3, 7),
        (RW, WRITE, 0, 3),
    ],
)
def test_every_level_has_its_say(mode, level, drop, access, cpl, expected):
    found = PageTables(mode).map(VA, 0x8000).change(VA, level, drop=drop)
    assert expected == code(ask(found, access, cpl, nxe=False))


@BOTH
def test_wp_smep_smap_and_ac_apply(mode):
    user = PageTables(mode).map(VA, 0x8000)
    read_only = PageTables(mode).map(VA, 0x8000, P)
    assert 3 == code(ask(read_only, WRITE))
    assert isinstance(ask(read_only, WRITE, wp=False), Translation)
    assert 0x11 == code(ask(user, EXECUTE, smep=True))
    assert isinstance(ask(user, EXECUTE, 3, smep=True), Translation)
    assert 1 == code(ask(user, READ, smap=True))
    assert isinstance(ask(user, READ, smap=True, ac=True), Translation)


@BOTH
def test_protection_keys_do_not(mode):
    found = PageTables(mode).map(VA, 0x8000)
    assert isinstance(ask(found, WRITE, 3, pke=True, pkru=0xFFFF_FFFF), Translation)


# Intel SDM vol. 3A, "Page-Fault Exceptions": I/D with SMEP, or with PAE and NXE together.
@pytest.mark.parametrize(
    ("mode", "nxe", "smep", "expected"),
    [
        ("32-bit", False, False, 0),
        ("32-bit", True, False, 0),
        ("32-bit", False, True, 0x10),
        ("PAE", False, False, 0),
        ("PAE", True, False, 0x10),
        ("PAE", False, True, 0x10),
    ],
)
def test_a_fetch_is_told_where_fetches_can_be_denied(mode, nxe, smep, expected):
    absent = PageTables(mode).map(VA, 0x8000, 0)
    assert expected == code(ask(absent, EXECUTE, nxe=nxe, smep=smep))


@pytest.mark.parametrize("level", [1, 2])
def test_xd_denies_fetches_in_pae_with_nxe_and_is_reserved_without(level):
    found = PageTables("PAE").map(VA, 0x8000).change(VA, level, add=XD)
    assert 0x11 == code(ask(found, EXECUTE))
    assert isinstance(ask(found, READ), Translation)
    assert 9 == code(ask(found, READ, nxe=False))


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("bit", [40, 51, 52, 58, 59, 62])
def test_bits_from_maxphyaddr_to_62_are_reserved_in_pae(level, bit):
    found = PageTables("PAE").map(VA, 0x8000).change(VA, level, add=1 << bit)
    assert 9 == code(ask(found))


@pytest.mark.parametrize("bit", [3, 4, 9, 10, 11])
def test_the_ignored_bits_of_a_pdpte_are(bit):
    assert 0x8567 == ask(PageTables("PAE").map(VA, 0x8000).change(VA, 3, add=1 << bit)).pa


def test_a_reserved_bit_in_an_absent_pdpte_means_nothing():
    found = PageTables("PAE").map(VA, 0x8000).change(VA, 3, add=XD | RW, drop=P)
    assert 0 == code(ask(found))


@pytest.mark.parametrize("other", [VA, 0, 1 << 30])
def test_a_reserved_bit_in_any_pdpte_answers_every_access_with_gp(other):
    found = PageTables("PAE").map(VA, 0x8000).map(other, 0x8000).change(other, 3, add=RW)
    for access in (READ, WRITE, EXECUTE):
        assert GeneralProtection() == ask(found, access, 3)
    (step,) = walk(found.memory, context("PAE"), VA).steps
    expected = (3, found.entry_pa(other, 3), StepKind.RESERVED)
    assert expected == (step.level, step.pa, step.kind)


def halves(tables, *changes):
    """The 8-byte words that these changes of entries, (va, level, bits), lead to."""
    words = dict(tables.words)
    for va, level, bits in changes:
        place = tables.entry_pa(va, level)
        words[place & -8] |= bits << place % 8 * 8
    return tuple(sorted((pa, words[pa]) for pa in {tables.entry_pa(*c[:2]) & -8 for c in changes}))


@pytest.mark.parametrize("va", [VA, VA ^ 0x1000, VA ^ 0x40_0000, VA ^ 0x40_1000])
def test_a_and_d_of_32_bit_entries_are_told_as_the_words_they_lie_in(va):
    found = PageTables("32-bit")
    for near in (VA, VA ^ 0x1000, VA ^ 0x40_0000, VA ^ 0x40_1000):
        found.map(near, 0x8000)
    assert halves(found, (va, 2, A), (va, 1, A)) == ask(found, READ, va=va).entries
    assert halves(found, (va, 2, A), (va, 1, A | D)) == ask(found, WRITE, va=va).entries
    found.change(va, 1, drop=US)
    assert halves(found, (va, 2, A), (va, 1, A)) == ask(found, WRITE, 3, va=va).entries
    found.change(va, 1, drop=P)
    assert halves(found, (va, 2, A)) == ask(found, READ, 3, va=va).entries


def test_a_and_d_in_pae_are_set_below_the_pdpte():
    found = PageTables("PAE").map(VA, 0x8000)
    assert halves(found, (VA, 2, A), (VA, 1, A | D)) == ask(found, WRITE).entries
    large = PageTables("PAE").map(VA, 0, OPEN | PS, level=2)
    assert halves(large, (VA, 2, A | D)) == ask(large, WRITE).entries


def test_two_entries_of_one_word_used_by_one_walk_add_up():
    # The directory refers to itself in its last entry; the one before is used as a PTE there.
    words = {0x1FF8: (0x1000 | OPEN) << 32 | 0x5000 | OPEN}
    found = translate(
        SparseWords([(0, 0x4000)], words), context("32-bit"), Access(0xFFFF_E000, WRITE)
    )
    assert 0x5000 == found.pa
    assert ((0x1FF8, words[0x1FF8] | A << 32 | A | D),) == found.entries


def test_of_two_entries_of_one_word_a_fault_may_mark_either_or_both():
    words = {0x1FF8: (0x1000 | OPEN) << 32 | 0x5000 | OPEN & ~RW}
    memory, access = SparseWords([(0, 0x4000)], words), Access(0xFFFF_E000, WRITE)
    found = translate(memory, context("32-bit"), access)
    assert 0x3 == found.error_code
    expected = tuple((0x1FF8, words[0x1FF8] | bits) for bits in (A, A << 32, A << 32 | A))
    assert expected == found.entries
    assert found == translate_many(memory, context("32-bit"), Accesses.of([access]))[0]
    used = {0x1FF8: words[0x1FF8] | A}
    found = translate(SparseWords([(0, 0x4000)], used), context("32-bit"), access)
    assert ((0x1FF8, words[0x1FF8] | A << 32 | A),) == found.entries


def test_a_large_page_in_32_bit_paging_sets_d_in_its_pde():
    found = PageTables("32-bit").map(VA, 0, OPEN | PS | G, level=2)
    assert halves(found, (VA, 2, A | D)) == ask(found, WRITE).entries


@BOTH
def test_a_table_outside_ram_reads_as_not_present(mode):
    found = PageTables(mode).map(VA, 0x8000)
    place = found.entry_pa(VA, 2)
    found.entries[place] = 0x7000_0000 | OPEN
    steps = walk(found.memory, context(mode), VA).steps
    assert StepKind.OUTSIDE is steps[-1].kind
    assert 0 == code(ask(found))
