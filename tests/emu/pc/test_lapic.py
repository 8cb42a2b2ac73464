"""The local APIC, as a system's driver uses it."""

import pytest

from crosswalk.emu.pc.clock import TSC_HZ, Clock
from crosswalk.emu.pc.lapic import LAPIC_HZ, LocalApic

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, LINT0, ERROR, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
PERIODIC, MASKED = 0x2_0000, 0x1_0000
BY_1 = 0xB
CYCLES = TSC_HZ // LAPIC_HZ


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ended():
    return []


@pytest.fixture
def lapic(clock, ended):
    return LocalApic(clock, ended.append)


def put(lapic, offset, value):
    lapic.write(offset, 4, value)


def get(lapic, offset):
    return lapic.read(offset, 4)


def served(lapic):
    vectors = []
    while lapic.pending is not None:
        vectors.append(lapic.acknowledge())
        put(lapic, EOI, 0)
    return vectors


def test_firmware_leaves_it_enabled_with_the_8259s_passed_through(lapic):
    assert (0, 0x5_0014, 0x1FF) == (get(lapic, ID), get(lapic, VERSION), get(lapic, SVR))
    assert lapic.passes_extint
    put(lapic, LINT0, MASKED | 0x700)
    assert not lapic.passes_extint
    put(lapic, LINT0, 0x30)  # A vector of its own.
    assert not lapic.passes_extint


def test_the_highest_vector_is_served_first(lapic):
    for vector in (0x30, 0x81, 0x55):
        lapic.receive(vector)
    assert [0x81, 0x55, 0x30] == served(lapic)


def test_a_class_in_service_keeps_its_own_and_lower_ones_waiting(lapic):
    lapic.receive(0x51)
    assert 0x51 == lapic.acknowledge()
    lapic.receive(0x5F)
    assert (None, 0x50) == (lapic.pending, get(lapic, PPR))
    lapic.receive(0x60)
    assert 0x60 == lapic.acknowledge()
    put(lapic, EOI, 0)
    put(lapic, EOI, 0)
    assert 0x5F == lapic.pending


def test_the_task_priority_keeps_its_class_and_lower_ones_waiting(lapic):
    put(lapic, TPR, 0x50)
    lapic.receive(0x5A)
    assert (None, 0x50) == (lapic.pending, get(lapic, PPR))
    put(lapic, TPR, 0x4F)
    assert (0x5A, 0x4F) == (lapic.pending, get(lapic, PPR))


def test_requests_and_interrupts_in_service_are_bits_of_registers(lapic):
    lapic.receive(0x41)
    lapic.receive(0xFF, level=True)
    assert (1 << 1, 1 << 31) == (get(lapic, IRR + 0x20), get(lapic, IRR + 0x70))
    lapic.acknowledge()
    assert (0, 1 << 31, 1 << 31) == (
        get(lapic, IRR + 0x70),
        get(lapic, ISR + 0x70),
        get(lapic, TMR + 0x70),
    )


def test_only_a_level_triggered_interrupts_end_is_passed_on(lapic, ended):
    lapic.receive(0x40)
    lapic.receive(0x50, level=True)
    assert [0x50, 0x40] == served(lapic)
    assert [0x50] == ended


@pytest.mark.parametrize("shorthand", [1 << 18, 2 << 18], ids=["self", "all"])
def test_a_message_to_itself_arrives(lapic, shorthand):
    put(lapic, ICR, shorthand | 0x66)
    assert (0x66, 0) == (lapic.pending, get(lapic, ICR) & 0x1000)


def test_a_message_to_all_others_reaches_nobody(lapic):
    put(lapic, ICR, 3 << 18 | 0x66)
    assert None is lapic.pending


@pytest.mark.parametrize(
    ("target", "logical", "arrives"),
    [(0, False, True), (1, False, False), (0xFF, False, True), (4, True, True), (2, True, False)],
)
def test_a_message_goes_where_its_destination_says(lapic, target, logical, arrives):
    put(lapic, LDR, 0x0500_0000)
    put(lapic, ICR_HIGH, target << 24)
    put(lapic, ICR, 0x66 | logical << 11)
    assert arrives == (lapic.pending == 0x66)


def test_in_a_cluster_the_upper_half_of_a_destination_is_the_cluster(lapic):
    put(lapic, DFR, 0x0FFF_FFFF)
    put(lapic, LDR, 0x2100_0000)
    assert [True, False, False] == [
        lapic.accepts(target, logical=True) for target in (0x23, 0x31, 0x22)
    ]


@pytest.mark.parametrize("mode", [2, 5, 6], ids=["SMI", "INIT", "start-up"])
def test_messages_of_other_kinds_do_nothing(lapic, mode):
    put(lapic, ICR, 1 << 18 | mode << 8 | 0x66)
    assert (None, False) == (lapic.pending, lapic.nmi)


@pytest.mark.parametrize(("shorthand", "arrives"), [(1, True), (2, True), (3, False)])
def test_an_nmi_to_itself_waits_whatever_the_priorities_are(lapic, shorthand, arrives):
    put(lapic, TPR, 0xFF)
    put(lapic, ICR, shorthand << 18 | 4 << 8)
    assert (None, arrives) == (lapic.pending, lapic.nmi)


def test_an_illegal_vector_is_an_error_with_its_own_interrupt(lapic):
    put(lapic, ERROR, 0xFE)
    put(lapic, ICR, 1 << 18 | 0x0F)
    assert 0xFE == lapic.pending
    assert 0 == get(lapic, ESR)
    put(lapic, ESR, 0)
    assert 0x60 == get(lapic, ESR)
    put(lapic, ESR, 0)
    assert 0 == get(lapic, ESR)


def test_disabled_by_software_it_masks_its_table_and_takes_nothing(lapic):
    put(lapic, TIMER, 0x40)
    put(lapic, SVR, 0xFF)
    lapic.receive(0x40)
    assert (None, MASKED | 0x40) == (lapic.pending, get(lapic, TIMER))
    put(lapic, TIMER, 0x41)
    assert MASKED | 0x41 == get(lapic, TIMER)
    put(lapic, SVR, 0x1FF)
    put(lapic, TIMER, 0x42)
    assert 0x42 == get(lapic, TIMER)


def test_a_periodic_timer_fires_again_and_again(lapic, clock):
    put(lapic, DIVIDE, BY_1)
    put(lapic, TIMER, PERIODIC | 0x40)
    put(lapic, INITIAL, 10_000_000)
    for number in range(1, 4):
        assert number * 10_000_000 * CYCLES == lapic.next_fire
        clock.wait(lapic.next_fire)
        lapic.update()
        assert None is lapic.next_fire  # Until it is acknowledged.
        assert [0x40] == served(lapic)


def test_a_one_shot_fires_once_and_its_count_stays_at_0(lapic, clock):
    put(lapic, DIVIDE, BY_1)
    put(lapic, TIMER, 0x40)
    put(lapic, INITIAL, 1000)
    clock.wait(400 * CYCLES)
    lapic.update()
    assert (600, None) == (get(lapic, CURRENT), lapic.pending)
    clock.wait(5000 * CYCLES)
    lapic.update()
    assert (0, [0x40], None) == (get(lapic, CURRENT), served(lapic), lapic.next_fire)
    lapic.update()
    assert None is lapic.pending
    put(lapic, INITIAL, 1000)
    assert 6000 * CYCLES == lapic.next_fire


@pytest.mark.parametrize(
    ("code", "divisor"),
    [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)],
)
def test_the_timers_clock_is_divided(lapic, code, divisor):
    put(lapic, DIVIDE, code)
    put(lapic, TIMER, 0x40)
    put(lapic, INITIAL, 100)
    assert 100 * divisor * CYCLES == lapic.next_fire


def test_a_masked_timer_counts_and_asks_for_nothing(lapic, clock):
    put(lapic, DIVIDE, BY_1)
    put(lapic, TIMER, MASKED | PERIODIC | 0x40)
    put(lapic, INITIAL, 1000)
    assert None is lapic.next_fire
    clock.wait(1300 * CYCLES)
    lapic.update()
    assert (None, 700) == (lapic.pending, get(lapic, CURRENT))


def test_a_count_of_0_stops_the_timer(lapic, clock):
    put(lapic, TIMER, PERIODIC | 0x40)
    put(lapic, INITIAL, 1000)
    put(lapic, INITIAL, 0)
    clock.wait(1 << 40)
    lapic.update()
    assert (None, None, 0) == (lapic.next_fire, lapic.pending, get(lapic, CURRENT))


def test_parts_of_registers_can_be_read_and_not_written(lapic):
    assert (0x05, 0x0014) == (lapic.read(VERSION + 2, 1), lapic.read(VERSION, 2))
    lapic.write(TPR, 1, 0x50)
    assert (0, 0) == (get(lapic, TPR), lapic.read(VERSION + 4, 4))
