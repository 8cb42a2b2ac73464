import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import read_raw


def test_an_image_is_memory_from_its_base_on():
    image = bytes(0x1000) + b"\x11" * 0x1000
    for base in (0, 0x100000):
        memory = read_raw(image, base)
        assert [(base, 0x2000)] == list(memory.ranges)
        assert 0x1111111111111111 == memory.word(base + 0x1008)


@pytest.mark.parametrize(
    ("size", "base", "expected"),
    [
        (0x1800, 0, "6144 bytes are not a multiple of 4096; is the file truncated?"),
        (0x1000, 0x800, "base 0x800 is not the address of a frame"),
        (0x1000, -0x1000, "base -0x1000 is not the address of a frame"),
        (0x2000, (1 << 52) - 0x1000, "ends at 0x10000000001000, beyond 52 bits"),
    ],
    ids=["partial frame", "base in a frame", "negative base", "too high"],
)
def test_an_image_that_is_not_whole_frames_within_52_bits_is_an_error(size, base, expected):
    with pytest.raises(BadInput) as caught:
        read_raw(bytes(size), base)
    assert f"raw image: {expected}" == str(caught.value)


def test_an_image_may_end_at_the_last_physical_address():
    base = (1 << 52) - 0x1000
    assert [(base, 0x1000)] == list(read_raw(bytes(0x1000), base).ranges)
