"""Boot images for machines: each prints a log that is there already, and ends in its own way."""

import struct

from crosswalk.guest.boot import image, log, places
from crosswalk.guest.boot.log import Kind

BASE = 0x800_0000
DIGEST = bytes(range(32))

_CODE = places.CODE
_LOG = places.FIXED

# Code of 32 bits that sends the `size` bytes at `at` everywhere.
_SEND = (
    b"\xfc\xbe{at}\xbf{results}\xb9{size}\xf3\xa4"  # To the results' memory.
    b"\xbe{at}\xb9{size}\xba\xe9\0\0\0\xf3\x6e"  # To port 0xE9.
    b"\xb0\x03\x66\xba\xfb\x03\xee"  # COM1: eight bits a byte.
    b"\xbe{at}\xb9{size}\x66\xba\xfd\x03\xec\xa8\x20\x74\xfb\x66\xba\xf8\x03\xac\xee\xe2\xef"
)
# Bochs is ended by its port, QEMU by ACPI's.
_POWER_OFF = b"".join(b"\xb0" + bytes([char]) + b"\x66\xba\x00\x89\xee" for char in b"Shutdown") + (
    b"\x66\xb8\x00\x20\x66\xba\x04\x06\x66\xef\xfa\xf4\xeb\xfd"
)
_TRIPLE_FAULT = b"\x0f\x01\x1d" + struct.pack("<I", BASE + _CODE - 16) + b"\xcc"
_HANG = b"\xeb\xfe"

ENDS = {"powers off": _POWER_OFF, "resets": _TRIPLE_FAULT, "hangs": _HANG}


def record(kind, number, words=()):
    head = log.MARK | len(words) << 16 | kind << 32 | number << 40
    head |= ((head & log._CHECKED) * log._MIX & log._ALL) >> 56 << 56
    return struct.pack(f"<{len(words) + 2}Q", head, *words, log._checksum(head, words))


def answers(*, complete=True):
    """The log of an image without runs."""
    greeting = (log._FORMAT, *struct.unpack("<4Q", DIGEST))
    parts = [
        record(Kind.GREETING, 0, greeting),
        record(Kind.CPU, 1, [0] * 4 * len(log._LEAVES)),
        record(Kind.RAM, 2, (0, 1 << 32)),
    ]
    return b"".join([*parts, record(Kind.END, 3)] if complete else parts)


def image_of(data, end):
    """An image that sends the data, and then does one of ENDS."""
    results = BASE + _LOG + (len(data) + 0xFFF & -0x1000)
    words = {b"{at}": BASE + _LOG, b"{results}": results, b"{size}": len(data)}
    code = _SEND
    for name, value in words.items():
        code = code.replace(name, struct.pack("<I", value))
    made = bytearray(_LOG)
    top = results + 0x10000
    flags = 0x10002
    made[:32] = struct.pack(
        "<8I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF,
        BASE, BASE, BASE + _LOG + len(data), top, BASE + _CODE,
    )  # fmt: skip
    at = image._SAYS
    made[at : at + 16] = image._MARK
    made[at + 16 : at + 48] = DIGEST
    made[at + 48 : at + 64] = struct.pack("<QQ", results, top - results)
    code += ENDS[end]
    made[_CODE : _CODE + len(code)] = code
    return bytes(made) + data
