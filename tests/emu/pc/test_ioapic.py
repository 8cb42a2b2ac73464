"""The I/O APIC, with the local one behind it."""

import pytest

from crosswalk.emu.pc.clock import Clock
from crosswalk.emu.pc.ioapic import IoApic, pin_of
from crosswalk.emu.pc.lapic import LocalApic

SELECT, WINDOW, EOI = 0x00, 0x10, 0xB0
MASKED, LEVEL, LOGICAL = 1 << 16, 1 << 15, 1 << 11


class Pair:
    def __init__(self):
        self.lapic = LocalApic(Clock(), self.ended)
        self.io = IoApic(self.lapic)

    def ended(self, vector):
        self.io.end_of_interrupt(vector)

    def put(self, index, value):
        self.io.write(SELECT, 4, index)
        self.io.write(WINDOW, 4, value)

    def get(self, index):
        self.io.write(SELECT, 1, index)
        return self.io.read(WINDOW, 4)

    def entry(self, pin, low, target=0):
        self.put(0x11 + 2 * pin, target << 24)
        self.put(0x10 + 2 * pin, low)

    def serve(self):
        vector = self.lapic.acknowledge()
        self.lapic.write(EOI, 4, 0)
        return vector


@pytest.fixture
def pair():
    return Pair()


def test_it_says_who_it_is_and_all_pins_are_masked(pair):
    assert (1 << 24, 0x17_0011, MASKED) == (pair.get(0), pair.get(1), pair.get(0x10 + 2 * 23))
    pair.put(0, 0x0500_0000)
    assert (0x0500_0000, 0) == (pair.get(0), pair.get(0x10 + 2 * 24))


def test_the_timer_has_pin_2_and_other_lines_their_own():
    assert [2, 1, 3, 15] == [pin_of(irq) for irq in (0, 1, 3, 15)]


def test_an_edge_is_one_message(pair):
    pair.entry(4, 0x34)
    pair.io.set_line(4, up=True)
    assert 0x34 == pair.serve()
    pair.io.set_line(4, up=True)
    assert None is pair.lapic.pending
    pair.io.set_line(4, up=False)
    pair.io.set_line(4, up=True)
    assert 0x34 == pair.serve()


def test_an_edge_at_a_masked_pin_is_lost(pair):
    pair.entry(4, MASKED | 0x34)
    pair.io.set_line(4, up=True)
    pair.entry(4, 0x34)
    assert (None, True) == (pair.lapic.pending, pair.io.enabled(4))


def test_a_level_is_sent_again_at_the_end_of_its_interrupt_while_it_is_up(pair):
    pair.entry(4, LEVEL | 0x34)
    pair.io.set_line(4, up=True)
    pair.io.set_line(4, up=True)
    assert 1 << 14 == pair.get(0x18) & 1 << 14  # Under way.
    assert not pair.io.enabled(4)
    assert 0x34 == pair.serve()
    assert 0x34 == pair.lapic.pending
    pair.io.set_line(4, up=False)
    pair.serve()
    assert (None, 0) == (pair.lapic.pending, pair.get(0x18) & 1 << 14)


def test_a_level_that_is_up_when_its_pin_is_unmasked_is_sent(pair):
    pair.io.set_line(4, up=True)
    pair.entry(4, LEVEL | 0x34)
    assert 0x34 == pair.lapic.pending


def test_a_message_for_another_processor_goes_nowhere(pair):
    pair.entry(4, 0x34, target=3)
    pair.io.set_line(4, up=True)
    assert None is pair.lapic.pending
    pair.lapic.write(0xD0, 4, 0x0200_0000)
    pair.entry(5, LOGICAL | 0x35, target=3)
    pair.io.set_line(5, up=True)
    assert 0x35 == pair.lapic.pending


@pytest.mark.parametrize("mode", [2, 4, 5, 7], ids=["SMI", "NMI", "INIT", "ExtINT"])
def test_other_kinds_of_messages_are_dropped(pair, mode):
    pair.entry(4, mode << 8 | 0x34)
    pair.io.set_line(4, up=True)
    assert (None, False) == (pair.lapic.pending, pair.io.enabled(4))


def test_pin_0_passes_the_8259s_on_where_it_is_programmed_so(pair):
    assert not pair.io.passes_extint
    pair.entry(0, 7 << 8)
    assert pair.io.passes_extint


def test_what_a_system_cant_write_stays(pair):
    pair.put(0x10, 0xFFFF_FFFF)
    assert 0x1_AFFF == pair.get(0x10)
    pair.put(0x11, 0xFFFF_FFFF)
    assert 0xFF00_0000 == pair.get(0x11)
