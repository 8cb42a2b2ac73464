"""CMOS memory: the clock, and what firmware leaves there."""

import pytest

from crosswalk.emu.pc.clock import TSC_HZ, Clock
from crosswalk.emu.pc.cmos import Cmos

MIB, GIB = 1 << 20, 1 << 30
HOLE = 0xFEC0_0000


@pytest.fixture
def clock():
    return Clock()


def made(clock, ram=64 * MIB):
    return Cmos(clock, ram, HOLE)


def at(cmos, index):
    cmos.write(0, index | 0x80)
    return cmos.read(1)


def word(cmos, index):
    return at(cmos, index) | at(cmos, index + 1) << 8


def test_the_clock_begins_with_2020_and_goes_by_the_machines_time(clock):
    cmos = made(clock)
    # Seconds, minutes, hours, weekday, day, month, year, century in BCD; the first day was a
    # Wednesday.
    fields = (0, 2, 4, 6, 7, 8, 9, 0x32)
    assert [0, 0, 0, 4, 1, 1, 0x20, 0x20] == [at(cmos, each) for each in fields]
    clock.now = TSC_HZ * (86400 * 31 + 3600 * 13 + 60 * 25 + 59)
    assert [0x59, 0x25, 0x13, 7, 1, 2, 0x20, 0x20] == [at(cmos, each) for each in fields]


def test_the_clock_is_binary_where_that_is_asked_for(clock):
    cmos = made(clock)
    clock.now = TSC_HZ * 59
    cmos.write(0, 0x0B)
    cmos.write(1, 0x06)
    assert (59, 20) == (at(cmos, 0), at(cmos, 9))


def test_an_update_is_announced_at_the_end_of_each_second(clock):
    cmos = made(clock)
    seen = []
    for now in (0, TSC_HZ // 2, TSC_HZ - TSC_HZ * 2200 // 1_000_000, TSC_HZ - 1, TSC_HZ):
        clock.now = now
        seen.append(at(cmos, 0x0A) >> 7)
    assert [0, 0, 1, 1, 0] == seen


def test_the_states_say_24_hours_a_good_battery_and_no_interrupt(clock):
    cmos = made(clock)
    assert (0x26, 0x02, 0, 0x80) == tuple(at(cmos, each) for each in (0x0A, 0x0B, 0x0C, 0x0D))
    for index in (0x0C, 0x0D):
        cmos.write(0, index)
        cmos.write(1, 0x55)
    assert (0, 0x80) == (at(cmos, 0x0C), at(cmos, 0x0D))


@pytest.mark.parametrize(
    ("ram", "extended", "above_16_mib", "above_4_gib"),
    [
        (MIB, 0, 0, 0),
        (16 * MIB, 15 * 1024, 0, 0),
        (64 * MIB, 63 * 1024, 48 * 16, 0),
        (512 * MIB, 0xFFFF, 496 * 16, 0),
        (5 * GIB, 0xFFFF, (HOLE - 16 * MIB) >> 16, 0x4000),
    ],
)
def test_the_sizes_of_memory_are_where_firmware_leaves_them(
    clock, ram, extended, above_16_mib, above_4_gib
):
    cmos = made(clock, ram)
    assert (639, extended, extended) == (word(cmos, 0x15), word(cmos, 0x17), word(cmos, 0x30))
    assert (above_16_mib, above_4_gib) == (word(cmos, 0x34), word(cmos, 0x5B))


def test_other_bytes_are_memory_and_the_selection_cant_be_read(clock):
    cmos = made(clock)
    cmos.write(0, 0x40)
    cmos.write(1, 0x99)
    assert (0x99, 0, 0xFF) == (at(cmos, 0x40), at(cmos, 0x41), cmos.read(0))
