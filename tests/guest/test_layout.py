import struct

import pytest

from crosswalk.guest.errors import LayoutError
from crosswalk.guest.layout import (
    Bit,
    MemoryMap,
    Raw,
    Region,
    Upper,
    index_of,
    pack_records,
    sign_extended,
    span_of,
)


def described(*regions, raws=(), levels=4):
    return MemoryMap(
        levels=levels,
        ram_size=1 << 20,
        regions=regions,
        raws=raws,
        holes=(),
        recursive_slot=0o740,
        recursive_flags=Bit.P | Bit.RW | Bit.NX,
        symbols={},
    )


def records_of(memory_map):
    data = pack_records(memory_map)
    count, zero = struct.unpack_from("<2Q", data)
    assert (0, 16 + 80 * count) == (zero, len(data))
    return list(struct.iter_unpack("<10Q", data[16:]))


SLOT = (0xFFFFF00000000000, Bit.P | Bit.RW | Bit.NX, 0, 1, 4, 1, 7, 7, 7, 7)


def test_a_region_is_packed_with_its_pages_as_steps_and_its_upper_flags():
    region = Region(
        name="r",
        va=0x40000000,
        pa=0x200000,
        level=2,
        count=3,
        flags=Bit.P | Bit.NX,
        supervisor="r--",
        upper=Upper(((3, 5), (4, 1))),
    )
    assert [
        (0x40000000, 0x8000000000200081, 0x200000, 3, 2, 0, 7, 5, 1, 7),
        SLOT,
    ] == records_of(described(region))


def test_a_raw_entry_is_packed_as_it_is():
    raw = Raw(name="junk", va=0x1000, level=1, entry=0xDEADBEEF)
    assert [
        (0x1000, 0xDEADBEEF, 0, 1, 1, 0, 7, 7, 7, 7),
        SLOT,
    ] == records_of(described(raws=(raw,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"va": 0x1000}, "no entry at level 2 begins at 0x1000"),
        ({"pa": 0x1000}, "no 1 leaves at 0x1000"),
        ({"count": 0}, "no 0 leaves"),
        ({"va": 1 << 47}, "no entry at level 2 begins at 0x800000000000"),
        ({"level": 4}, "no 1 leaves"),
        ({"level": 5}, "there is no level 5"),
    ],
)
def test_a_region_that_no_entry_can_mean_is_refused(changes, message):
    good = {"name": "odd", "va": 0, "pa": 0, "level": 2, "flags": 1, "supervisor": "r-x"}
    assert 2 == len(records_of(described(Region(**good))))
    with pytest.raises(LayoutError, match=f"^odd: {message}"):
        pack_records(described(Region(**good | changes)))


@pytest.mark.parametrize(
    ("va", "levels", "expected"),
    [
        (0x0000_7FFF_FFFF_F000, 4, 0x0000_7FFF_FFFF_F000),
        (0x0000_8000_0000_0000, 4, 0xFFFF_8000_0000_0000),
        (0x0000_8000_0000_0000, 5, 0x0000_8000_0000_0000),
        (0x0100_0000_0000_0000, 5, 0xFF00_0000_0000_0000),
    ],
)
def test_addresses_are_sign_extended_from_their_width(va, levels, expected):
    assert expected == sign_extended(va, levels)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_spans_and_indices_belong_together(level):
    va = 0o003_005_007_011_013_0000
    assert [None, 0o13, 0o11, 7, 5, 3][level] == index_of(va, level)
    assert [None, 1 << 12, 1 << 21, 1 << 30, 1 << 39, 1 << 48][level] == span_of(level)
