"""What a driver of the UART would see."""

import pytest

from crosswalk.emu.pc.uart import Uart

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
