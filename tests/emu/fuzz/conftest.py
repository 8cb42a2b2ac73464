"""Machines for tests of campaigns: those of the tests of judges."""

from tests.emu.judges.conftest import qemu

__all__ = ["qemu"]
