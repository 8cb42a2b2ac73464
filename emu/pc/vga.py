"""The index and data registers of a text display's controller: kernels move its cursor.

What is shown lies in RAM, and nothing draws it.
"""

__all__ = ["CRTC_PORTS", "MDA_PORTS", "Crtc"]

CRTC_PORTS, MDA_PORTS = (0x3D4, 0x3D5), (0x3B4, 0x3B5)

_INDEX = 0
_REGISTERS = 0x19


class Crtc:
    """Register 0 selects one of 25 bytes, register 1 is that byte."""

    def __init__(self) -> None:
        self._bytes = bytearray(_REGISTERS)
        self._index = 0

    def read(self, register: int) -> int:
        """Return the selection, or the selected byte; 0 where there is none."""
        if register == _INDEX:
            return self._index
        return self._bytes[self._index] if self._index < _REGISTERS else 0

    def write(self, register: int, value: int) -> None:
        """Select a byte, or write the selected one."""
        if register == _INDEX:
            self._index = value
        elif self._index < _REGISTERS:
            self._bytes[self._index] = value
