"""Results that a machine without COM1 showed on its screen, typed or recognised back from there.

A line has its number, four words of eight bytes, and a checksum, in hex:

    0012 c5b00500010000e1 0100000000000000 … 8d2f

The checksum is CRC-16 (`binascii.crc_hqx`) of the number, in two bytes, and of the 32 bytes. Lines
may come in any order, and more than once.
"""

import binascii
import re
from collections.abc import Iterator

from crosswalk.walker.errors import BadInput

__all__ = ["from_screen", "on_screen"]

_LINE = 32
"""Bytes of a line."""

_DIGITS = 2 * (2 + _LINE + 2)
_LINE_LIKE = _DIGITS - 12
"""So many digits are meant as a line, even if some are missing."""

# Letters that digits are taken for.
_MISTAKEN = str.maketrans("oOQlI|iZzSsGg", "0001111225569")
_HEX = re.compile(r"[0-9a-f]+")


def on_screen(data: bytes) -> str:
    """Return the lines that show `data`, as many as it takes; the last is filled up with zeros."""
    lines = []
    for number, at in enumerate(range(0, len(data), _LINE)):
        content = data[at : at + _LINE].ljust(_LINE, b"\0")
        words = " ".join(content[word : word + 8].hex() for word in range(0, _LINE, 8))
        lines.append(f"{number & 0xFFFF:04x} {words} {_checksum(number, content):04x}\n")
    return "".join(lines)


def from_screen(data: bytes) -> bytes | None:
    """Return the bytes that such lines show, or None where `data` isn't text with one.

    Other lines are passed over. Raises `BadInput`, with the line of the file, for one whose
    checksum isn't that of its bytes, and where a line before the last one is missing.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    found: dict[int, bytes] = {}
    for where, digits in _lines(text):
        number = int(digits[:4], 16)
        content = bytes.fromhex(digits[4:-4]) if len(digits) == _DIGITS else b""
        if not content or int(digits[-4:], 16) != _checksum(number, content):
            raise BadInput(f"line {where} isn't as the screen showed it: its checksum differs")
        if found.setdefault(number, content) != content:
            raise BadInput(f"line {where} is another than the line {number:04x} before it")
    if not found:
        return None
    for number in range(max(found)):
        if number not in found:
            raise BadInput(f"the line that the screen showed as {number:04x} is missing")
    return b"".join(found[number] for number in range(len(found)))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and digits of each line of the file that may be one of the screen."""
    for where, line in enumerate(text.splitlines(), 1):
        digits = "".join(line.split()).translate(_MISTAKEN).lower()
        if len(digits) >= _LINE_LIKE and _HEX.fullmatch(digits):
            yield where, digits


def _checksum(number: int, content: bytes) -> int:
    return binascii.crc_hqx((number & 0xFFFF).to_bytes(2, "little") + content, 0)
