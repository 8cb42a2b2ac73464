"""The I/O ports: who listens where; nobody's ports read as all ones."""

from typing import Protocol

__all__ = ["Device", "Ports"]


class Device(Protocol):
    """Something with registers of one byte at consecutive ports."""

    def read(self, register: int) -> int:
        """Return the byte that the register shows."""
        ...

    def write(self, register: int, value: int) -> None:
        """Take a byte written to the register."""
        ...


class Ports:
    """All 65,536 ports, byte by byte."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Device, int]] = {}

    def attach(self, device: Device, *ports: int) -> None:
        """Give `device` these ports, as its registers from 0 on."""
        for register, port in enumerate(ports):
            self._owners[port] = (device, register)

    def read(self, port: int, size: int) -> int:
        """Return `size` bytes from `port` on, the first one the lowest."""
        return sum(self._byte(port + at) << 8 * at for at in range(size))

    def write(self, port: int, size: int, value: int) -> None:
        """Write `size` bytes from `port` on, the lowest one first."""
        for at in range(size):
            owner = self._owners.get(port + at)
            if owner is not None:
                device, register = owner
                device.write(register, value >> 8 * at & 0xFF)

    def _byte(self, port: int) -> int:
        owner = self._owners.get(port)
        if owner is None:
            return 0xFF
        device, register = owner
        return device.read(register)
