"""The keyboard controller, with a keyboard on which nobody types, and no mouse.

Source: the IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller". Every command
is answered at once.
"""

from collections import deque
from collections.abc import Callable

__all__ = ["KEYBOARD_IRQ", "KEYBOARD_PORTS", "Keyboard"]

KEYBOARD_PORTS = (0x60, 0x64)
KEYBOARD_IRQ = 1

_DATA = 0
_FULL, _SYSTEM, _COMMAND, _UNLOCKED = 0x01, 0x04, 0x08, 0x10  # of the status
_INTERRUPT, _TESTED, _DISABLED, _TRANSLATED = 0x01, 0x04, 0x10, 0x40  # of the command byte
_READ_MODE, _WRITE_MODE = 0x20, 0x60
_TEST_MOUSE, _TEST, _TEST_KEYBOARD, _DISABLE, _ENABLE = 0xA9, 0xAA, 0xAB, 0xAD, 0xAE
_READ_OUTPUT, _WRITE_OUTPUT, _ECHO, _ECHO_MOUSE, _TO_MOUSE = 0xD0, 0xD1, 0xD2, 0xD3, 0xD4
_PULSE, _NO_RESET = 0xF0, 0x01
_WITH_PARAMETER = (_WRITE_MODE, _WRITE_OUTPUT, _ECHO, _ECHO_MOUSE, _TO_MOUSE)
_PASSED, _GOOD, _CLOCK_LOW = 0x55, 0x00, 0x01
_A20_ON = 0x02  # of the output port

_ACKNOWLEDGED, _RESEND = b"\xfa", b"\xfe"
_ALONE = {
    0xEE: b"\xee",  # echo
    0xF2: b"\xfa\xab\x83",  # identify: a keyboard of 101 keys
    0xF4: _ACKNOWLEDGED,
    0xF5: _ACKNOWLEDGED,
    0xF6: _ACKNOWLEDGED,
    0xFF: b"\xfa\xaa",  # reset, and the result of its test
}
_BEFORE_PARAMETER = (0xED, 0xF0, 0xF3)
_MOST_ANSWERS = 16  # The bytes that a keyboard of the PS/2 keeps.


class Keyboard:
    """The controller: register 0 is the data port, register 1 status and command.

    `pulled` is called when the guest asks for a reset; `interrupting` is the interrupt line.
    """

    def __init__(self, pulled: Callable[[], None]) -> None:
        self._pulled = pulled
        self._answers: deque[int] = deque()
        self._mode = _INTERRUPT | _TESTED | _TRANSLATED
        self._output = _NO_RESET | _A20_ON
        self._awaiting: int | None = None  # the controller's command whose parameter is to come
        self._keyboard_awaits = False
        self._last_was_command = False

    @property
    def interrupting(self) -> bool:
        """Whether the interrupt line is up."""
        return bool(self._answers and self._mode & _INTERRUPT)

    def read(self, register: int) -> int:
        """Return the next byte of an answer, or 0; of the other register, the status."""
        if register == _DATA:
            return self._answers.popleft() if self._answers else 0
        full = _FULL if self._answers else 0
        command = _COMMAND if self._last_was_command else 0
        return full | command | _UNLOCKED | self._mode & _SYSTEM

    def write(self, register: int, value: int) -> None:
        """Take a command of the controller, its parameter, or a byte for the keyboard."""
        self._last_was_command = register != _DATA
        if register != _DATA:
            self._command(value)
        elif self._awaiting is not None:
            command, self._awaiting = self._awaiting, None
            self._parameter(command, value)
        else:
            self._answer(*self._keyboard(value))

    def _command(self, command: int) -> None:
        self._awaiting = command if command in _WITH_PARAMETER else None
        answer = {
            _READ_MODE: self._mode,
            _TEST_MOUSE: _CLOCK_LOW,
            _TEST: _PASSED,
            _TEST_KEYBOARD: _GOOD,
            _READ_OUTPUT: self._output,
        }.get(command)
        if answer is not None:
            self._answer(answer)
        if command == _TEST:
            self._mode |= _TESTED
        elif command == _DISABLE:
            self._mode |= _DISABLED
        elif command == _ENABLE:
            self._mode &= ~_DISABLED
        elif command >= _PULSE and not command & _NO_RESET:
            self._pulled()

    def _parameter(self, command: int, value: int) -> None:
        if command == _WRITE_MODE:
            self._mode = value
        elif command == _WRITE_OUTPUT:
            self._output = value
            if not value & _NO_RESET:
                self._pulled()
        elif command in (_ECHO, _ECHO_MOUSE):
            # Without a mouse an echo comes back as if from the keyboard.
            self._answer(value)

    def _answer(self, *values: int) -> None:
        """Keep an answer to be read; what a guest that reads none has asked for is lost."""
        self._answers.extend(values[: _MOST_ANSWERS - len(self._answers)])

    def _keyboard(self, value: int) -> bytes:
        """Return the keyboard's answer to a byte."""
        if self._keyboard_awaits:
            self._keyboard_awaits = False
            return _ACKNOWLEDGED
        self._keyboard_awaits = value in _BEFORE_PARAMETER
        return _ACKNOWLEDGED if self._keyboard_awaits else _ALONE.get(value, _RESEND)
