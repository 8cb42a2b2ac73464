"""The time of a machine, of which its time-stamp counter and all of its timers are made.

Time depends on what the guest does, and not on the host's clock: each question that reaches the
host (a port, a device's register in memory, an exception, the counter itself) takes 1 µs, a halt
lasts until the next interrupt, and all other instructions take no time.
"""

__all__ = ["TSC_HZ", "TSC_KHZ", "Clock", "moment"]

TSC_KHZ = 2_000_000
"""The rate of the time-stamp counter, in kHz."""

TSC_HZ = 1000 * TSC_KHZ
_STEP = TSC_KHZ // 1000
_IRREGULAR = 1023
# Knuth's for 64 bits; the upper bits of such a sequence are the irregular ones.
_FACTOR, _ADDEND, _WORD, _SHIFT = 6364136223846793005, 1442695040888963407, (1 << 64) - 1, 40


class Clock:
    """The time since the machine was made: `now`, in cycles of the time-stamp counter."""

    def __init__(self) -> None:
        self.now = 0
        self._state = 0
        self._ahead = 0  # The counter is ahead of the time where a guest has set it.

    def spend(self) -> None:
        """Let the time of one question pass."""
        self.now += _STEP

    def stamp(self) -> int:
        """Return the time-stamp counter, which has gone on by one reading.

        Readings in a row are irregular, as a processor's are, by up to 0.5 µs, and the same in each
        run: Linux takes a constant step for a broken counter.
        """
        self._state = self._state * _FACTOR + _ADDEND & _WORD
        self.now += _STEP + (self._state >> _SHIFT & _IRREGULAR)
        return self.now + self._ahead & _WORD

    def set_counter(self, value: int) -> None:
        """Set the time-stamp counter; the time stays as it is."""
        self._ahead = value - self.now

    def wait(self, until: int) -> None:
        """Let time pass until a moment, if it is still to come."""
        self.now = max(self.now, until)

    def units(self, hertz: int) -> int:
        """Return how many periods of another clock have begun."""
        return self.now * hertz // TSC_HZ


def moment(unit: int, hertz: int) -> int:
    """Return the first moment at which `Clock.units` of that rate is `unit`."""
    return -(-unit * TSC_HZ // hertz)
