"""Machines for tests of the matrix: those of the tests of judges."""

from tests.emu.judges.conftest import qemu

__all__ = ["qemu"]
