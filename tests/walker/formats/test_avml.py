import random
import struct
import sys

import numpy as np
import pytest

from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import avml, open_contents
from tests.walker.formats.avmls import CHUNK, block, image

FRAME = 4096
LOW = random.Random(1).randbytes(700).ljust(3 * CHUNK + 2 * FRAME, b"\x5a")
HIGH = bytes(range(256)) * 64
LOW_AT, HIGH_AT = 0x1000, 0x1_0000_0000


@pytest.fixture
def opened(tmp_path):
    def opened(content):
        path = tmp_path / "memory.avml"
        path.write_bytes(content)
        return open_contents(path)

    return opened


def test_blocks_are_memory_at_their_addresses_in_any_order(opened):
    for parts in ([(LOW_AT, LOW), (HIGH_AT, HIGH)], [(HIGH_AT, HIGH), (LOW_AT, LOW)]):
        found = opened(image(*parts))
        assert "AVML image" == found.format
        assert [(LOW_AT, len(LOW)), (HIGH_AT, len(HIGH))] == list(found.memory.ranges)
        assert LOW == found.memory.read(LOW_AT, len(LOW))
        assert HIGH == found.memory.read(HIGH_AT, len(HIGH))


def test_adjacent_blocks_are_one_range_and_frames_are_read_in_any_order(opened):
    memory = opened(image((LOW_AT, LOW), largest=0x5000)).memory
    assert [(LOW_AT, len(LOW))] == list(memory.ranges)
    numbers = random.Random(2).sample(range(len(LOW) // FRAME), 40)
    frames = np.array([LOW_AT + number * FRAME for number in numbers], np.uint64)
    expected = b"".join(LOW[number * FRAME : (number + 1) * FRAME] for number in numbers)
    assert expected == memory.tables(frames).tobytes()


def test_a_frame_of_which_each_block_has_a_part_is_whole(opened):
    memory = opened(block(0, LOW[:0x1800]) + block(0x1800, LOW[0x1800:0x3000])).memory
    assert [(0, 0x3000)] == list(memory.ranges)
    assert LOW[:0x3000] == memory.read(0, 0x3000)


def test_a_block_of_zeros_is_not_written_and_not_backed(opened):
    memory = opened(image((0, LOW[:0x1000] + bytes(0x1000) + LOW[:0x1000]), largest=0x1000)).memory
    assert [(0, 0x1000), (0x2000, 0x1000)] == list(memory.ranges)
    assert None is memory.word(0x1000)


def test_chunks_that_are_stored_as_they_are_and_padding_are_read(opened):
    content = random.Random(3).randbytes(2 * FRAME)  # Doesn't become smaller.
    plain = block(0, content)
    assert 1 == plain[42]
    padded = plain[:42] + b"\xfe\x03\0\0abc" + plain[42:-8]
    length = struct.pack("<Q", len(padded) - 32)
    assert content == opened(padded + length).memory.read(0, 2 * FRAME)


def test_without_its_library_the_command_that_installs_it_is_named(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "cramjam", None)
    expected = r"memory.avml: AVML image: pip install 'crosswalk-x86\[kdump\]' reads it$"
    with pytest.raises(BadInput, match=expected):
        opened(b"AVML" + bytes(28))


WHOLE = image((LOW_AT, LOW), (HIGH_AT, HIGH))
FIRST = len(block(LOW_AT, LOW))


def changed(place, value):
    return WHOLE[:place] + value + WHOLE[place + len(value) :]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (block(0, HIGH, version=3), "AVML image: version 3 at byte 0; version 2 is known$"),
        (block(0, HIGH, padding=1), "not an AVML image: no header at byte 0$"),
        (WHOLE + b"more" * 8, f"damaged AVML image: no header of a block at byte {len(WHOLE):,}$"),
        (block(0x2000, HIGH, last=0x1000), "the block at byte 0 goes from 0x2000 to 0x1000$"),
        (block(0, HIGH, last=1 << 52), r"ends at 0x10000000000000, beyond 52 bits$"),
        (block(0, HIGH, count=7), "damaged AVML image: no end of a block at byte"),
        (block(0, HIGH, last=0x2FFF), r"the block before byte [0-9,]+ has more than it says$"),
        (block(0, HIGH) + block(0x3000, HIGH), "AVML image: blocks overlap at 0x3000$"),
        (changed(42, b"\x02"), "damaged AVML image: no chunk at byte 42$"),
        (changed(42, b"\0\4\0\0"), "damaged AVML image: no chunk at byte 42$"),
        (changed(50, b"\xff\xff\xff\x7f"), "the chunk at byte 42 is of 268,435,455 bytes$"),
        (changed(50, b"\0"), "the chunk at byte 42 is of 0 bytes$"),
    ],
)
def test_what_is_no_image_is_named_with_its_byte(content, expected, opened):
    with pytest.raises(BadInput, match=f"memory.avml: .*{expected}"):
        opened(content)


def test_a_file_that_is_cut_off_anywhere_is_refused(opened):
    for end in [*range(4, FIRST, 101), *range(FIRST + 1, FIRST + 40), len(WHOLE) - 1]:
        with pytest.raises(BadInput, match="truncated AVML image"):
            opened(WHOLE[:end])


def test_a_chunk_whose_checksum_is_wrong_is_named_when_it_is_read(opened):
    memory = opened(changed(60, bytes([WHOLE[60] ^ 1]))).memory
    assert HIGH == memory.read(HIGH_AT, len(HIGH))
    with pytest.raises(BadInput, match="avml: damaged AVML image: the chunk at byte 42: snappy"):
        memory.read(LOW_AT, 8)


def test_more_chunks_than_the_limit_are_refused(opened, monkeypatch):
    monkeypatch.setattr(avml, "MAX_CHUNKS", 4)
    with pytest.raises(LimitExceeded, match=r"more than 4 chunks; no more are read$"):
        opened(WHOLE)


def test_a_changed_image_is_read_or_refused_in_one_line(tmp_path):
    seed, path = random.Random(5), tmp_path / "memory.avml"
    whole = image((LOW_AT, LOW[:0x8000]), (HIGH_AT, HIGH))
    outcomes = {"": 0, "refused": 0}
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(seed.randrange(1, 3)):
            content[seed.randrange(len(content))] = seed.choice(
                [0, 0x7F, 0xFF, seed.randrange(256)]
            )
        path.write_bytes(content)
        refusal = refused(path)
        assert "\n" not in refusal
        outcomes["refused" if refusal else ""] += 1
    assert min(outcomes.values()) > 5, outcomes


def refused(path):
    """The error of an image that is read; empty where there is none."""
    try:
        memory = open_contents(path).memory
        for start, size in memory.ranges:
            memory.read(start, min(size, 1 << 20))
    except CrosswalkError as error:
        return str(error)
    return ""
