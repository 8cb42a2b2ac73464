import pytest

from crosswalk.walker import BadInput, PagingContext, PagingMode, Vendor
from tests.tables import context

MAX = (1 << 64) - 1


def test_only_cr3_must_be_given_and_the_rest_is_that_of_a_case_file():
    found = PagingContext(cr3=0x1000)

    assert (0x80010033, 0x20, 0xD00, 0) == (found.cr0, found.cr4, found.efer, found.pkru)
    assert (40, True, Vendor.INTEL) == (found.maxphyaddr, found.page1gb, found.vendor)
    assert (True, True) == (found.wp, found.nxe)
    assert (False,) * 4 == (found.smep, found.smap, found.pke, found.rflags_ac)
    assert (4, 48) == (found.levels, found.va_bits)


@pytest.mark.parametrize(
    ("registers", "switch"),
    [
        ({"cr0": 0x80010001}, "wp"),
        ({"efer": 0xD00}, "nxe"),
        ({"cr4": 0x20 | 1 << 20}, "smep"),
        ({"cr4": 0x20 | 1 << 21}, "smap"),
        ({"cr4": 0x20 | 1 << 22}, "pke"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_switch_is_the_bit_that_the_manual_names(registers, switch):
    bare = {"cr0": 0x80000001, "cr4": 0x20, "efer": 0x500}
    off, on = PagingContext(cr3=0, **bare), PagingContext(cr3=0, **bare | registers)

    for name in ("wp", "nxe", "smep", "smap", "pke"):
        assert False is getattr(off, name)
        assert (name == switch) is getattr(on, name)


def test_la57_makes_five_levels_of_57_bits():
    assert (5, 57) == (context(5).levels, context(5).va_bits)


@pytest.mark.parametrize(
    ("levels", "last_low", "first_high"),
    [
        (4, 0x0000_7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000),
        (5, 0x00FF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000),
    ],
)
def test_canonical_addresses_are_two_halves_around_a_hole(levels, last_low, first_high):
    found = context(levels)

    for va in (0, last_low, first_high, MAX):
        assert found.canonical(va), hex(va)
    for va in (last_low + 1, first_high - 1, 1 << 63, MAX >> 1):
        assert not found.canonical(va), hex(va)


def test_a_copy_of_bit_47_is_canonical_with_57_bits_only():
    assert not context(4).canonical(0x0000_8000_0000_0000)
    assert context(5).canonical(0x0000_8000_0000_0000)


@pytest.mark.parametrize("cr4", [0x20, 0x20020], ids=["plain", "pcide"])
def test_the_low_bits_of_cr3_are_no_part_of_the_root(cr4):
    assert 0x12_3456_7000 == PagingContext(cr3=0x12_3456_7FFF, cr4=cr4).root


def test_cr3_may_set_the_highest_address_bit_and_none_above():
    for maxphyaddr in (32, 40, 51):
        edge = 1 << maxphyaddr
        assert edge >> 1 == PagingContext(cr3=edge >> 1, maxphyaddr=maxphyaddr).root
        with pytest.raises(BadInput, match="MAXPHYADDR"):
            PagingContext(cr3=edge, maxphyaddr=maxphyaddr)


@pytest.mark.parametrize(("maxphyaddr", "mask"), [(32, 0xFFFF_F000), (52, 0xF_FFFF_FFFF_F000)])
def test_the_address_mask_ends_below_maxphyaddr(maxphyaddr, mask):
    assert mask == PagingContext(cr3=0, maxphyaddr=maxphyaddr).address_mask


@pytest.mark.parametrize("maxphyaddr", [0, 31, 53, 64])
def test_an_impossible_maxphyaddr_is_refused(maxphyaddr):
    with pytest.raises(BadInput, match=f"maxphyaddr = {maxphyaddr}"):
        PagingContext(cr3=0, maxphyaddr=maxphyaddr)


@pytest.mark.parametrize(
    ("registers", "reason"),
    [
        ({"cr0": 0x10033}, "paging is off"),
        ({"cr0": 0x80010032}, "paging is off"),
        ({"cr4": 0}, "has LMA, CR4 = 0x0 lacks PAE"),
        ({"efer": 0x900}, "LME without LMA"),
        ({"efer": 0x100, "cr4": 0}, "LME without LMA"),
        ({"cr4": 0x20 | 1 << 24, "vendor": Vendor.AMD}, "PKS, which is intel's"),
        ({"cr0": 1 << 64}, "cr0 .* 64 bits"),
        ({"cr3": 1 << 64}, "cr3 .* 64 bits"),
        ({"cr4": -1}, "cr4 .* 64 bits"),
        ({"efer": 1 << 64}, "efer .* 64 bits"),
        ({"pkru": 1 << 32}, "pkru .* 32 bits"),
        ({"pkrs": 1 << 32}, "pkrs .* 32 bits"),
    ],
    ids=[
        "no PG",
        "no PE",
        "no PAE",
        "no LMA",
        "LME without PAE",
        "PKS",
        "cr0",
        "cr3",
        "cr4",
        "efer",
        "pkru",
        "pkrs",
    ],
)
def test_registers_that_describe_no_known_paging_are_refused(registers, reason):
    with pytest.raises(BadInput, match=reason):
        PagingContext(**{"cr3": 0} | registers)


# CR0 has PE and PG throughout; Intel SDM vol. 3A, "Four Paging Modes".
@pytest.mark.parametrize(
    ("cr4", "efer", "mode", "levels", "bits"),
    [
        (0x00, 0x000, PagingMode.BIT32, 2, 32),
        (0x10, 0x800, PagingMode.BIT32, 2, 32),
        (0x1010, 0x000, PagingMode.BIT32, 2, 32),
        (0x20, 0x000, PagingMode.PAE, 3, 32),
        (0x1030, 0x800, PagingMode.PAE, 3, 32),
        (0x20, 0x500, PagingMode.LEVEL4, 4, 48),
        (0x1020, 0xD00, PagingMode.LEVEL5, 5, 57),
    ],
)
def test_pae_lma_and_la57_choose_the_mode(cr4, efer, mode, levels, bits):
    found = PagingContext(cr3=0, cr4=cr4, efer=efer)
    assert (mode, levels, bits) == (found.mode, found.levels, found.va_bits)
    assert found.mode.long is (bits > 32)


@pytest.mark.parametrize(
    ("cr4", "maxphyaddr", "root", "mask"),
    [
        (0x00, 52, 0x8765_4000, 0xFFFF_F000),
        (0x20, 36, 0x8765_43E0, 0xF_FFFF_F000),
    ],
    ids=["32-bit", "PAE"],
)
def test_cr3_holds_a_root_of_32_bits_outside_long_mode(cr4, maxphyaddr, root, mask):
    found = PagingContext(cr3=0xFFFF_8765_43FF, cr4=cr4, efer=0, maxphyaddr=maxphyaddr)
    assert (root, mask) == (found.root, found.address_mask)


def test_switches_without_a_meaning_in_a_mode_are_off_there():
    on = 0x20 | 1 << 22
    assert PagingContext(cr3=0, cr4=on).pke
    assert not PagingContext(cr3=0, cr4=on, efer=0).pke
    assert PagingContext(cr3=0, cr4=0x20, efer=0x800).nxe
    assert not PagingContext(cr3=0, cr4=0, efer=0x800).nxe
    assert PagingMode.PAE is PagingContext(cr3=0, cr4=0x20 | 1 << 24, efer=0).mode


@pytest.mark.parametrize("cr4", [0x10, 0x20], ids=["32-bit", "PAE"])
def test_outside_long_mode_addresses_have_32_bits_and_no_hole(cr4):
    found = PagingContext(cr3=0, cr4=cr4, efer=0)
    for va in (0, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
        assert found.canonical(va)
        found.require_linear(va)
    for va in (1 << 32, MAX):
        assert not found.canonical(va)
        with pytest.raises(BadInput, match=f"va = {va:#x}: .* have 32 bits"):
            found.require_linear(va)


def test_in_long_mode_no_address_is_refused():
    context().require_linear(1 << 60)
