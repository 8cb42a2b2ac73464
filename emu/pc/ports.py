"""The I/O ports of a PC, and what a device behind some of them has to be."""

from typing import Protocol

from crosswalk.walker.errors import BadInput

__all__ = ["Device", "Latch", "Ports"]


class Device(Protocol):
    """Something with registers of one byte at consecutive ports."""

    def read(self, register: int) -> int:
        """Return the byte that the register shows."""
        ...

    def write(self, register: int, value: int) -> None:
        """Take a byte written to the register."""
        ...


class Latch:
    """Registers of one byte, 0 at first, that keep what is written and do nothing else."""

    def __init__(self, registers: int) -> None:
        self._bytes = bytearray(registers)

    def read(self, register: int) -> int:
        """Return the byte written last."""
        return self._bytes[register]

    def write(self, register: int, value: int) -> None:
        """Keep a byte."""
        self._bytes[register] = value


class Ports:
    """All 65,536 I/O ports, byte by byte; a port without a device reads as all ones."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Device, int]] = {}
        self._alone: set[int] = set()
        self._names: dict[int, str] = {}

    def attach(self, name: str, device: Device, *ports: int, alone: bool = False) -> None:
        """Give `device`, which is called `name`, these ports, as its registers from 0 on.

        With `alone` an access that begins at a lower port doesn't reach them. Raises `BadInput`,
        with the name of the other, where a device has one of them already.
        """
        for register, port in enumerate(ports):
            if port in self._names:
                raise BadInput(
                    f"port {port:#x} can't be that of the {name}: the {self._names[port]} has it"
                )
            self._owners[port] = (device, register)
            if alone:
                self._alone.add(port)
            self._names[port] = name

    def answers(self, port: int) -> bool:
        """Return whether a device has the port."""
        return port in self._owners

    def read(self, port: int, size: int) -> int:
        """Return `size` bytes from `port` on, the first one the lowest."""
        return sum(self._byte(port + at, first=not at) << 8 * at for at in range(size))

    def write(self, port: int, size: int, value: int) -> None:
        """Write `size` bytes from `port` on, the lowest one first."""
        for at in range(size):
            owner = self._owner(port + at, first=not at)
            if owner is not None:
                device, register = owner
                device.write(register, value >> 8 * at & 0xFF)

    def _owner(self, port: int, *, first: bool) -> tuple[Device, int] | None:
        """Return whose a byte of an access is, and which of its registers."""
        return self._owners.get(port) if first or port not in self._alone else None

    def _byte(self, port: int, *, first: bool) -> int:
        owner = self._owner(port, first=first)
        if owner is None:
            return 0xFF
        device, register = owner
        return device.read(register)
