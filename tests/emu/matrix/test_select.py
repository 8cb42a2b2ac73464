"""`--select` of layouts: the matrix's names, and what of them only the matrix has."""

import pytest

from crosswalk.emu.cli.options import ASSUME, MODE
from crosswalk.emu.fuzz.generate.choice import ASSUMPTIONS, EntryCondition, LayoutChoice
from crosswalk.emu.matrix.select import layout_choice, selection_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingMode, Vendor
from crosswalk.walker.errors import BadInput


def test_nothing_given_restricts_nothing():
    assert LayoutChoice() == layout_choice()
    assert not layout_choice().restricts
    assert {"mode": None, "assume": None, "select": None} == layout_choice().named()


def test_names_of_all_kinds_are_taken():
    found = selection_of(
        "access=write,access=read,cpl=3,rflags.ac=1,mode=pae,cr0.wp=0,pkru.wd=1,"
        "vendor=amd,page1gb=0,maxphyaddr=41,maxphyaddr=52,pte.nx=1,pde.key3=0,pdpte.avl=1"
    )
    assert (AccessType.READ, AccessType.WRITE) == found.types
    assert ((3,), (True,), (PagingMode.PAE,)) == (found.cpls, found.acs, found.modes)
    assert {("cr0", 1 << 16, False), ("pkru", 2 << 2, True)} == set(found.controls)
    features = dict(found.features)
    assert {"maxphyaddr": (41, 52), "page1gb": (False,), "vendor": (Vendor.AMD,)} == features
    assert {
        EntryCondition(1, 1 << 63, None, holds=True),
        EntryCondition(2, 15 << 59, 3 << 59, holds=False),
        EntryCondition(3, 7 << 9, None, holds=True),
    } == set(found.entries)


def test_both_values_of_a_bit_leave_it_open():
    assert () == selection_of("cr0.wp=0,cr0.wp=1,pte.nx=0,pte.nx=1").controls
    assert () == selection_of("cr0.wp=0,cr0.wp=1,pte.nx=0,pte.nx=1").entries


def test_the_order_of_what_is_selected_makes_no_difference():
    one, other = (layout_choice((), (), text) for text in ("cpl=3,pte.nx=1", "pte.nx=1, cpl=3"))
    assert one == other
    assert "cpl=3,pte.nx=1" == one.named()["select"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("section=rights-4k", "section is a dimension of the matrix alone"),
        ("then.cpl=0", "then.cpl is a dimension of the matrix alone"),
        ("access=rmw", "access rmw:[a-z]+ is a composite, of the matrix alone"),
        ("pte.nonsense=1", "no 'pte.nonsense'"),
        ("cpl=1", "cpl is one of 0, 3, not '1'"),
        ("mode=32bit,encryption_mask=0x800000000000", "32-bit paging have no encryption_mask"),
        ("efer.uaie=1,cr4.lass=1", "UAIE, which is amd's, and the vendor is intel"),
        ("vendor=amd,cr4.lass=1", "LASS, which is intel's, and the vendor is amd"),
    ],
)
def test_what_only_the_matrix_has_and_what_there_is_not_is_one_line(text, words):
    with pytest.raises(BadInput, match=f"^--select: .*{words}"):
        selection_of(text)


def test_modes_are_those_of_both_options():
    assert (PagingMode.PAE,) == layout_choice(["pae", "32bit"], (), "mode=pae").asked_modes
    assert (PagingMode.LEVEL4,) == layout_choice((), (), "mode=4level").asked_modes
    with pytest.raises(BadInput, match="leaves nothing in --mode 32bit"):
        layout_choice(["32bit"], (), "mode=pae")


def test_the_options_have_the_names_that_there_are():
    parse = MODE.settings["type"]
    assert tuple(mode.slug for mode in PagingMode) == parse("5level,4level,pae,32bit")
    assert tuple(ASSUMPTIONS) == ASSUME.settings["type"](",".join(ASSUMPTIONS))


def test_an_encryption_mask_leaves_32_bit_paging_out():
    choice = layout_choice(select="encryption_mask=0x800000000000")
    assert (PagingMode.PAE, PagingMode.LEVEL4, PagingMode.LEVEL5) == choice.asked_modes
    assert () == layout_choice(select="encryption_mask=0x0").asked_modes
