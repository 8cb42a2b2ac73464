import bz2
import lzma
import struct

import lz4.block
import pytest
import zstandard

from crosswalk.emu.load import payload
from crosswalk.emu.load.payload import unpack
from crosswalk.walker.errors import BadInput
from tests.packing import gzipped

DATA = bytes(range(256)) * 300 + b"the end"
TRAILER = struct.pack("<I", len(DATA))


def lz4_legacy(data, size=1 << 15):
    blocks = b""
    for at in range(0, len(data), size):
        block = lz4.block.compress(data[at : at + size], store_size=False)
        blocks += struct.pack("<I", len(block)) + block
    return b"\x02\x21\x4c\x18" + blocks


PACKED = {
    "gzip": gzipped(DATA),
    "xz": lzma.compress(DATA, check=lzma.CHECK_CRC32) + TRAILER,
    "lzma": lzma.compress(DATA, format=lzma.FORMAT_ALONE) + TRAILER,
    "bzip2": bz2.compress(DATA) + TRAILER,
    "zstd": zstandard.compress(DATA) + TRAILER,
    "lz4": lz4_legacy(DATA) + TRAILER,
}
each = pytest.mark.parametrize("name", PACKED)


@each
def test_every_compression_is_undone_and_what_follows_does_not_count(name):
    assert DATA == unpack(PACKED[name])


def test_lz4_without_a_size_behind_it_is_undone():
    assert DATA == unpack(lz4_legacy(DATA))


@each
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_payload_is_refused(name, kept):
    with pytest.raises(BadInput, match=f"damaged {name} payload"):
        unpack(PACKED[name][: int(len(PACKED[name]) * kept)])


# The others have no check of their contents that lies before the damage.
@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_a_damaged_payload_is_refused(name):
    data = bytearray(PACKED[name])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadInput, match=f"damaged {name} payload"):
        unpack(bytes(data))


@each
def test_a_payload_that_unpacks_to_too_much_is_refused(name, monkeypatch):
    monkeypatch.setattr(payload, "MAX_UNPACKED", len(DATA) - 1)
    with pytest.raises(BadInput, match="more than"):
        unpack(PACKED[name])
    monkeypatch.setattr(payload, "MAX_UNPACKED", len(DATA))
    assert DATA == unpack(PACKED[name])


def test_other_bytes_are_refused():
    with pytest.raises(BadInput, match="unknown compression: it begins 894c5a4f"):
        unpack(b"\x89LZO\0\r\n\x1a\n")
