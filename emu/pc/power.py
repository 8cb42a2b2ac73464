"""Ways out of a run that a guest has: reset, power off, a port for its result; and ACPI's timer.

Source: ACPI Specification, "PM1 Event Grouping", "PM1 Control Grouping", "Power Management Timer".
"""

from collections.abc import Callable

from crosswalk.emu.pc.clock import Clock

__all__ = [
    "ACPI_PORTS",
    "FAST_RESET_PORT",
    "RESET_CONTROL_PORT",
    "AcpiRegisters",
    "DebugExit",
    "FastReset",
    "ResetControl",
]

ACPI_PORTS = tuple(range(0x600, 0x60C))
FAST_RESET_PORT, RESET_CONTROL_PORT = 0x92, 0xCF9

_EVENT_BYTES, _CONTROL, _TIMER = 4, 4, 8  # Status and enable are two bytes each.
_STATUS_BYTES = 2
_ACPI_MODE = 0x01  # of the control register
_SLEEP = 0x20  # of its upper byte
_PM_HZ = 3_579_545

_FAST_RESET, _A20 = 0x01, 0x02
_RESET_NOW = 0x04


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
        """Take the value of an exit, of one byte."""
        self._left(value << 1 | 1)


class FastReset:
    """Port 0x92: A20, which is always on, and a reset; `pulled` is called for that."""

    def __init__(self, pulled: Callable[[], None]) -> None:
        self._pulled = pulled

    def read(self, _register: int) -> int:
        """Return that A20 is on."""
        return _A20

    def write(self, _register: int, value: int) -> None:
        """Reset the machine if the bit for that is set."""
        if value & _FAST_RESET:
            self._pulled()


class ResetControl:
    """Port 0xcf9; `pulled` is called when the guest asks for a reset."""

    def __init__(self, pulled: Callable[[], None]) -> None:
        self._pulled = pulled
        self._kind = 0

    def read(self, _register: int) -> int:
        """Return the kind of reset that was chosen."""
        return self._kind

    def write(self, _register: int, value: int) -> None:
        """Choose a kind of reset, and make it if the bit for that is set."""
        self._kind = value & ~_RESET_NOW
        if value & _RESET_NOW:
            self._pulled()


class AcpiRegisters:
    """ACPI's fixed registers, twelve bytes: events that never come, control, a timer of 32 bits.

    The machine is always in ACPI mode. `off` is called when the guest goes to sleep, of whatever
    kind: nothing would wake it.
    """

    def __init__(self, clock: Clock, off: Callable[[], None]) -> None:
        self._clock = clock
        self._off = off
        self._bytes = bytearray(8)
        self._bytes[_CONTROL] = _ACPI_MODE

    def read(self, register: int) -> int:
        """Return a byte of a register."""
        if register >= _TIMER:
            return self._clock.units(_PM_HZ) >> 8 * (register - _TIMER) & 0xFF
        return self._bytes[register]

    def write(self, register: int, value: int) -> None:
        """Write a byte of the enabled events or of the control register."""
        if _STATUS_BYTES <= register < _EVENT_BYTES:
            self._bytes[register] = value
        elif register == _CONTROL:
            self._bytes[register] = value | _ACPI_MODE
        elif register == _CONTROL + 1:
            self._bytes[register] = value & ~_SLEEP
            if value & _SLEEP:
                self._off()
