"""The devices of a PC: as many, and as much of each, as an operating system needs to boot.

Each has registers of one byte at consecutive I/O ports. Sources: the data sheets of the MC146818
("Address map"), the 8259A ("Initialization and operation command words") and the PC16550D
(section 8, registers).
"""

from collections.abc import Callable
from typing import Protocol

__all__ = [
    "CMOS_PORTS",
    "PIC_PORTS",
    "PIT_PORTS",
    "RESET_PORT",
    "TSC_KHZ",
    "UART_IRQ",
    "UART_PORTS",
    "Clock",
    "Cmos",
    "DebugExit",
    "Device",
    "Pic",
    "Ports",
    "ResetLine",
    "Uart",
    "line_vector",
]

TSC_KHZ = 2_000_000
"""The rate of the time-stamp counter, in kHz."""

PIT_PORTS = (0x40, 0x41, 0x42, 0x43)
PIT_HZ = 1_193_182
_CHANNEL_0, _TIMER_CONTROL = 0, 3
_STAMP_STEP = TSC_KHZ // 1000

CMOS_PORTS = (0x70, 0x71)
_CMOS_INDEX = 0
# Index: value. Weekday, day, month, year and century in BCD; 24 hours; the battery is good.
_CMOS_CONTENT = {0x06: 0x04, 0x07: 0x01, 0x08: 0x01, 0x09: 0x20, 0x32: 0x20} | {
    0x0A: 0x26,
    0x0B: 0x02,
    0x0D: 0x80,
}

PIC_PORTS = ((0x20, 0x21), (0xA0, 0xA1))
_PIC_COMMAND = 0
_INITIALISE, _FOURTH_WORD = 0x10, 0x01  # of the first word
_CASCADE_LINE = 2  # the line of the first controller that the second one uses
_PIC_LINES = 8

RESET_PORT = 0x64
_PULSE = 0xFE

UART_PORTS = tuple(range(0x3F8, 0x400))
UART_IRQ = 4

_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCRATCH = range(8)
_DLAB = 0x80  # of LCR
_THRE_ENABLED = 0x02  # of IER
_NONE_PENDING, _THRE_PENDING, _FIFOS_ON = 0x01, 0x02, 0xC0  # of IIR
_OUT2, _LOOP = 0x08, 0x10  # of MCR
_IDLE_AND_EMPTY = 0x60  # of LSR
_CONNECTED = 0xB0  # of MSR: CTS, DSR, DCD


class Device(Protocol):
    """Something with registers of one byte at consecutive ports."""

    def read(self, register: int) -> int:
        """Return the byte that the register shows."""
        ...

    def write(self, register: int, value: int) -> None:
        """Take a byte written to the register."""
        ...


class Ports:
    """All 65,536 I/O ports, byte by byte; a port without a device reads as all ones."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Device, int]] = {}

    def attach(self, device: Device, *ports: int) -> None:
        """Give `device` these ports, as its registers from 0 on."""
        for register, port in enumerate(ports):
            self._owners[port] = (device, register)

    def answers(self, port: int) -> bool:
        """Return whether a device has the port."""
        return port in self._owners

    def read(self, port: int, size: int) -> int:
        """Return `size` bytes from `port` on, the first one the lowest."""
        return sum(self._byte(port + at) << 8 * at for at in range(size))

    def write(self, port: int, size: int, value: int) -> None:
        """Write `size` bytes from `port` on, the lowest one first."""
        for at in range(size):
            owner = self._owners.get(port + at)
            if owner is not None:
                device, register = owner
                device.write(register, value >> 8 * at & 0xFF)

    def _byte(self, port: int) -> int:
        owner = self._owners.get(port)
        if owner is None:
            return 0xFF
        device, register = owner
        return device.read(register)


class Clock:
    """The time-stamp counter, and channel 0 of an 8254 timer that ticks by it.

    Time depends on what the guest does, not on the host's clock: each reading of the counter takes
    1 µs, a wait lasts until the timer's next tick, and other instructions take no time. The
    timer's registers are write-only; its period is the last count written, low byte, then high
    byte, in any mode.
    """

    def __init__(self) -> None:
        self._now = 0
        self._next = 0
        self._count = 0x10000
        self._low: int | None = None

    def stamp(self) -> int:
        """Return the time-stamp counter, which has gone on by one reading."""
        self._now += _STAMP_STEP
        return self._now

    def wait(self) -> None:
        """Let time pass until the timer's next tick."""
        period = self._count * TSC_KHZ * 1000 // PIT_HZ
        self._next = max(self._next + period, self._now)
        self._now = self._next

    def read(self, _register: int) -> int:
        """Return all ones."""
        return 0xFF

    def write(self, register: int, value: int) -> None:
        """Take a control word or half a count of channel 0; the other channels do nothing."""
        if register == _TIMER_CONTROL:
            self._low = None
        elif register == _CHANNEL_0 and self._low is None:
            self._low = value
        elif register == _CHANNEL_0:
            self._count = (value << 8 | (self._low or 0)) or 0x10000
            self._low = None


class Cmos:
    """CMOS memory and its clock, which stands still at the beginning of 2020.

    Register 0 selects one of 128 bytes, register 1 is that byte.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(128)
        for index, value in _CMOS_CONTENT.items():
            self._bytes[index] = value
        self._index = 0

    def read(self, register: int) -> int:
        """Return the selected byte; the selection itself can't be read."""
        return 0xFF if register == _CMOS_INDEX else self._bytes[self._index]

    def write(self, register: int, value: int) -> None:
        """Select a byte (bit 7 is ignored), or write the selected one."""
        if register == _CMOS_INDEX:
            self._index = value & 0x7F
        else:
            self._bytes[self._index] = value


class Pic:
    """One 8259 interrupt controller: register 0 takes commands, register 1 is the mask.

    There are no priorities and no interrupts in service: a line is raised when the one before has
    been served.
    """

    def __init__(self) -> None:
        self.mask = 0xFF
        self._base: int | None = None
        self._awaited: list[str] = []

    def read(self, register: int) -> int:
        """Return the mask; of the command register, 0: no requests, none in service."""
        return 0 if register == _PIC_COMMAND else self.mask

    def write(self, register: int, value: int) -> None:
        """Take a command, a word of an initialisation, or the mask."""
        if register == _PIC_COMMAND:
            if value & _INITIALISE:
                self.mask = 0
                self._awaited = ["base", "cascade"] + ["mode"] * (value & _FOURTH_WORD)
        elif self._awaited:
            if self._awaited.pop(0) == "base":
                self._base = value & 0xF8
        else:
            self.mask = value

    def vector(self, line: int) -> int | None:
        """Return the vector of a line (0 to 7); None where it is masked, or nothing is set up."""
        return None if self._base is None or self.mask >> line & 1 else self._base + line


def line_vector(first: Pic, second: Pic, irq: int) -> int | None:
    """Return the vector of one of the PC's interrupt lines 0 to 15; None where it is masked."""
    if irq < _PIC_LINES:
        return first.vector(irq)
    return None if first.vector(_CASCADE_LINE) is None else second.vector(irq - _PIC_LINES)


class ResetLine:
    """The keyboard controller's command port; `pulled` is called when a guest asks for a reset."""

    def __init__(self, pulled: Callable[[], None]) -> None:
        self._pulled = pulled

    def read(self, _register: int) -> int:
        """Return all ones: there is no keyboard."""
        return 0xFF

    def write(self, _register: int, value: int) -> None:
        """Take a command."""
        if value == _PULSE:
            self._pulled()


class DebugExit:
    """A port by which a guest ends its own run; `left` is called with the status.

    The status is `value << 1 | 1` of the value written, as QEMU's isa-debug-exit makes it.
    """

    def __init__(self, left: Callable[[int], None]) -> None:
        self._left = left

    def read(self, _register: int) -> int:
        """Return 0."""
        return 0

    def write(self, _register: int, value: int) -> None:
        """Take the value of an exit."""
        self._left(value << 1 | 1)


class Uart:
    """A 16550 UART that is always ready to send, and never receives.

    `sent` is called with each byte sent.
    """

    def __init__(self, sent: Callable[[int], None]) -> None:
        self._sent = sent
        self._registers = bytearray(8)
        self._divisor = bytearray(2)
        self._fifos = False
        self._emptied = False  # The transmitter has become empty; not acknowledged yet.

    @property
    def interrupting(self) -> bool:
        """Whether the interrupt line is up: on a PC, OUT2 has to let it through."""
        enabled = self._registers[_IER] & _THRE_ENABLED
        return bool(self._emptied and enabled and self._registers[_MCR] & _OUT2)

    def read(self, register: int) -> int:
        """Return the byte that the register shows."""
        if register in (_DATA, _IER) and self._registers[_LCR] & _DLAB:
            return self._divisor[register]
        if register == _DATA:
            return 0
        if register == _IIR:
            return self._identification()
        if register == _LSR:
            return _IDLE_AND_EMPTY
        if register == _MSR:
            return self._modem_status()
        return self._registers[register]

    def write(self, register: int, value: int) -> None:
        """Take a byte written to the register."""
        if register in (_DATA, _IER) and self._registers[_LCR] & _DLAB:
            self._divisor[register] = value
        elif register == _DATA:
            if not self._registers[_MCR] & _LOOP:
                self._sent(value)
            self._emptied = True
        elif register == _IIR:  # FCR when written.
            self._fifos = bool(value & 1)
        elif register == _IER:
            if value & _THRE_ENABLED and not self._registers[_IER] & _THRE_ENABLED:
                self._emptied = True
            self._registers[_IER] = value & 0x0F
        elif register == _MCR:
            self._registers[_MCR] = value & 0x1F
        elif register not in (_LSR, _MSR):
            self._registers[register] = value

    def _identification(self) -> int:
        fifos = _FIFOS_ON if self._fifos else 0
        if self._emptied and self._registers[_IER] & _THRE_ENABLED:
            self._emptied = False  # Reading it is the acknowledgement.
            return _THRE_PENDING | fifos
        return _NONE_PENDING | fifos

    def _modem_status(self) -> int:
        control = self._registers[_MCR]
        if not control & _LOOP:
            return _CONNECTED
        # In a loop DTR, RTS, OUT1 and OUT2 come back as DSR, CTS, RI and DCD.
        dtr, rts, out1, out2 = (control >> bit & 1 for bit in range(4))
        return rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
