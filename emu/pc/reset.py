"""The one thing that a PC's keyboard controller is kept for here: pulling the reset line."""

from collections.abc import Callable

__all__ = ["RESET_PORT", "ResetLine"]

RESET_PORT = 0x64
_PULSE = 0xFE


class ResetLine:
    """The controller's command port; `pulled` is called when the guest asks for a reset."""

    def __init__(self, pulled: Callable[[], None]) -> None:
        self._pulled = pulled

    def read(self, _register: int) -> int:
        """Return all ones: there is no keyboard."""
        return 0xFF

    def write(self, _register: int, value: int) -> None:
        """Take a command."""
        if value == _PULSE:
            self._pulled()
