"""AVML images, written for tests: src/image.rs of AVML, and Snappy's framing_format.txt."""

import struct

import cramjam

CHUNK = 1 << 16


def block(first, content, *, magic=b"AVML", version=2, padding=0, last=None, count=None):
    """A block at a physical address: its header, the stream and the stream's length."""
    last = first + len(content) - 1 if last is None else last
    stream = bytes(cramjam.snappy.compress(content))
    length = len(stream) if count is None else count
    head = struct.pack("<4sIQQQ", magic, version, first, last, padding)
    return head + stream + struct.pack("<Q", length)


def image(*parts, largest=1 << 24):
    """An image of (address, bytes) parts, in blocks as large as AVML's; those of zeros left out."""
    blocks = [
        (first + at, content[at : at + largest])
        for first, content in parts
        for at in range(0, len(content), largest)
    ]
    return b"".join(block(first, part) for first, part in blocks if any(part))
