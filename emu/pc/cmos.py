"""The CMOS memory with its clock, which stands still at the beginning of 2020.

Source: the MC146818 data sheet, "Address map".
"""

__all__ = ["CMOS_PORTS", "Cmos"]

CMOS_PORTS = (0x70, 0x71)
_INDEX = 0
# Index: value. Weekday, day, month, year and century in BCD; 24 hours; the battery is good.
_START = {0x06: 0x04, 0x07: 0x01, 0x08: 0x01, 0x09: 0x20, 0x32: 0x20} | {
    0x0A: 0x26,
    0x0B: 0x02,
    0x0D: 0x80,
}


class Cmos:
    """128 bytes: register 0 chooses one, register 1 is that byte."""

    def __init__(self) -> None:
        self._bytes = bytearray(128)
        for index, value in _START.items():
            self._bytes[index] = value
        self._index = 0

    def read(self, register: int) -> int:
        """Return the chosen byte; what is chosen can't be read."""
        return 0xFF if register == _INDEX else self._bytes[self._index]

    def write(self, register: int, value: int) -> None:
        """Choose a byte, its upper bit not counting, or write the chosen one."""
        if register == _INDEX:
            self._index = value & 0x7F
        else:
            self._bytes[self._index] = value
