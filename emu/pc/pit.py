"""An 8254 interval timer, and the port that opens the gate of its channel 2.

Source: the data sheet of the 8254, "Mode Definitions", "Read-Back Command", "Control Word Format".
Counting in BCD isn't modelled: a count is taken as binary.
"""

from dataclasses import dataclass

from crosswalk.emu.pc.clock import Clock, moment

__all__ = ["PIT_HZ", "PIT_PORTS", "SYSTEM_PORT", "Pit", "SystemPort"]

PIT_PORTS = (0x40, 0x41, 0x42, 0x43)
PIT_HZ = 1_193_182

SYSTEM_PORT = 0x61

_CONTROL = 3
_CHANNELS = 3
_READ_BACK = 3  # In the place of a channel.
_LATCH, _LOW, _HIGH, _WORD = range(4)  # of RW in a control word
_COUNT_NOT_LATCHED, _STATUS_NOT_LATCHED = 0x20, 0x10  # of a read-back command
_OUT = 0x80  # of a status byte
_LONGEST = 0x10000

_GATE_2, _SPEAKER, _REFRESH, _OUT_2 = 0x01, 0x02, 0x10, 0x20
_SPEAKER_CHANNEL = 2

_ON_TERMINAL_COUNT, _ONE_SHOT, _RATE, _SQUARE, _STROBE, _TRIGGERED_STROBE = range(6)
_PERIODIC = (_RATE, _SQUARE)
_BY_GATE = (_ONE_SHOT, _TRIGGERED_STROBE)  # They begin when the gate opens.


@dataclass(slots=True)
class _Channel:
    """One counter. `begun` is when its count began to go down, in periods of the timer.

    `passed` is how much of it had gone down when the gate was closed; None while it counts.
    """

    mode: int = _SQUARE
    access: int = _WORD
    count: int = _LONGEST
    begun: int = 0
    passed: int | None = None
    waiting: bool = False  # for a count, since the control word
    gate: bool = True
    low: int | None = None  # the half of a count that was written first
    high_next: bool = False  # A word is read low byte first.
    latched: int | None = None
    status: int | None = None

    def elapsed(self, now: int) -> int:
        """Return how many periods the count has gone down for."""
        return max(0, now - self.begun) if self.passed is None else self.passed

    def value(self, now: int) -> int:
        """Return what the counter shows."""
        elapsed = self.elapsed(now)
        if self.mode == _RATE:
            return self.count - elapsed % self.count & 0xFFFF
        if self.mode == _SQUARE:
            return self.count - 2 * elapsed % self.count & 0xFFFE
        return self.count - elapsed & 0xFFFF

    def out(self, now: int) -> bool:
        """Return whether the channel's output is high."""
        if self.waiting:
            return self.mode != _ON_TERMINAL_COUNT
        elapsed = self.elapsed(now)
        if self.mode in (_ON_TERMINAL_COUNT, _ONE_SHOT):
            return elapsed >= self.count or (self.mode == _ONE_SHOT and self.passed == 0)
        if self.mode == _RATE:
            return not self.gate or elapsed % self.count != self.count - 1
        if self.mode == _SQUARE:
            return not self.gate or 2 * (elapsed % self.count) < self.count + 1
        return elapsed != self.count

    def rises(self, now: int) -> int:
        """Return how often the output has gone up since the count began."""
        if self.waiting or self.passed is not None:
            return 0
        elapsed = self.elapsed(now)
        return elapsed // self.count if self.mode in _PERIODIC else int(elapsed >= self.count)

    def next_rise(self, now: int) -> int | None:
        """Return when the output goes up next, in periods of the timer; None where it doesn't."""
        if self.waiting or self.passed is not None:
            return None
        rises = self.rises(now)
        if rises and self.mode not in _PERIODIC:
            return None
        return self.begun + (rises + 1) * self.count

    def begin(self, now: int) -> None:
        """Let the count go down from the next period on, if the gate lets it."""
        self.waiting = False
        self.begun = now + 1
        self.passed = None if self.gate and self.mode not in _BY_GATE else 0

    def set_gate(self, now: int, *, gate: bool) -> None:
        if gate and not self.gate:
            went_on = self.mode in (_ON_TERMINAL_COUNT, _STROBE)
            self.begun = now - (self.passed or 0) if went_on else now + 1
            self.passed = None
        elif not gate and self.gate and self.mode not in _BY_GATE:
            self.passed = self.elapsed(now)
        self.gate = gate


class Pit:
    """The timer. Channel 0 is the PC's tick; channel 1 counts, and nothing uses it.

    It is as a PC's firmware leaves it: channel 0 ticks at 18.2 Hz.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._channels = [_Channel() for _ in range(_CHANNELS)]
        self._channels[_SPEAKER_CHANNEL].set_gate(0, gate=False)
        self._counted = 0

    @property
    def next_tick(self) -> int | None:
        """The time of channel 0's next tick; None where none is to come."""
        rise = self._channels[0].next_rise(self._now)
        return None if rise is None else moment(rise, PIT_HZ)

    def ticked(self) -> bool:
        """Return whether channel 0 has ticked since this was asked before."""
        rises = self._channels[0].rises(self._now)
        due, self._counted = rises > self._counted, rises
        return due

    def out(self, channel: int) -> bool:
        """Return whether the output of a channel is high."""
        return self._channels[channel].out(self._now)

    @property
    def gate_2(self) -> bool:
        """The gate of channel 2."""
        return self._channels[_SPEAKER_CHANNEL].gate

    @gate_2.setter
    def gate_2(self, value: bool) -> None:
        self._channels[_SPEAKER_CHANNEL].set_gate(self._now, gate=value)

    def read(self, register: int) -> int:
        """Return a byte of a channel: its latched status, its latched count, or its count."""
        if register == _CONTROL:
            return 0xFF
        channel = self._channels[register]
        if channel.status is not None:
            status, channel.status = channel.status, None
            return status
        value = channel.value(self._now) if channel.latched is None else channel.latched
        if channel.access == _WORD:
            high, channel.high_next = channel.high_next, not channel.high_next
        else:
            high = channel.access == _HIGH
        if channel.access != _WORD or high:
            channel.latched = None
        return value >> 8 if high else value & 0xFF

    def write(self, register: int, value: int) -> None:
        """Take a control word, a read-back command, or a byte of a count."""
        if register != _CONTROL:
            self._count(register, value)
        elif value >> 6 == _READ_BACK:
            self._read_back(value)
        elif value >> 4 & 3 == _LATCH:
            self._latch(self._channels[value >> 6])
        else:
            self._set_up(value >> 6, value)

    @property
    def _now(self) -> int:
        return self._clock.units(PIT_HZ)

    def _set_up(self, number: int, word: int) -> None:
        mode = word >> 1 & 7
        channel = self._channels[number]
        # Modes 6 and 7 are 2 and 3 once more.
        channel.mode = mode & 3 if mode > _TRIGGERED_STROBE else mode
        channel.access = word >> 4 & 3
        channel.waiting = True
        channel.low, channel.high_next = None, False
        channel.latched = channel.status = None

    def _count(self, number: int, value: int) -> None:
        channel = self._channels[number]
        if channel.access == _WORD and channel.low is None:
            channel.low = value
            return
        count = {_LOW: value, _HIGH: value << 8}.get(
            channel.access, value << 8 | (channel.low or 0)
        )
        channel.low = None
        channel.count = count or _LONGEST
        channel.begin(self._now)
        if number == 0:
            self._counted = 0

    def _latch(self, channel: _Channel) -> None:
        if channel.latched is None:
            channel.latched = channel.value(self._now)

    def _read_back(self, command: int) -> None:
        for number, channel in enumerate(self._channels):
            if not command >> 1 + number & 1:
                continue
            if not command & _COUNT_NOT_LATCHED:
                self._latch(channel)
            if not command & _STATUS_NOT_LATCHED and channel.status is None:
                out = _OUT if channel.out(self._now) else 0
                null = 0x40 if channel.waiting else 0
                channel.status = out | null | channel.access << 4 | channel.mode << 1


class SystemPort:
    """Port 0x61: the gate of channel 2, the speaker, and channel 2's output read back.

    Bit 4 changes with each reading, as the refresh of a PC's memory made it.
    """

    def __init__(self, pit: Pit) -> None:
        self._pit = pit
        self._speaker = 0
        self._refresh = 0

    def read(self, _register: int) -> int:
        """Return the port's bits."""
        self._refresh ^= _REFRESH
        out = _OUT_2 if self._pit.out(_SPEAKER_CHANNEL) else 0
        return int(self._pit.gate_2) | self._speaker | self._refresh | out

    def write(self, _register: int, value: int) -> None:
        """Open or close the gate, and connect the speaker or not."""
        self._pit.gate_2 = bool(value & _GATE_2)
        self._speaker = value & _SPEAKER
