import random
import struct

import pytest

from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import Registers, lime, open_contents, open_source
from crosswalk.walker.formats.elfheaders import MAX_SEGMENTS
from crosswalk.walker.formats.lime import read_lime

HEADER = struct.Struct("<4sIQQQ")
LOW, HIGH = 0x1000, 0x100000
FIRST, SECOND = b"\x11" * 0x2000, b"\x22" * 0x1000


def header(first, last, *, magic=b"EMiL", version=1):
    return HEADER.pack(magic, version, first, last, 0)


def image(*parts):
    return b"".join(header(first, first + len(part) - 1) + part for first, part in parts)


def test_ranges_are_memory_at_their_addresses_in_any_order():
    for parts in ([(LOW, FIRST), (HIGH, SECOND)], [(HIGH, SECOND), (LOW, FIRST)]):
        memory = read_lime(image(*parts))
        assert [(LOW, 0x2000), (HIGH, 0x1000)] == list(memory.ranges)
        assert FIRST + SECOND == memory.read(LOW, 0x2000) + memory.read(HIGH, 0x1000)
        assert None is memory.word(0x3000)


def test_a_range_that_ends_within_a_frame_is_joined_with_the_next_one():
    memory = read_lime(image((0, FIRST[:0x1800]), (0x1800, FIRST[:0x800])))
    assert [(0, 0x2000)] == list(memory.ranges)
    assert 0x1111111111111111 == memory.word(0x17F8) == memory.word(0x1800)


WHOLE = image((LOW, FIRST), (HIGH, SECOND))
SECOND_AT = HEADER.size + len(FIRST)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x11" * 0x1000, "not a LiME image: no header at byte 0"),
        (WHOLE[:16], "truncated LiME image: the header at byte 0 takes 32 bytes, and the file"),
        (
            WHOLE[: SECOND_AT + 31],
            "truncated LiME image: the header at byte 8,224 takes 32 bytes, and the file ends",
        ),
        (
            WHOLE[:-1],
            "truncated LiME image: the range 0x100000–0x100fff ends at byte 12,352, the file",
        ),
        (WHOLE + b"more" * 8, "damaged LiME image: no header of a range at byte 12,352"),
        (header(0, 0xFFF, version=2) + SECOND, "LiME image: version 2 at byte 0; version 1 is"),
        (
            header(0x1000, 0xFFE),
            "damaged LiME image: the range at byte 0 goes from 0x1000 to 0xffe",
        ),
        (
            header(0x1000, 1 << 52),
            "LiME image: the range at byte 0 ends at 0x10000000000000, beyond 52 bits",
        ),
        (header(0, (1 << 52) - 1), "truncated LiME image: the range 0x0–0xfffffffffffff ends at"),
        (image((LOW, FIRST), (LOW + 0x1FFF, b"1")), "LiME image: ranges overlap at 0x2fff"),
        (image((LOW, FIRST), (0, FIRST[:0x1001])), "LiME image: ranges overlap at 0x1000"),
    ],
    ids=[
        *("none", "part of a header", "part of the second header", "truncated range", "more"),
        *("version", "backwards", "too high", "too long", "overlap", "overlap, out of order"),
    ],
)
def test_what_is_wrong_with_an_image_is_one_line_with_its_place(data, expected):
    with pytest.raises(BadInput) as caught:
        read_lime(data)
    assert expected == str(caught.value)[: len(expected)]


def test_an_image_may_have_as_many_ranges_as_an_elf_core_and_not_one_more(monkeypatch):
    assert MAX_SEGMENTS == lime.MAX_RANGES
    parts = [(0x1000 * at, b"\x01") for at in range(5000)]
    assert 5000 == len(read_lime(image(*parts)).ranges)
    monkeypatch.setattr(lime, "MAX_RANGES", 4999)
    with pytest.raises(LimitExceeded) as caught:
        read_lime(image(*parts))
    assert "LiME image: more than 4,999 ranges: it isn't read" == str(caught.value)


def test_a_file_is_recognised_by_its_first_bytes_and_can_be_taken_for_raw(tmp_path):
    path = tmp_path / "memory"
    path.write_bytes(image((0, FIRST[32:])))
    contents = open_contents(path)
    assert ("lime", "LiME image") == (contents.kind, contents.format)
    with pytest.raises(BadInput, match=r"LiME image: no root was found in its memory: give --cr3"):
        open_source(path)
    path.write_bytes(image((0, FIRST[32:])))
    assert "LiME image" == open_source(path, Registers(cr3=0), kind="raw").begins_as


def test_damaged_images_are_read_or_refused_in_one_line():
    chance = random.Random(16)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        data = bytearray(image((LOW, FIRST), (HIGH, SECOND), (0x200000, FIRST)))
        for _ in range(chance.randrange(3)):
            place = chance.choice([0, SECOND_AT, SECOND_AT + 32 + len(SECOND)])
            data[place + chance.randrange(32)] ^= 1 << chance.randrange(8)
        if chance.randrange(2):
            del data[chance.randrange(len(data)) :]
        try:
            ranges = read_lime(bytes(data)).ranges
        except CrosswalkError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            assert sum(size for _, size in ranges) < len(data) or not data
    assert all(outcomes.values())
