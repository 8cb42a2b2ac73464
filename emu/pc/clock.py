"""Time, which passes by what the guest does and not by the host's clock."""

__all__ = ["PIT_PORTS", "TSC_KHZ", "Clock"]

TSC_KHZ = 2_000_000
"""The rate of the time-stamp counter, in kHz."""

PIT_PORTS = (0x40, 0x41, 0x42, 0x43)
PIT_HZ = 1_193_182
_CHANNEL_0, _CONTROL = 0, 3
_READING = TSC_KHZ // 1000


class Clock:
    """The time-stamp counter, and channel 0 of an 8254 timer that ticks by it.

    Each reading of the counter takes 1 µs, and waiting takes as long as it takes; all other
    instructions take no time. The timer's registers can be written only; its period is the
    last count written, low byte and high byte, in whatever mode.
    """

    def __init__(self) -> None:
        self._now = 0
        self._next = 0
        self._count = 0x10000
        self._low: int | None = None

    def stamp(self) -> int:
        """Return the time-stamp counter, which has gone on by one reading."""
        self._now += _READING
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
        if register == _CONTROL:
            self._low = None
        elif register == _CHANNEL_0 and self._low is None:
            self._low = value
        elif register == _CHANNEL_0:
            self._count = (value << 8 | (self._low or 0)) or 0x10000
            self._low = None
