import pytest

from crosswalk.walker import GeneralProtection, PageFault, Rights, StepKind, Translation, walk
from tests.tables import (
    EXECUTE,
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    READ,
    ROOT,
    USED,
    WRITE,
    P,
    PageTables,
    context,
    linear,
)

LOW = 0x0000_1234_5678_9000
LEVELS = pytest.mark.parametrize("levels", [4, 5])
LAST = {
    4: (0x0000_7FFF_FFFF_F000, 0xFFFF_8000_0000_0000),
    5: (0x00FF_FFFF_FFFF_F000, 0xFF00_0000_0000_0000),
}


def steps_of(tables, va, **switches):
    found = walk(tables.memory, context(tables.mode, **switches), va)
    return [(step.level, step.pa, step.entry, step.kind.value) for step in found.steps]


@LEVELS
@pytest.mark.parametrize("offset", [0, 1, 0xABC, 0xFFF])
def test_an_offset_in_a_page_is_the_same_in_its_frame(levels, offset):
    tables = PageTables(levels).map(LOW, 0x5000)
    assert 0x5000 + offset == tables.ask(LOW + offset).pa


@LEVELS
@pytest.mark.parametrize(
    ("level", "size", "pa"), [(1, KIB4, 0x5000), (2, MIB2, 0x60_0000), (3, GIB1, 0x8000_0000)]
)
def test_a_page_of_each_size_maps_its_first_and_last_byte(levels, level, size, pa):
    va = 0x0000_1234_4000_0000
    tables = PageTables(levels).map(
        va, pa, USED | (PS if level > 1 else 0), level=level, upper=USED
    )

    every = Rights(63)
    assert Translation(pa, size, every) == tables.ask(va)
    assert Translation(pa + size - 1, size, every) == tables.ask(va + size - 1)
    assert PageFault(0, va + size) == tables.ask(va + size)
    assert PageFault(0, va - 1) == tables.ask(va - 1)


@LEVELS
def test_the_pages_beside_the_hole_translate_and_the_hole_does_not(levels):
    low, high = LAST[levels]
    tables = PageTables(levels).map(low, 0x5000).map(high, 0x6000)

    assert 0x5FFF == tables.ask(low + 0xFFF).pa
    assert 0x6000 == tables.ask(high).pa
    for access in (READ, WRITE, EXECUTE):
        for va in (low + 0x1000, high - 1, 1 << 63):
            for cpl in (0, 3):
                assert GeneralProtection() == tables.ask(va, access, cpl)


@LEVELS
def test_the_last_page_of_the_address_space_translates(levels):
    tables = PageTables(levels).map(0xFFFF_FFFF_FFFF_F000, 0x5000)

    assert 0x5FFF == tables.ask((1 << 64) - 1).pa
    assert 0x5000 == tables.ask(0xFFFF_FFFF_FFFF_F000).pa


def test_an_address_of_57_bits_is_canonical_or_not_by_la57_alone():
    tables = PageTables(5).map(0x0001_0000_0000_0000, 0x5000)

    assert 0x5000 == tables.ask(0x0001_0000_0000_0000).pa
    assert GeneralProtection() == tables.ask(0x0001_0000_0000_0000, mode=4)


@LEVELS
def test_a_walk_shows_every_entry_from_the_root_down(levels):
    va = linear(*(1, 2, 3, 4, 5)[-levels:])
    tables = PageTables(levels).map(va, 0x9000, P | 0x200)

    frames = [ROOT + at * KIB4 for at in range(levels)]
    expected = [
        (level, frame + 8 * (6 - level), frame + KIB4 | OPEN, "table")
        for level, frame in zip(range(levels, 1, -1), frames, strict=False)
    ]
    assert [*expected, (1, frames[-1] + 40, 0x9201, "leaf")] == steps_of(tables, va)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (0, "not present"),
        (0xFFFF_FFFF_FFFF_FFFE, "not present"),
        (1 << 40 | OPEN, "reserved bit set"),
        (0x5000 | OPEN, "leaf"),
    ],
)
def test_a_walk_says_how_it_ends(entry, kind):
    tables = PageTables().map(LOW, 0)
    place = tables.entry_pa(LOW, 1)
    tables.words[place] = entry

    steps = steps_of(tables, LOW)
    assert (1, place, entry, kind) == steps[-1]
    assert ["table"] * 3 == [step[3] for step in steps[:-1]]


def test_only_a_walk_that_reaches_a_page_has_a_leaf():
    tables = PageTables().map(LOW, 0x60_0000, OPEN | PS, level=2)
    found = walk(tables.memory, context(), LOW)

    assert (2, StepKind.LEAF) == (found.leaf.level, found.leaf.kind)
    assert 3 == len(found.steps)
    assert None is walk(tables.memory, context(), 0).leaf


def test_an_address_in_the_hole_has_no_steps():
    found = walk(PageTables().map(LOW, 0).memory, context(), 1 << 47)
    assert ((), None) == (found.steps, found.leaf)


@LEVELS
@pytest.mark.parametrize("outside", [0x100_0000, 0x80_0000_0000 - 0x1000])
def test_a_table_outside_ram_reads_as_not_present(levels, outside):
    for level in range(2, levels + 1):
        tables = PageTables(levels).map(LOW, 0x5000, upper=USED)
        place = tables.entry_pa(LOW, level)
        tables.words[place] = outside | USED

        assert PageFault(6, LOW + 5) == tables.ask(LOW + 5, WRITE, 3)
        assert "outside RAM" == steps_of(tables, LOW)[-1][3]
        assert levels - level + 2 == len(steps_of(tables, LOW))


def test_a_root_outside_ram_reads_as_not_present():
    tables = PageTables(ram=((0, 0x1000),))

    assert PageFault(0, 0) == tables.ask(0)
    assert [(4, ROOT, 0, "outside RAM")] == steps_of(tables, 0)


def test_a_page_outside_ram_translates_all_the_same():
    tables = PageTables().map(LOW, 0xFF_FFFF_F000)
    assert 0xFF_FFFF_FFFF == tables.ask(LOW + 0xFFF).pa


@pytest.mark.parametrize("low_bits", [0, 0x18, 0xFFF])
def test_the_root_is_found_whatever_the_low_bits_of_cr3(low_bits):
    tables = PageTables().map(LOW, 0x5000)
    assert 0x5000 == tables.ask(LOW, root=ROOT | low_bits).pa


def test_bit_7_of_a_pte_is_pat_and_changes_nothing():
    tables = PageTables().map(LOW, 0x5000, OPEN | PS)
    assert (0x5000, KIB4) == (tables.ask(LOW).pa, tables.ask(LOW).page_size)


@pytest.mark.parametrize("size", [MIB2, GIB1])
def test_bit_12_of_a_large_page_is_pat_and_no_address(size):
    level = 2 if size == MIB2 else 3
    tables = PageTables().map(0, size, OPEN | PS | 1 << 12, level=level)
    assert (size, size) == (tables.ask(0).pa, tables.ask(0).page_size)


def test_a_recursive_entry_shows_the_tables_as_pages():
    tables = PageTables().map(LOW, 0x5000)
    tables.words[ROOT + 8 * 510] = ROOT | OPEN

    assert ROOT == tables.ask(linear(510, 510, 510, 510)).pa
    first = linear(510, 510, 510, *indices(LOW)[:1])
    assert tables.entry_pa(LOW, 3) & -KIB4 == tables.ask(first).pa
    last = linear(510, *indices(LOW)[:3])
    assert tables.entry_pa(LOW, 1) & -KIB4 == tables.ask(last).pa


def indices(va):
    return [va >> shift & 511 for shift in (39, 30, 21, 12)]
