from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.intended import mismatches
from crosswalk.emu.load.guest import boot
from crosswalk.guest.builder import build_image
from crosswalk.guest.intended import Faulting, Intended
from crosswalk.walker.memory import Segments
from tests.tables import OPEN, RW, XD, P, PageTables, context

PAGE = Intended("data", 0x40_0000, 0x8000, 4096, 2, "rw-", "---")
HOLE = Faulting("hole", 0x80_0000, 4096)


def built():
    return PageTables().map(0x40_0000, 0x8000, P | RW | XD).map(0x40_1000, 0x9000, P | RW | XD)


def broken(builder, intended=(PAGE,), faulting=(HOLE,), **switches):
    return mismatches(builder.memory, context(**switches), intended, faulting)


@pytest.mark.parametrize("levels", [4, 5])
def test_the_guest_is_as_it_was_meant(levels, guest4, guest5):
    guest = guest4 if levels == 4 else guest5
    intended = guest.image.resolve_intended(guest.status)
    assert len(intended) > 50
    assert [] == mismatches(guest.memory, guest.context, intended, guest.image.faulting)


@pytest.fixture(scope="module")
def flipped():
    """A guest of this module's own, whose tables may be changed."""
    return boot(build_image(4))


@pytest.mark.parametrize("bit", [1, 2, 63], ids=["R/W", "U/S", "XD"])
def test_one_wrong_right_in_the_guests_tables_is_noticed(flipped, bit):
    (table,) = (t.pa for t in flipped.status.tables if (t.level, t.va >> 12) == (1, (1 << 52) - 1))
    words = flipped.ram.words
    before = words[table // 8 + 511]
    words[table // 8 + 511] ^= np.uint64(1 << bit)
    lines = mismatches(
        Segments([(0, flipped.ram.bytes)]),
        flipped.context,
        flipped.image.resolve_intended(flipped.status),
        flipped.image.faulting,
    )
    words[table // 8 + 511] = before
    assert 1 == len(lines)
    assert lines[0].startswith("0xfffffffffffff000: 0x1000 bytes of 0x")
    assert "is intended (last page)" in lines[0]


def test_what_is_as_meant_leaves_no_line():
    assert [] == broken(built())


def test_a_missing_page_is_noticed():
    builder = built()
    del builder.words[builder.entry_pa(0x40_1000, 1)]
    assert [
        "0x401000: 0x1000 bytes of 0x9000 rw- --- is intended (data), no page is mapped"
    ] == broken(builder)


def test_a_page_that_nobody_meant_is_noticed():
    assert [
        "0x600000: no page is intended (nothing), 0x1000 bytes of 0xa000 r-x r-x is mapped"
    ] == broken(built().map(0x60_0000, 0xA000, OPEN & ~RW))


def test_another_frame_is_noticed():
    (line,) = broken(built().map(0x40_1000, 0xA000, P | RW | XD))
    assert "0x1000 bytes of 0xa000 rw- --- is mapped" in line


def test_another_page_size_is_noticed():
    large = replace(PAGE, pa=0x20_0000, count=1)
    (line,) = broken(PageTables().map(0x40_0000, 0x20_0000, P | RW | XD | 0x80, level=2), (large,))
    assert "0x200000 bytes of 0x200000" in line


def test_a_range_that_does_not_fault_as_meant_is_noticed():
    builder = built().map(0x80_0000, 0xA000, P)
    meant = (PAGE, replace(PAGE, va=0x80_0000, pa=0xA000, count=1, supervisor="r-x"))
    (line,) = broken(builder, meant)
    assert line.startswith("0x800000: a fault is intended (hole), Translation(")


def test_a_reserved_bit_has_to_be_the_cause_where_it_was_meant_to_be():
    reserved = built().map(0x80_0000, 0xA000, P | 1 << 51)
    assert [] == broken(reserved, faulting=(replace(HOLE, reserved=True),))
    (line,) = broken(reserved)
    assert "a fault is intended (hole), PageFault(error_code=9" in line
    (line,) = broken(built(), faulting=(replace(HOLE, reserved=True),))
    assert "PageFault(error_code=0" in line


def test_rights_depend_on_the_control_registers():
    assert 2 == len(broken(built(), nxe=False))
