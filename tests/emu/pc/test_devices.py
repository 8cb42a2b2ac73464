"""What a driver of each device would see."""

import pytest

from crosswalk.emu.pc.devices import TSC_KHZ, Clock, Cmos, Pic, Ports, ResetLine, Uart, line_vector

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH = range(8)


@pytest.fixture
def sent():
    return bytearray()


@pytest.fixture
def uart(sent):
    return Uart(sent.append)


def test_the_uart_sends_and_is_always_ready(uart, sent):
    for byte in b"hello":
        assert 0x60 == uart.read(LSR) & 0x60
        uart.write(DATA, byte)
    assert b"hello" == sent


def test_the_uarts_divisor_is_behind_its_latch_and_nothing_is_sent(uart, sent):
    uart.write(LCR, 0x83)
    uart.write(DATA, 1)
    uart.write(IER, 2)
    assert (1, 2) == (uart.read(DATA), uart.read(IER))
    uart.write(LCR, 0x03)
    assert (0, 0, b"") == (uart.read(DATA), uart.read(IER), sent)


def test_the_uart_interrupts_when_it_may_and_reading_why_ends_it(uart):
    uart.write(IER, 0x02)
    assert not uart.interrupting  # OUT2 keeps it from the bus.
    uart.write(MCR, 0x08)
    assert uart.interrupting
    assert [0x02, 0x01] == [uart.read(IIR), uart.read(IIR)]
    assert not uart.interrupting
    uart.write(DATA, ord("x"))
    assert uart.interrupting
    uart.write(IER, 0x00)
    assert not uart.interrupting


def test_the_uart_has_fifos_where_they_are_enabled(uart):
    assert 0x01 == uart.read(IIR)
    uart.write(IIR, 0x01)
    assert 0xC1 == uart.read(IIR)


def test_the_uarts_loop_shows_its_own_outputs_and_sends_nothing(uart, sent):
    uart.write(MCR, 0x10 | 0x0A)  # RTS and OUT2 come back as CTS and DCD.
    uart.write(DATA, 0x55)
    assert (0x90, b"") == (uart.read(MSR) & 0xF0, sent)
    uart.write(MCR, 0)
    assert 0xB0 == uart.read(MSR)


def test_the_uarts_unused_bits_of_ier_and_mcr_read_as_zeros(uart):
    for register, kept in ((IER, 0x0F), (MCR, 0x1F), (SCRATCH, 0xFF)):
        uart.write(register, 0xFF)
        assert kept == uart.read(register)


def initialised(base):
    pic = Pic()
    for register, word in ((0, 0x11), (1, base), (1, 4), (1, 1)):
        pic.write(register, word)
    return pic


def test_a_pic_leads_lines_to_the_vectors_it_was_given():
    pic = initialised(0x30)
    assert [0x30, 0x34] == [pic.vector(0), pic.vector(4)]
    pic.write(1, 0b1_0000)
    assert (0b1_0000, 0x30, None) == (pic.read(1), pic.vector(0), pic.vector(4))


def test_a_pic_that_was_not_set_up_has_no_vectors():
    pic = Pic()
    pic.write(1, 0)
    assert None is pic.vector(0)


def test_lines_of_the_second_pic_come_through_the_first():
    first, second = initialised(0x30), initialised(0x38)
    assert (0x34, 0x3C) == (line_vector(first, second, 4), line_vector(first, second, 12))
    first.write(1, 1 << 2)
    assert None is line_vector(first, second, 12)


def test_the_cmos_clock_stands_at_the_beginning_of_2020_and_bytes_can_be_written():
    cmos = Cmos()

    def at(index):
        cmos.write(0, index | 0x80)
        return cmos.read(1)

    # Seconds, minutes, hours, day, month, year, century in BCD; status A, B, D.
    assert [0, 0, 0, 1, 1, 0x20, 0x20] == [at(i) for i in (0, 2, 4, 7, 8, 9, 0x32)]
    assert (0, 0x02, 0x80) == (at(0x0A) & 0x80, at(0x0B), at(0x0D))
    cmos.write(0, 0x40)
    cmos.write(1, 0x99)
    assert (0x99, 0) == (at(0x40), at(0x41))


def test_time_passes_by_reading_it_and_by_waiting():
    clock = Clock()
    assert [TSC_KHZ // 1000, 2 * TSC_KHZ // 1000] == [clock.stamp(), clock.stamp()]
    for register, value in ((3, 0x34), (0, 0xA5), (0, 0x12)):  # 4,773 of 1,193,182 Hz: 4 ms.
        clock.write(register, value)
    before = clock.stamp()
    clock.wait()
    first = clock.stamp()
    clock.wait()
    assert 8_000_000 == pytest.approx(clock.stamp() - first, abs=10_000)
    assert 0 < first - before < 8_010_000


def test_a_count_of_zero_is_the_longest_period():
    clock = Clock()
    for register, value in ((3, 0x34), (0, 0), (0, 0)):
        clock.write(register, value)
    clock.wait()
    first = clock.stamp()
    clock.wait()
    assert TSC_KHZ * 54.925 == pytest.approx(clock.stamp() - first, rel=1e-3)


def test_nobodys_ports_read_as_all_ones_and_wide_accesses_are_bytes():
    ports = Ports()
    cmos = Cmos()
    ports.attach(cmos, 0x70, 0x71)
    ports.write(0x70, 2, 0xAB40)
    ports.write(0x100, 4, 0)
    assert (0xFFFF_ABFF, 0xFF, 0xFFFF_FFFF) == (
        ports.read(0x70, 4),
        ports.read(0x72, 1),
        ports.read(0x100, 4),
    )


def test_the_reset_line_is_pulled_by_one_command_alone():
    pulled = []
    line = ResetLine(lambda: pulled.append(True))
    for command in (0x00, 0xAD, 0xFF):
        line.write(0, command)
    assert [] == pulled
    line.write(0, 0xFE)
    assert [True] == pulled
