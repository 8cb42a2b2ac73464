"""What a boot needs of a guest, whatever the format of its file."""

from typing import Protocol

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.pc import Machine

__all__ = ["Guest"]


class Guest(Protocol):
    """A guest of some format, ready to be placed in RAM and entered."""

    def place(self, ram: Ram) -> None:
        """Write the guest, and all that it is handed, to RAM; `BadInput` where it doesn't fit."""
        ...

    def enter(self, machine: Machine) -> None:
        """Bring the CPU of a machine with this RAM to the guest's first instruction."""
        ...
