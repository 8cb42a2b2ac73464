import pytest

from crosswalk.walker import BadInput, PagingContext, Vendor
from crosswalk.walker.nested import EptCapability, EptContext, NestedContext


@pytest.mark.parametrize("side", ["guest", "host"])
@pytest.mark.parametrize(
    ("registers", "feature"),
    [
        ({"cr3": 1 << 61}, "LAM"),
        ({"cr4": 0x20 | 1 << 28}, "LAM"),
        ({"cr4": 0x20 | 1 << 27}, "LASS"),
        ({"efer": 0x100D00, "vendor": Vendor.AMD}, "UAI"),
        ({"encryption_mask": 1 << 47}, "an encryption mask"),
    ],
)
def test_features_that_are_not_modelled_in_two_dimensions_are_refused(side, registers, feature):
    sides = {"guest": PagingContext(cr3=0), "host": PagingContext(cr3=0)}
    sides[side] = PagingContext(**{"cr3": 0} | registers)
    with pytest.raises(BadInput, match=f"not modelled with {feature}; the {side} has it"):
        NestedContext(**sides)


def test_an_eptp_has_the_type_of_its_tables_their_levels_and_a_and_d():
    host = EptContext(eptp=0x12_3000 | 1 << 6 | 3 << 3 | 6)
    assert (0x12_3000, 4, 48, True) == (host.root, host.levels, host.gpa_bits, host.accessed_dirty)
    uncached = EptContext(eptp=0x12_3000 | 4 << 3)
    assert (5, 57, False) == (uncached.levels, uncached.gpa_bits, uncached.accessed_dirty)
    assert 0xFF_FFFF_F000 == host.address_mask


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("ad", [False, True])
def test_an_eptp_is_made_for_a_root(levels, ad):
    host = EptContext.at(0x12_3000, levels=levels, accessed_dirty=ad, mbec=True, maxphyaddr=46)
    assert 0x12_3000 | ad << 6 | levels - 1 << 3 | 6 == host.eptp
    assert (levels, ad, True, 46) == (host.levels, host.accessed_dirty, host.mbec, host.maxphyaddr)


@pytest.mark.parametrize("root", [0x12_3001, 1 << 52, -0x1000])
def test_the_root_of_an_ept_is_the_address_of_a_frame(root):
    with pytest.raises(BadInput, match="not at the address of a frame"):
        EptContext.at(root)


LOW = 3 << 3 | 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eptp": 1 << 64}, "does not fit in 64 bits"),
        ({"eptp": -1}, "does not fit in 64 bits"),
        ({"eptp": 0}, "has 1 levels: neither 4 nor 5"),
        ({"eptp": LOW, "maxphyaddr": 31}, "maxphyaddr = 31 is not within 32..52"),
        ({"eptp": LOW, "maxphyaddr": 53}, "maxphyaddr = 53 is not within 32..52"),
        ({"eptp": 3 << 3 | 1}, r"has the memory type 1: neither 0 \(UC\) nor 6 \(WB\)"),
        ({"eptp": 2 << 3 | 6}, "has 3 levels: neither 4 nor 5"),
        ({"eptp": 7 << 3 | 6}, "has 8 levels: neither 4 nor 5"),
        ({"eptp": LOW | 1 << 7}, r"supervisor shadow stacks \(bit 7\), which are not modelled"),
        *(({"eptp": LOW | 1 << bit}, r"sets reserved bits \(11:8\)") for bit in range(8, 12)),
        ({"eptp": LOW | 1 << 40}, "sets bits from MAXPHYADDR up"),
        ({"eptp": LOW | 1 << 63, "maxphyaddr": 52}, "sets bits from MAXPHYADDR up"),
    ],
)
def test_an_eptp_with_which_vm_entry_fails_is_refused(changes, told):
    with pytest.raises(BadInput, match=told):
        EptContext(**changes)
    for width in (32, 52):
        assert 0 == EptContext(eptp=LOW, maxphyaddr=width).root


@pytest.mark.parametrize(
    ("eptp", "lacking"),
    [
        (LOW, "WB"),
        (3 << 3, "UC"),
        (LOW, "LENGTH_4"),
        (4 << 3 | 6, "LENGTH_5"),
        (LOW | 1 << 6, "ACCESSED_DIRTY"),
    ],
)
def test_so_is_one_that_asks_for_what_the_processor_lacks(eptp, lacking):
    capabilities = EptCapability(sum(EptCapability)) & ~EptCapability[lacking]
    with pytest.raises(BadInput, match=f"needs what the processor lacks: {lacking}$"):
        EptContext(eptp=eptp, capabilities=capabilities)
    assert eptp == EptContext(eptp=eptp).eptp
    # What isn't asked for may be lacking.
    other = 4 << 3 if eptp & 7 else LOW | 1 << 6
    if lacking in ("WB", "UC"):
        assert other == EptContext(eptp=other, capabilities=capabilities).eptp
    elif lacking == "ACCESSED_DIRTY":
        assert LOW == EptContext(eptp=LOW, capabilities=capabilities).eptp


def test_capabilities_are_those_bits_of_the_msr():
    bits = {"EXECUTE_ONLY": 0, "LENGTH_4": 6, "LENGTH_5": 7, "UC": 8, "WB": 14, "PAGE_2M": 16}
    bits |= {"PAGE_1G": 17, "ACCESSED_DIRTY": 21, "ADVANCED": 22}
    assert {name: 1 << at for name, at in bits.items()} == {
        it.name: int(it) for it in EptCapability
    }


@pytest.mark.parametrize(
    ("registers", "told"),
    [
        ({"vendor": Vendor.AMD}, "EPT is Intel's: the guest's vendor has to be intel"),
        ({"maxphyaddr": 46}, "maxphyaddr = 46 for the one and 40 for the other"),
        ({"cr4": 0x20, "efer": 0}, "the guest has PAE paging"),
        ({"cr4": 0, "efer": 0}, "the guest has 32-bit paging"),
        ({"cr4": 0x20 | 1 << 24}, "not modelled with PKS; the guest has it"),
        ({"cr3": 1 << 61}, "not modelled with LAM; the guest has it"),
    ],
)
def test_a_guest_that_no_processor_has_under_ept_is_refused(registers, told):
    with pytest.raises(BadInput, match=told):
        NestedContext(PagingContext(**{"cr3": 0} | registers), EptContext.at(0))


def test_gmet_is_for_nested_paging_alone():
    with pytest.raises(BadInput, match="GMET is AMD's"):
        NestedContext(PagingContext(cr3=0), EptContext.at(0), gmet=True)


def test_who_expects_one_format_of_tables_is_told_of_the_other():
    guest = PagingContext(cr3=0)
    nested, ept = NestedContext(guest, guest), NestedContext(guest, EptContext.at(0))
    assert (guest, EptContext.at(0)) == (nested.npt, ept.ept)
    with pytest.raises(BadInput, match="an EPT, not AMD's nested tables"):
        _ = ept.npt
    with pytest.raises(BadInput, match="AMD's nested tables, not an EPT"):
        _ = nested.ept
