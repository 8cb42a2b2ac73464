"""CMOS memory and its clock, which starts at the beginning of 2020.

Source: the data sheet of the MC146818, "Address map", "Update cycle". The sizes of memory are where
a PC's firmware leaves them.
"""

from datetime import UTC, datetime, timedelta

from crosswalk.emu.pc.clock import TSC_HZ, Clock

__all__ = ["CMOS_PORTS", "Cmos"]

CMOS_PORTS = (0x70, 0x71)

_INDEX = 0
_BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32
_STATUS_A, _STATUS_B, _STATUS_C, _STATUS_D = 0x0A, 0x0B, 0x0C, 0x0D
_DIVIDER, _BY_24_HOURS, _BATTERY_GOOD = 0x26, 0x02, 0x80
_UPDATING = 0x80  # of status A
_BINARY = 0x04  # of status B
# An update takes 1,984 µs, and is announced 244 µs before.
_UPDATE = TSC_HZ * (1984 + 244) // 1_000_000
_BASE_MEMORY, _EXTENDED, _EXTENDED_AGAIN, _ABOVE_16_MIB, _ABOVE_4_GIB = 0x15, 0x17, 0x30, 0x34, 0x5B
_BASE_KIB = 639
_KIB, _BLOCK, _MIB = 1 << 10, 1 << 16, 1 << 20
_MOST = 0xFFFF


class Cmos:
    """The memory: register 0 selects one of 128 bytes, register 1 is that byte.

    `ram` is the size of RAM in bytes, with none of it above `hole` and below 4 GiB. The clock goes
    by the machine's time; setting it, its alarm and its interrupts do nothing.
    """

    def __init__(self, clock: Clock, ram: int, hole: int) -> None:
        self._clock = clock
        self._bytes = bytearray(128)
        self._bytes[_STATUS_A] = _DIVIDER
        self._bytes[_STATUS_B] = _BY_24_HOURS
        self._bytes[_STATUS_D] = _BATTERY_GOOD
        low = min(ram, hole)
        extended = min(max(low - _MIB, 0) // _KIB, _MOST)
        self._put(_BASE_MEMORY, _BASE_KIB, 2)
        self._put(_EXTENDED, extended, 2)
        self._put(_EXTENDED_AGAIN, extended, 2)
        self._put(_ABOVE_16_MIB, min(max(low - 16 * _MIB, 0) // _BLOCK, _MOST), 2)
        self._put(_ABOVE_4_GIB, max(ram - (1 << 32), 0) // _BLOCK, 3)
        self._index = 0

    def read(self, register: int) -> int:
        """Return the selected byte; the selection itself can't be read."""
        if register == _INDEX:
            return 0xFF
        if self._index == _STATUS_A:
            updating = TSC_HZ - self._clock.now % TSC_HZ <= _UPDATE
            return self._bytes[_STATUS_A] | (_UPDATING if updating else 0)
        if self._index == _STATUS_C:
            return 0
        time = self._time().get(self._index)
        if time is None:
            return self._bytes[self._index]
        return time if self._bytes[_STATUS_B] & _BINARY else time // 10 << 4 | time % 10

    def write(self, register: int, value: int) -> None:
        """Select a byte (bit 7 is ignored), or write the selected one."""
        if register == _INDEX:
            self._index = value & 0x7F
        elif self._index == _STATUS_A:
            self._bytes[_STATUS_A] = value & ~_UPDATING
        elif self._index != _STATUS_D:
            self._bytes[self._index] = value

    def _put(self, index: int, value: int, size: int) -> None:
        self._bytes[index : index + size] = value.to_bytes(size, "little")

    def _time(self) -> dict[int, int]:
        now = _BEGINNING + timedelta(seconds=self._clock.now // TSC_HZ)
        return {
            _SECONDS: now.second,
            _MINUTES: now.minute,
            _HOURS: now.hour,
            _WEEKDAY: now.isoweekday() % 7 + 1,
            _DAY: now.day,
            _MONTH: now.month,
            _YEAR: now.year % 100,
            _CENTURY: now.year // 100,
        }
