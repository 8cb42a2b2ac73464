"""A text display: the registers of its controller, and what a screen of it would show.

What is shown lies in RAM, from 0xb8000 on, a byte for each character and one for its colours.
Nothing draws it; `screen_lines` reads it.
"""

__all__ = ["CRTC_PORTS", "MDA_PORTS", "TEXT_BYTES", "TEXT_MEMORY", "Crtc", "screen_lines"]

CRTC_PORTS, MDA_PORTS = (0x3D4, 0x3D5), (0x3B4, 0x3B5)

TEXT_MEMORY, TEXT_BYTES = 0xB_8000, 0x8000
"""Where the text of a colour display lies, and how much memory it has there."""

_INDEX = 0
_REGISTERS = 0x19
_START_HIGH, _START_LOW = 0x0C, 0x0D
_COLUMNS, _ROWS, _CELL = 80, 25, 2
# Code page 437, with the glyphs that the display has for control characters. All that look like
# nothing are spaces.
_GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(0x20, 0x7F)).decode("ascii")
    + "⌂"
    + bytes(range(0x80, 0xFF)).decode("cp437")
    + " "
)


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

    @property
    def start(self) -> int:
        """The number of the first character on the screen, by its start address registers."""
        return self._bytes[_START_HIGH] << 8 | self._bytes[_START_LOW]

    def write(self, register: int, value: int) -> None:
        """Select a byte, or write the selected one."""
        if register == _INDEX:
            self._index = value
        elif self._index < _REGISTERS:
            self._bytes[self._index] = value


def screen_lines(memory: bytes, start: int = 0) -> list[str]:
    """Return what a screen of 80 by 25 characters shows, a text for each line.

    `memory` is the display's, `TEXT_BYTES` long; `start` is the first character shown, behind whose
    memory's end its beginning follows. Without spaces at the ends of lines, and without empty lines
    at the end: nothing where nothing has been written.
    """
    texts = "".join(_GLYPHS[byte] for byte in memory[::_CELL])
    first = start % len(texts)
    texts = texts[first:] + texts[:first]
    lines = [texts[row * _COLUMNS : (row + 1) * _COLUMNS].rstrip() for row in range(_ROWS)]
    while lines and not lines[-1]:
        del lines[-1]
    return lines
