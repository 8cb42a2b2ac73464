"""Ports with and without devices."""

import pytest

from crosswalk.emu.pc.ports import Latch, Ports
from crosswalk.walker.errors import BadInput
from tests.emu.cpu.machine import Bare


def test_nobodys_ports_read_as_all_ones_and_wide_accesses_are_bytes():
    ports = Ports()
    ports.attach("latch", Latch(2), 0x70, 0x71)
    ports.write(0x70, 2, 0xAB40)
    ports.write(0x100, 4, 0)
    assert (0xFFFF_AB40, 0xFF, 0xFFFF_FFFF) == (
        ports.read(0x70, 4),
        ports.read(0x72, 1),
        ports.read(0x100, 4),
    )
    assert [True, True, False] == [ports.answers(port) for port in (0x70, 0x71, 0x72)]


def test_a_port_has_one_device_and_the_other_is_named():
    ports = Ports()
    ports.attach("UART", Latch(8), *range(0x3F8, 0x400))
    with pytest.raises(BadInput, match=r"port 0x3fd can't be that of the exit: the UART has it"):
        ports.attach("exit", Latch(1), 0x3FD)
    ports.attach("exit", Latch(1), 0x3F7)
    assert ports.answers(0x3F7)


@pytest.mark.parametrize(
    ("port", "device"),
    [
        (0x20, "interrupt controller"),
        (0x40, "timer"),
        (0x60, "keyboard controller"),
        (0x70, "CMOS clock"),
        (0x80, "POST code register"),
        (0x3D4, "text display"),
        (0x3F8, "UART"),
        (0x510, "fw_cfg"),
        (0xCF9, "reset control"),
    ],
)
def test_the_exit_port_of_a_machine_is_one_that_no_device_has(port, device):
    with pytest.raises(BadInput, match=f"the {device} has it"):
        Bare(exit_port=port)
