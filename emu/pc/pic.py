"""The two 8259 interrupt controllers of a PC: masks, and the vectors that lines lead to.

Priorities and interrupts in service are left out: a line is raised when the one before has been
served. Source: the 8259A data sheet, "Initialization and operation command words".
"""

__all__ = ["PIC_PORTS", "Pic", "line_vector"]

PIC_PORTS = ((0x20, 0x21), (0xA0, 0xA1))
_COMMAND = 0
_INITIALISE, _FOURTH_WORD = 0x10, 0x01  # of the first word
_CASCADE = 2  # the line of the first controller that the second one uses
_LINES = 8


class Pic:
    """One controller: register 0 takes commands, register 1 is the mask."""

    def __init__(self) -> None:
        self.mask = 0xFF
        self._base: int | None = None
        self._awaited: list[str] = []

    def read(self, register: int) -> int:
        """Return the mask, or 0 for no requests and none in service."""
        return 0 if register == _COMMAND else self.mask

    def write(self, register: int, value: int) -> None:
        """Take a command, a word of an initialisation, or the mask."""
        if register == _COMMAND:
            if value & _INITIALISE:
                self.mask = 0
                self._awaited = ["base", "cascade"] + ["mode"] * (value & _FOURTH_WORD)
        elif self._awaited:
            if self._awaited.pop(0) == "base":
                self._base = value & 0xF8
        else:
            self.mask = value

    def vector(self, line: int) -> int | None:
        """Return the vector of a line (0 to 7); None where it is masked, or nothing is set up."""
        return None if self._base is None or self.mask >> line & 1 else self._base + line


def line_vector(first: Pic, second: Pic, irq: int) -> int | None:
    """Return the vector of one of the PC's interrupt lines 0 to 15; None where it is masked."""
    if irq < _LINES:
        return first.vector(irq)
    return None if first.vector(_CASCADE) is None else second.vector(irq - _LINES)
