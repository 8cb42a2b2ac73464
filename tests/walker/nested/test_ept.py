"""The format of EPT entries, scalar and in bulk (Intel SDM vol. 3C, "EPT Misconfigurations")."""

from random import Random

import numpy as np
import pytest

from crosswalk.walker import SparseWords, StepKind
from crosswalk.walker.nested import EptCapability, EptContext, EptEntry
from crosswalk.walker.nested.ept import (
    EPT_LEVELS,
    Misconfigured,
    descend_ept,
    ept_present_bits,
    ept_reserved_bits,
    ept_uses,
    is_ept_leaf,
    misconfigured,
)
from crosswalk.walker.nested.ept_bulk import (
    ept_leaves_among,
    ept_types_of,
    ept_uses_of_entries,
)
from crosswalk.walker.protection.policy import Use
from tests.ept_tables import ALL, EPTP, IPAT, LARGE, WB, XU, EptTables, R, W, X
from tests.tables import GIB1, KIB4, MIB2

EVERY = EptCapability(sum(EptCapability))


def ept(**others):
    return EptContext.at(EPTP, **others)


def test_bits_are_those_of_the_manual():
    bits = {"R": 0, "W": 1, "X": 2, "IPAT": 6, "PS": 7, "A": 8, "D": 9, "XU": 10}
    bits |= {"VERIFY_PAGING": 57, "PAGING_WRITE": 58, "SUPERVISOR_SHADOW_STACK": 60}
    bits |= {"SUBPAGE_WRITE": 61, "SUPPRESS_VE": 63}
    assert {name: 1 << at for name, at in bits.items()} == {it.name: int(it) for it in EptEntry}


def test_levels_span_what_those_of_4_level_paging_do():
    spans = {1: KIB4, 2: MIB2, 3: GIB1, 4: 512 * GIB1, 5: 512 * 512 * GIB1}
    assert spans == {number: level.span for number, level in EPT_LEVELS.items()}
    names = [EPT_LEVELS[number].entry for number in (5, 4, 3, 2, 1)]
    assert ["EPT PML5E", "EPT PML4E", "EPT PDPTE", "EPT PDE", "EPT PTE"] == names


def test_an_entry_is_present_by_any_right_of_which_xu_is_one_under_mbec_alone():
    assert R | W | X == ept_present_bits(ept())
    assert R | W | X | XU == ept_present_bits(ept(mbec=True))


@pytest.mark.parametrize(
    ("level", "entry", "lacking", "leaf"),
    [
        (1, R, 0, True),
        (1, R | LARGE, 0, True),
        (2, R, 0, False),
        (2, R | LARGE, 0, True),
        (2, R | LARGE, EptCapability.PAGE_2M, False),
        (3, R | LARGE, EptCapability.PAGE_2M, True),
        (3, R | LARGE, EptCapability.PAGE_1G, False),
        (4, R | LARGE, 0, False),
        (5, R | LARGE, 0, False),
    ],
)
def test_bit_7_makes_a_page_where_the_processor_has_pages_of_that_size(level, entry, lacking, leaf):
    assert leaf == is_ept_leaf(ept(capabilities=EVERY & ~lacking), level, entry)


@pytest.mark.parametrize(
    ("level", "leaf", "bits"),
    [
        (5, False, range(3, 8)),
        (4, False, range(3, 8)),
        (3, False, range(3, 8)),
        (2, False, range(3, 8)),
        (3, True, range(12, 30)),
        (2, True, range(12, 21)),
        (1, True, ()),
    ],
)
@pytest.mark.parametrize("width", [36, 40, 52])
def test_reserved_are_bits_beyond_maxphyaddr_and_those_of_each_format(level, leaf, bits, width):
    expected = sum(1 << bit for bit in {*bits, *range(width, 52)})
    assert expected == ept_reserved_bits(ept(maxphyaddr=width), level, leaf=leaf)


@pytest.mark.parametrize("mbec", [False, True])
@pytest.mark.parametrize("execute_only", [False, True])
@pytest.mark.parametrize("rights", range(16))
def test_of_16_permissions_those_without_r_are_misconfigured_with_w_or_lacking_support(
    rights, mbec, execute_only
):
    host = ept(mbec=mbec, capabilities=EVERY if execute_only else EVERY & ~1)
    entry = rights & 7 | (rights & 8) << 7 | WB
    if not entry & ept_present_bits(host):
        return
    expected = None
    if rights & 3 == 2:
        expected = Misconfigured.WRITE_ONLY
    elif not rights & 1 and not execute_only:
        expected = Misconfigured.EXECUTE_ONLY
    assert expected == misconfigured(host, 1, entry)


@pytest.mark.parametrize("kind", range(8))
def test_memory_types_2_3_and_7_are_reserved_in_pages(kind):
    expected = Misconfigured.MEMORY_TYPE if kind in (2, 3, 7) else None
    for level, large in ((1, 0), (2, LARGE), (3, LARGE)):
        assert expected == misconfigured(ept(), level, R | kind << 3 | large)


@pytest.mark.parametrize("bit", range(3, 8))
def test_an_entry_of_a_table_has_no_type(bit):
    for level in (2, 3, 4, 5):
        if bit == 7 and level < 4:
            continue
        assert Misconfigured.RESERVED == misconfigured(ept(), level, ALL | 1 << bit)


@pytest.mark.parametrize("bit", [8, 9, 10, 11, *range(52, 64)])
def test_bits_of_what_is_off_are_ignored(bit):
    for level, entry in ((1, R | WB | IPAT), (2, R | WB | LARGE), (3, R), (5, R)):
        assert None is misconfigured(ept(), level, entry | 1 << bit)


def test_x_is_both_rights_to_execute_without_mbec_and_the_supervisors_with_it():
    both = Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE
    assert Use.READ | both == ept_uses(ept(), R | X)
    assert Use.READ == ept_uses(ept(), R | XU)
    assert Use.READ | Use.SUPERVISOR_EXECUTE == ept_uses(ept(mbec=True), R | X)
    assert Use.READ | Use.WRITE | Use.USER_EXECUTE == ept_uses(ept(mbec=True), R | W | XU)


def walked(space, gpa, **others):
    memory = SparseWords([(0, 1 << 24)], space.entries)
    return descend_ept(memory, ept(levels=space.levels, **others), gpa)


@pytest.mark.parametrize("levels", [4, 5])
def test_a_walk_has_an_entry_for_each_level_by_nine_bits_of_the_address(levels):
    gpa = 1 << 47 | 3 << 39 | 5 << 30 | 7 << 21 | 9 << 12 | 0x123
    path = walked(EptTables(levels).map(gpa & -KIB4, 0x5000), gpa)
    assert list(range(levels, 0, -1)) == [step.level for step in path.steps]
    at = [step.pa & 0xFFF for step in path.steps][-4:]
    assert [8 * (1 << 8 | 3), 8 * 5, 8 * 7, 8 * 9] == at
    assert [StepKind.TABLE] * (levels - 1) + [StepKind.LEAF] == [it.kind for it in path.steps]


@pytest.mark.parametrize(
    ("levels", "gpa", "steps"), [(4, 1 << 48, 0), (4, (1 << 48) - 1, 1), (5, 1 << 51, 1)]
)
def test_an_address_wider_than_the_tables_selects_no_entry(levels, gpa, steps):
    assert steps == len(walked(EptTables(levels), gpa).steps)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_what_ends_a_walk_is_looked_for_in_order(level):
    def ending(**change):
        space = EptTables().map(0, 0x4000_0000, level=1)
        return walked(space.change(0, level, **change), 0).steps[-1]

    assert (level, StepKind.NOT_PRESENT) == (ending(drop=ALL).level, ending(drop=ALL).kind)
    # Without a right nothing else of an entry is looked at.
    assert StepKind.NOT_PRESENT == ending(drop=ALL, add=1 << 45 | 7 << 3).kind
    assert StepKind.MISCONFIGURED == ending(drop=R).kind
    assert StepKind.MISCONFIGURED == ending(add=1 << 45).kind


def test_a_table_outside_ram_ends_the_walk():
    space = EptTables().map(0, 0)
    space.entries[EPTP] = 1 << 30 | ALL
    assert [StepKind.TABLE, StepKind.OUTSIDE] == [it.kind for it in walked(space, 0).steps]


def test_in_bulk_the_rules_are_the_same():
    random = Random(7)
    ends = [random.getrandbits(64) & random.getrandbits(64) & random.getrandbits(64)]
    ends += [random.getrandbits(11) | random.getrandbits(5) << 50 for _ in range(3000)]
    ends += [random.getrandbits(3) | 1 << random.randrange(64) for _ in range(2000)]
    for at, (mbec, lacking) in enumerate((on, it) for on in (0, 1) for it in (0, *EptCapability)):
        if lacking in (EptCapability.LENGTH_4, EptCapability.WB):
            continue
        host = ept(mbec=bool(mbec), capabilities=EVERY & ~lacking, maxphyaddr=36 + 4 * (at % 5))
        some = [entry for entry in ends if entry & ept_present_bits(host)]
        columns = np.array(some, np.uint64)
        uses = [ept_uses(host, entry) for entry in some]
        assert uses == ept_uses_of_entries(host, columns).tolist()
        assert [entry >> 3 & 7 for entry in some] == ept_types_of(columns).tolist()
        for level in range(1, 6):
            leaves = [is_ept_leaf(host, level, entry) for entry in some]
            assert leaves == ept_leaves_among(host, level, columns).tolist()
