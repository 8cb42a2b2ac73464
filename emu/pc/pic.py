"""The two 8259A interrupt controllers of a PC.

Source: the data sheet of the 8259A, "Initialization Command Words", "Operation Command Words",
"Fully Nested Mode", "End of Interrupt (EOI)". Lines are edge triggered. Polling, the special modes
and rotation in automatic EOI aren't modelled.
"""

__all__ = ["PIC_PORTS", "Pic", "PicPair"]

PIC_PORTS = ((0x20, 0x21), (0xA0, 0xA1))

_COMMAND = 0
_INITIALISE, _FOURTH_WORD = 0x10, 0x01  # of the first word
_AUTOMATIC = 0x02  # of the fourth
_OCW3, _READ_REGISTER, _READ_SERVICE = 0x08, 0x02, 0x01
_END, _SPECIFIC, _ROTATE = 0x20, 0x40, 0x80  # of the second operation command word
_LINES = 8
_CASCADE = 2  # the line of the first controller that the second one uses


class Pic:
    """One controller: register 0 takes commands, register 1 is the mask."""

    def __init__(self) -> None:
        self.mask = 0xFF
        self._base: int | None = None
        self._awaited: list[str] = []
        self._requests = 0
        self._in_service = 0
        self._automatic = False
        self._shows_service = False
        self._lowest = _LINES - 1

    def read(self, register: int) -> int:
        """Return the mask; of the command register, the requests, or the lines in service."""
        if register != _COMMAND:
            return self.mask
        return self._in_service if self._shows_service else self._requests

    def write(self, register: int, value: int) -> None:
        """Take a command, a word of an initialisation, or the mask."""
        if register == _COMMAND and value & _INITIALISE:
            self.mask = self._requests = self._in_service = 0
            self._automatic = self._shows_service = False
            self._lowest = _LINES - 1
            self._awaited = ["base", "cascade"] + ["mode"] * (value & _FOURTH_WORD)
        elif register == _COMMAND and value & _OCW3:
            if value & _READ_REGISTER:
                self._shows_service = bool(value & _READ_SERVICE)
        elif register == _COMMAND:
            self._end(value)
        elif self._awaited:
            self._initialise(self._awaited.pop(0), value)
        else:
            self.mask = value

    def request(self, line: int) -> None:
        """Note that a line went up."""
        self._requests |= 1 << line

    def withdraw(self, line: int) -> None:
        """Note that a line went down: a request that wasn't acknowledged is gone."""
        self._requests &= ~(1 << line)

    def enabled(self, line: int) -> bool:
        """Return whether a line (0 to 7) isn't masked, and has a vector."""
        return self._base is not None and not self.mask >> line & 1

    @property
    def pending(self) -> int | None:
        """The line to be served: the highest request that isn't masked, above all in service."""
        if self._base is None:
            return None
        wanted = self._requests & ~self.mask
        if not wanted:
            return None
        for line in self._by_priority():
            if self._in_service >> line & 1:
                return None
            if wanted >> line & 1:
                return line
        return None

    def acknowledge(self, line: int) -> int:
        """Put a pending line into service, and return its vector."""
        self._requests &= ~(1 << line)
        if not self._automatic:
            self._in_service |= 1 << line
        return (self._base or 0) + line

    def _by_priority(self) -> list[int]:
        return [(self._lowest + 1 + at) % _LINES for at in range(_LINES)]

    def _initialise(self, word: str, value: int) -> None:
        if word == "base":
            self._base = value & 0xF8
        elif word == "mode":
            self._automatic = bool(value & _AUTOMATIC)

    def _end(self, command: int) -> None:
        """Take the second operation command word."""
        line = command & 7
        if not command & _SPECIFIC:
            served = [each for each in self._by_priority() if self._in_service >> each & 1]
            if not command & _END or not served:
                return
            line = served[0]
        if command & _END:
            self._in_service &= ~(1 << line)
        if command & _ROTATE:
            self._lowest = line


class PicPair:
    """Both controllers, `first` and `second`, the second one behind line 2 of the first."""

    def __init__(self) -> None:
        self.first = Pic()
        self.second = Pic()

    def set_line(self, irq: int, *, up: bool) -> None:
        """Move one of the PC's interrupt lines 0 to 15."""
        pic = self.first if irq < _LINES else self.second
        (pic.request if up else pic.withdraw)(irq % _LINES)

    def enabled(self, irq: int) -> bool:
        """Return whether a line's interrupt isn't masked and has a vector."""
        if irq < _LINES:
            return self.first.enabled(irq)
        return self.first.enabled(_CASCADE) and self.second.enabled(irq - _LINES)

    @property
    def pending(self) -> bool:
        """Whether there is an interrupt to be served."""
        self._cascade()
        return self.first.pending is not None

    def acknowledge(self) -> int:
        """Put the pending interrupt into service, and return its vector."""
        self._cascade()
        line = self.first.pending
        if line is None:
            raise ValueError("no interrupt is pending")
        vector = self.first.acknowledge(line)
        inner = self.second.pending
        if line == _CASCADE and inner is not None:
            vector = self.second.acknowledge(inner)
        return vector

    def _cascade(self) -> None:
        up = self.second.pending is not None
        (self.first.request if up else self.first.withdraw)(_CASCADE)
