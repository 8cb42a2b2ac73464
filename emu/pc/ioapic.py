"""The I/O APIC: leads the PC's interrupt lines to vectors of the local APIC.

Source: the data sheet of the 82093AA, "I/O Redirection Table Registers". Polarity isn't modelled: a
line that is up asks. Messages of other kinds than fixed and lowest priority are dropped; ExtINT at
pin 0 passes the interrupt of the 8259s on.
"""

from crosswalk.emu.pc.addresses import IOAPIC_ID, IOAPIC_VERSION, TIMER_PIN
from crosswalk.emu.pc.lapic import LocalApic

__all__ = ["PINS", "IoApic", "pin_of"]

PINS = 24

_SELECT, _WINDOW = 0x00, 0x10
_ID, _VERSION, _ARBITRATION, _TABLE = 0, 1, 2, 0x10
_REMOTE_IRR, _LEVEL, _MASKED, _LOGICAL = 1 << 14, 1 << 15, 1 << 16, 1 << 11
_WRITABLE = 0xFF00_0000_0001_AFFF
_FIXED, _LOWEST, _EXTINT = 0, 1, 7


def pin_of(irq: int) -> int:
    """Return the pin that one of the PC's interrupt lines 0 to 15 is connected to."""
    return TIMER_PIN if irq == 0 else irq


class IoApic:
    """The two registers in memory, an index and a window, and what lies behind them."""

    def __init__(self, lapic: LocalApic) -> None:
        self._lapic = lapic
        self._index = 0
        self._id = IOAPIC_ID
        self._entries = [_MASKED] * PINS
        self._up = [False] * PINS

    @property
    def passes_extint(self) -> bool:
        """Whether the interrupt of the 8259s passes through pin 0."""
        entry = self._entries[0]
        return not entry & _MASKED and entry >> 8 & 7 == _EXTINT

    def enabled(self, pin: int) -> bool:
        """Return whether a pin's entry sends messages with a vector, and none is under way."""
        entry = self._entries[pin]
        return not entry & (_MASKED | _REMOTE_IRR) and entry >> 8 & 7 in (_FIXED, _LOWEST)

    def set_line(self, pin: int, *, up: bool) -> None:
        """Move a line; an edge that comes while its pin is masked is lost."""
        rose = up and not self._up[pin]
        self._up[pin] = up
        if up and (rose or self._entries[pin] & _LEVEL):
            self._send(pin)

    def end_of_interrupt(self, vector: int) -> None:
        """Take the message that the handler of a level-triggered interrupt has ended."""
        for pin, entry in enumerate(self._entries):
            if entry & _LEVEL and entry & 0xFF == vector:
                self._entries[pin] &= ~_REMOTE_IRR
                if self._up[pin]:
                    self._send(pin)

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes at an offset into the page; what isn't a register reads as 0."""
        at = offset & ~3
        value = self._index if at == _SELECT else self._window if at == _WINDOW else 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Choose a register (a byte will do), or write all of the chosen one."""
        if offset == _SELECT:
            self._index = value & 0xFF
        elif offset == _WINDOW and size == 4:
            self._set(value)

    @property
    def _window(self) -> int:
        if self._index in (_ID, _ARBITRATION):
            return self._id << 24
        if self._index == _VERSION:
            return IOAPIC_VERSION | PINS - 1 << 16
        pin, high = divmod(self._index - _TABLE, 2)
        if not 0 <= pin < PINS:
            return 0
        return self._entries[pin] >> 32 * high & 0xFFFF_FFFF

    def _set(self, value: int) -> None:
        if self._index == _ID:
            self._id = value >> 24 & 0xF
        pin, high = divmod(self._index - _TABLE, 2)
        if not 0 <= pin < PINS:
            return
        entry = self._entries[pin]
        shift = 32 * high
        changed = entry & ~(0xFFFF_FFFF << shift) | value << shift
        kept = entry & _REMOTE_IRR if changed & _LEVEL else 0
        self._entries[pin] = changed & _WRITABLE | kept
        if self._entries[pin] & _LEVEL and self._up[pin]:
            self._send(pin)

    def _send(self, pin: int) -> None:
        entry = self._entries[pin]
        if not self.enabled(pin):
            return
        if not self._lapic.accepts(entry >> 56, logical=bool(entry & _LOGICAL)):
            return
        level = bool(entry & _LEVEL)
        if level:
            self._entries[pin] |= _REMOTE_IRR
        self._lapic.receive(entry & 0xFF, level=level)
