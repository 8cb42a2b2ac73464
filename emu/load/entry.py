"""What a boot needs of a guest, whatever the format of its file."""

from typing import Protocol

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.pc.pc import Machine

__all__ = ["Guest"]


class Guest(Protocol):
    """A guest of some format, ready to be placed in RAM and entered."""

    @property
    def image(self) -> GuestImage:
        """What its file holds: segments, sections, symbols, entry and release."""
        ...

    def place(self, ram: Ram) -> None:
        """Write the guest, and all that it is handed, to RAM; `BadInput` where it doesn't fit."""
        ...

    def enter(self, machine: Machine) -> None:
        """Bring the CPU of a machine with this RAM to the guest's first instruction."""
        ...
