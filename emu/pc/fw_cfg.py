"""What QEMU tells firmware, and kernels that were written for it: the size of RAM, the processors.

Source: QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device". The interface without
DMA, and no files.
"""

__all__ = ["FW_CFG_PORTS", "FwCfg"]

FW_CFG_PORTS = (0x510, 0x511)

_SELECTOR = 0
_SIGNATURE, _REVISION, _RAM_SIZE, _PROCESSORS, _MOST_PROCESSORS, _FILES = 0, 1, 3, 5, 0x0F, 0x19


class FwCfg:
    """Register 0 takes the number of an item, of two bytes; register 1 has its bytes in turn."""

    def __init__(self, ram: int) -> None:
        one = (1).to_bytes(2, "little")
        self._items = {
            _SIGNATURE: b"QEMU",
            _REVISION: (1).to_bytes(4, "little"),
            _RAM_SIZE: ram.to_bytes(8, "little"),
            _PROCESSORS: one,
            _MOST_PROCESSORS: one,
            _FILES: bytes(4),
        }
        self._item = 0
        self._at = 0

    def read(self, register: int) -> int:
        """Return the next byte of the item, 0 behind its end."""
        if register == _SELECTOR:
            return 0
        content = self._items.get(self._item, b"")
        value = content[self._at] if self._at < len(content) else 0
        self._at += 1
        return value

    def write(self, register: int, value: int) -> None:
        """Take a byte of an item's number, the low one first."""
        self._item = value if register == _SELECTOR else self._item & 0xFF | value << 8
        self._at = 0
