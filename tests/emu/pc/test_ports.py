"""Ports with and without devices."""

from crosswalk.emu.pc.ports import Latch, Ports


def test_nobodys_ports_read_as_all_ones_and_wide_accesses_are_bytes():
    ports = Ports()
    ports.attach(Latch(2), 0x70, 0x71)
    ports.write(0x70, 2, 0xAB40)
    ports.write(0x100, 4, 0)
    assert (0xFFFF_AB40, 0xFF, 0xFFFF_FFFF) == (
        ports.read(0x70, 4),
        ports.read(0x72, 1),
        ports.read(0x100, 4),
    )
    assert [True, True, False] == [ports.answers(port) for port in (0x70, 0x71, 0x72)]
