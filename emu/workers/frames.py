"""The protocol of pipes between processes: each message is its length, eight bytes, and itself."""

import struct
from typing import BinaryIO

__all__ = ["FrameReader", "framed", "read_frame"]

_LENGTH = struct.Struct("<Q")


def framed(data: bytes) -> bytes:
    """Return a message as it is written."""
    return _LENGTH.pack(len(data)) + data


def read_frame(file: BinaryIO) -> bytes | None:
    """Return the next message of a blocking file, None at its end."""
    head = file.read(_LENGTH.size)
    return None if len(head) < _LENGTH.size else file.read(_LENGTH.unpack(head)[0])


class FrameReader:
    """Puts one message together from the parts that come; `most` bytes are allowed."""

    def __init__(self, most: int) -> None:
        self._most, self._data = most, bytearray()

    def add(self, part: bytes) -> bool:
        """Add a part, and return whether the message is whole; `ValueError` for a larger one."""
        self._data += part
        if len(self._data) < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(self._data)
        if length > self._most:
            raise ValueError(f"a message of {length:,} bytes")
        return len(self._data) >= _LENGTH.size + int(length)

    @property
    def message(self) -> memoryview:
        """The message, once it is whole."""
        return memoryview(self._data)[_LENGTH.size :]
