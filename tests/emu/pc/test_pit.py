"""The timer, programmed as systems program it; times by the data sheet."""

from itertools import pairwise

import pytest

from crosswalk.emu.pc.clock import TSC_HZ, Clock
from crosswalk.emu.pc.pit import Pit, SystemPort

HZ = 1_193_182


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pit(clock):
    return Pit(clock)


def program(pit, channel, mode, count):
    pit.write(3, channel << 6 | 0x30 | mode << 1)
    pit.write(channel, count & 0xFF)
    pit.write(channel, count >> 8)


def counter(pit, channel):
    pit.write(3, channel << 6)
    return pit.read(channel) | pit.read(channel) << 8


def go(clock, units):
    """Let so many of the timer's periods pass, from the beginning of one."""
    clock.now = -(-(clock.units(HZ) + units) * TSC_HZ // HZ)


def test_firmware_leaves_a_tick_of_18_hertz(clock, pit):
    assert pytest.approx(65536 / HZ, rel=1e-6) == pit.next_tick / TSC_HZ
    assert not pit.ticked()
    clock.now = pit.next_tick
    assert [True, False] == [pit.ticked(), pit.ticked()]


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_a_periodic_mode_ticks_each_time_its_count_is_through(clock, pit, mode):
    program(pit, 0, mode, 4773)  # 250 a second.
    moments = []
    for _ in range(3):
        clock.now = pit.next_tick
        moments.append(clock.now)
        assert pit.ticked()
    for before, after in pairwise(moments):
        assert pytest.approx(4773 / HZ, abs=1e-9) == (after - before) / TSC_HZ


@pytest.mark.parametrize("mode", [0, 4])
def test_a_mode_that_counts_once_ticks_once(clock, pit, mode):
    program(pit, 0, mode, 100)
    clock.now = pit.next_tick
    assert pit.ticked()
    assert None is pit.next_tick
    go(clock, 100_000)
    assert not pit.ticked()


def test_a_count_of_zero_is_the_longest(clock, pit):
    program(pit, 0, 2, 0)
    assert pytest.approx(65537 / HZ, rel=1e-4) == (pit.next_tick - clock.now) / TSC_HZ


def test_a_control_word_stops_the_ticks_until_a_count_comes(pit):
    pit.write(3, 0x34)
    assert None is pit.next_tick
    pit.write(0, 0x10)
    assert None is pit.next_tick
    pit.write(0, 0)
    assert isinstance(pit.next_tick, int)


@pytest.mark.parametrize(
    ("access", "value", "count"), [(1, 0x40, 0x40), (2, 0x40, 0x4000)], ids=["low", "high"]
)
def test_one_half_of_a_count_will_do(clock, pit, access, value, count):
    pit.write(3, access << 4 | 2 << 1)
    pit.write(0, value)
    assert pytest.approx(count + 1, abs=0.01) == (pit.next_tick - clock.now) * HZ / TSC_HZ


def test_a_counter_goes_down_by_the_mode(clock, pit):
    program(pit, 2, 0, 1000)
    pit.gate_2 = True
    go(clock, 100)
    assert 900 == counter(pit, 2)
    program(pit, 0, 2, 1000)
    go(clock, 1101)
    assert 900 == counter(pit, 0)
    program(pit, 0, 3, 1000)  # By two: half a period is high.
    go(clock, 101)
    assert 800 == counter(pit, 0)


def test_a_latched_count_stays_until_it_is_read(clock, pit):
    program(pit, 0, 2, 1000)
    go(clock, 11)
    pit.write(3, 0)
    go(clock, 100)
    assert 990 == pit.read(0) | pit.read(0) << 8
    assert 890 == counter(pit, 0)


def test_read_back_gives_the_status_first_and_then_the_count(clock, pit):
    program(pit, 0, 2, 1000)
    go(clock, 11)
    pit.write(3, 0xC2)
    assert 0xB4 == pit.read(0)  # OUT high, low and high byte, mode 2.
    assert 990 == pit.read(0) | pit.read(0) << 8
    pit.write(3, 0x30)
    pit.write(3, 0xE2)  # The status alone: a count is awaited, OUT low.
    assert 0x70 == pit.read(0)


def test_channel_2_counts_while_its_gate_is_open_and_port_61_shows_its_end(clock, pit):
    port = SystemPort(pit)
    program(pit, 2, 0, 1000)
    go(clock, 5000)
    assert 0 == port.read(0) & 0x21
    port.write(0, 1)
    go(clock, 999)
    assert 0x01 == port.read(0) & 0x21
    go(clock, 2)
    assert 0x21 == port.read(0) & 0x21


def test_a_closed_gate_stops_the_count_and_an_open_one_goes_on_with_it(clock, pit):
    pit.gate_2 = True
    program(pit, 2, 0, 1000)
    go(clock, 401)
    pit.gate_2 = False
    go(clock, 5000)
    assert 600 == counter(pit, 2)
    pit.gate_2 = True
    go(clock, 100)
    assert 500 == counter(pit, 2)


def test_a_one_shot_begins_with_the_gate_and_ends_high(clock, pit):
    program(pit, 2, 1, 500)
    go(clock, 5000)
    assert pit.out(2)
    pit.gate_2 = True
    go(clock, 400)
    assert not pit.out(2)
    go(clock, 102)
    assert pit.out(2)


def test_port_61_keeps_the_speaker_and_shows_refreshes(pit):
    port = SystemPort(pit)
    port.write(0, 2)
    seen = [port.read(0) for _ in range(4)]
    assert all(each & 0x03 == 0x02 for each in seen)
    assert {0, 0x10} == {each & 0x10 for each in seen[:2]}
