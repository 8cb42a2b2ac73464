"""A 16550 UART.

Source: the data sheet of the PC16550D, section 8, registers.
"""

from collections.abc import Callable

__all__ = ["UART_IRQ", "UART_PORTS", "Uart"]

UART_PORTS = tuple(range(0x3F8, 0x400))
UART_IRQ = 4

_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCRATCH = range(8)
_DLAB = 0x80  # of LCR
_THRE_ENABLED = 0x02  # of IER
_NONE_PENDING, _THRE_PENDING, _FIFOS_ON = 0x01, 0x02, 0xC0  # of IIR
_OUT2, _LOOP = 0x08, 0x10  # of MCR
_IDLE_AND_EMPTY = 0x60  # of LSR
_CONNECTED = 0xB0  # of MSR: CTS, DSR, DCD


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
