"""What single accesses come to; every expectation is stated by hand, from the manuals."""

import pytest

from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.accesses import every, execute, observe, read, write
from tests.tables import GIB1, MIB2, OPEN, PAT_LARGE, PS, RW, US, XD, A, D, P, PageTables, context

VA = 0x40_0000
OK = "ok"


def outcome_of(found):
    return found.error_code if isinstance(found, PageFault) else OK


def key(number):
    return number << 59


# Of each page: read, write, execute at CPL 0, then at CPL 3. A number is a fault's error code.
RIGHTS = [
    ("supervisor, all", P | RW, {}, (OK, OK, OK, 0x5, 0x7, 0x15)),
    ("supervisor, read-only", P, {}, (OK, 0x3, OK, 0x5, 0x7, 0x15)),
    ("supervisor, no-execute", P | RW | XD, {}, (OK, OK, 0x11, 0x5, 0x7, 0x15)),
    ("user, all", OPEN, {}, (OK, OK, OK, OK, OK, OK)),
    ("user, read-only", P | US, {}, (OK, 0x3, OK, OK, 0x7, OK)),
    ("user, no-execute", OPEN | XD, {}, (OK, OK, 0x11, OK, OK, 0x15)),
    ("WP clear", P, {"wp": False}, (OK, OK, OK, 0x5, 0x7, 0x15)),
    ("WP clear, user", P | US, {"wp": False}, (OK, OK, OK, OK, 0x7, OK)),
    ("SMEP", OPEN, {"smep": True}, (OK, OK, 0x11, OK, OK, OK)),
    ("SMAP", OPEN, {"smap": True}, (0x1, 0x3, OK, OK, OK, OK)),
    ("SMEP, supervisor page", P, {"smep": True, "smap": True}, (OK, 0x3, OK, 0x5, 0x7, 0x15)),
    ("NXE clear", P | US, {"nxe": False}, (OK, 0x3, OK, OK, 0x7, OK)),
    ("NXE clear, supervisor", P, {"nxe": False}, (OK, 0x3, OK, 0x5, 0x7, 0x5)),
    ("NXE clear, XD", OPEN | XD, {"nxe": False}, (0x9, 0xB, 0x9, 0xD, 0xF, 0xD)),
    ("SMEP without NXE", P, {"nxe": False, "smep": True}, (OK, 0x3, OK, 0x5, 0x7, 0x15)),
    ("not present", OPEN & ~P, {}, (0x0, 0x2, 0x10, 0x4, 0x6, 0x14)),
    ("reserved", OPEN | 1 << 40, {}, (0x9, 0xB, 0x19, 0xD, 0xF, 0x1D)),
    ("not present, reserved", RW | 1 << 40, {}, (0x0, 0x2, 0x10, 0x4, 0x6, 0x14)),
    ("key, access-disable", OPEN | key(3), {"pke": True, "pkru": 1 << 6},
     (0x21, 0x23, OK, 0x25, 0x27, OK)),
    ("key, write-disable", OPEN | key(15), {"pke": True, "pkru": 2 << 30},
     (OK, 0x23, OK, OK, 0x27, OK)),
    ("key, write-disable, WP clear", OPEN | key(15), {"pke": True, "pkru": 2 << 30, "wp": False},
     (OK, OK, OK, OK, 0x27, OK)),
    ("key of a supervisor page", P | RW | key(3), {"pke": True, "pkru": 0xFFFF_FFFF},
     (OK, OK, OK, 0x5, 0x7, 0x15)),
    ("every key denied", OPEN, {"pke": True, "pkru": 0xFFFF_FFFF},
     (0x21, 0x23, OK, 0x25, 0x27, OK)),
    ("keys without PKE", OPEN | key(3), {"pkru": 0xFFFF_FFFF}, (OK, OK, OK, OK, OK, OK)),
]  # fmt: skip


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(
    ("flags", "switches", "expected"),
    [row[1:] for row in RIGHTS],
    ids=[row[0] for row in RIGHTS],
)
def test_rights_and_error_codes_are_those_of_the_manual(flags, switches, expected, levels):
    memory = PageTables(levels).map(VA, 0x8000, flags).memory
    found = observe(memory, context(levels, **switches), *every(VA))
    assert expected == tuple(outcome_of(each) for each in found)


def test_ac_lifts_smap_for_data_of_the_supervisor():
    memory = PageTables().map(VA, 0x8000, OPEN).memory
    found = observe(memory, context(smap=True), read(VA, ac=True), write(VA, ac=True), read(VA, 3))
    assert [OK, OK, OK] == [outcome_of(each) for each in found]


def test_every_key_denied_leaves_the_probe_able_to_work_in_user_mode():
    memory = PageTables().map(VA, 0x8000, P | US).memory
    denied = context(pke=True, pkru=0xFFFF_FFFF, smap=True, smep=True)
    assert [0x25, 0x27, OK] == [
        outcome_of(each)
        for each in observe(memory, denied, read(VA, 3), write(VA, 3), execute(VA, 3))
    ]


@pytest.mark.parametrize("make", [read, write, execute], ids=lambda make: make.__name__)
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("offset", [0, 1, 7, 8, 0x123, 0xFF8, 0xFFF])
def test_the_page_itself_says_where_the_access_went(make, cpl, offset):
    memory = PageTables().map(VA, 0x8000).map(VA + 0x1000, 0xA000).memory
    va = VA + offset
    (found,) = observe(memory, context(), make(va, cpl))
    assert 0x8000 + offset == found.pa


@pytest.mark.parametrize("make", [read, write, execute], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("level", "pa", "extra"),
    [(2, 4 * MIB2, 0), (2, 4 * MIB2, PAT_LARGE), (3, 0, 0), (3, 0, PAT_LARGE)],
    ids=["2 MiB", "2 MiB with PAT", "1 GiB", "1 GiB with PAT"],
)
def test_an_address_inside_a_large_page_keeps_its_offset(make, level, pa, extra):
    memory = PageTables(ram=((0, 1 << 25),)).map(GIB1, pa, OPEN | PS | extra, level=level).memory
    for offset in (0, 0x1FFF, 0x15_5678, MIB2 - 1):
        (found,) = observe(memory, context(), make(GIB1 + offset))
        assert pa + offset == found.pa


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("levels", [4, 5])
def test_addresses_that_are_not_canonical_raise_general_protection(levels, cpl):
    half = 1 << (11 + 9 * levels)
    memory = PageTables(levels).map(half - 0x1000, 0x8000).memory
    for va in (half, (1 << 64) - half - 1, 1 << 63, (half - 1) ^ 1 << 63):
        found = observe(memory, context(levels), read(va, cpl), write(va, cpl), execute(va, cpl))
        assert [GeneralProtection()] * 3 == found
    assert isinstance(observe(memory, context(levels), read(half - 1))[0], Translation)


def test_cr2_is_the_whole_address():
    memory = PageTables().memory
    vas = (0x1, 0xFFF, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0123, (1 << 64) - 1)
    found = observe(memory, context(), *(read(va, 3) for va in vas))
    assert [PageFault(0x4, va) for va in vas] == found


def four_words(leaf):
    """Tables at 0x1000..0x4000 that map VA 0 by one entry each, with nothing marked."""
    return PageTables().map(0, 0x8000, leaf)


def test_a_read_marks_every_entry_accessed_and_no_other_bit():
    builder = four_words(OPEN)
    marked = tuple((pa, word | A) for pa, word in sorted(builder.words.items()))
    assert [Translation(0x8000, entries=marked)] * 2 == observe(
        builder.memory, context(), read(0), execute(0, 3)
    )


def test_a_write_marks_the_leaf_dirty_as_well():
    builder = four_words(OPEN)
    *upper, leaf = sorted(builder.words.items())
    marked = (*((pa, word | A) for pa, word in upper), (leaf[0], leaf[1] | A | D))
    assert [Translation(0x8000, entries=marked)] == observe(builder.memory, context(), write(0))


def test_what_is_marked_already_does_not_change():
    builder = PageTables().map(0, 0x8000, OPEN | A, upper=OPEN | A)
    ((leaf, word),) = [item for item in builder.words.items() if item[1] >> 12 == 8]
    assert [Translation(0x8000), Translation(0x8000, entries=((leaf, word | D),))] == observe(
        builder.memory, context(), read(0), write(0)
    )


@pytest.mark.parametrize("flags", [P | US, OPEN & ~P, OPEN | 1 << 45], ids=["R/W", "P", "reserved"])
def test_a_fault_leaves_its_last_entry_alone(flags):
    builder = four_words(flags)
    leaf = max(builder.words)
    (found,) = observe(builder.memory, context(), write(0))
    assert isinstance(found, PageFault)
    assert leaf not in dict(found.entries)
    assert {pa: word | A for pa, word in builder.words.items() if pa != leaf} == dict(found.entries)


def test_the_dirty_bit_of_a_large_page_is_set_in_its_own_entry():
    builder = PageTables().map(0, MIB2, OPEN | PS | A, level=2, upper=OPEN | A)
    leaf = max(builder.words)
    (found,) = observe(builder.memory, context(), write(0x1234))
    assert Translation(MIB2 + 0x1234, entries=((leaf, builder.words[leaf] | D),)) == found
