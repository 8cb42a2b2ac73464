from crosswalk.emu.pc.fw_cfg import FwCfg
from crosswalk.emu.pc.ports import Ports

SELECTOR, DATA = 0x510, 0x511


def test_items_are_read_byte_by_byte_by_their_numbers():
    ports = Ports()
    ports.attach("fw_cfg", FwCfg(0x1234_5000), SELECTOR, DATA)

    def item(number, size):
        ports.write(SELECTOR, 2, number)
        return bytes(ports.read(DATA, 1) for _ in range(size))

    assert b"QEMU" == item(0, 4)
    assert 1 == int.from_bytes(item(1, 4), "little")  # No DMA.
    assert 0x1234_5000 == int.from_bytes(item(3, 8), "little")
    assert [1, 1] == [int.from_bytes(item(number, 2), "little") for number in (5, 0x0F)]
    assert 0 == int.from_bytes(item(0x19, 4), "big")  # No files.
    assert b"QE" + bytes(2) == item(0, 2) + item(0x8000, 2)


def test_behind_its_end_an_item_reads_as_zeros():
    device = FwCfg(0)
    assert b"QEMU\0\0" == bytes(device.read(1) for _ in range(6))
