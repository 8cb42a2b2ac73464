import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.placing import LOW, Module, Placement, place_modules
from crosswalk.walker.errors import BadInput

MIB = 1 << 20
USABLE = [(0x1000, 0x9E000), (MIB, 15 * MIB)]


def test_memory_is_given_away_from_low_memory_up_and_around_what_is_taken():
    placement = Placement(USABLE)
    placement.put(LOW + 0x10, b"kernel", 0x1000, "the kernel")
    assert [LOW, LOW + 0x1010, 0x12000] == [
        placement.allocate(16, "a"),
        placement.allocate(16, "b"),
        placement.allocate(16, "c", align=0x1000),
    ]
    assert MIB == placement.allocate(0x9_0000, "large")


def test_what_was_given_away_is_written_and_nothing_before():
    placement, ram = Placement(USABLE), Ram(0, 16 * MIB)
    placement.put(MIB, b"kernel", 0x2000, "the kernel")
    at = placement.add(b"table", "a table")
    assert not ram.bytes.any()
    placement.write(ram)
    assert (b"kernel\0", b"table\0") == (ram.read(MIB, 7), ram.read(at, 6))
    assert 11 == ram.bytes.astype(bool).sum()


@pytest.mark.parametrize(
    ("start", "size", "message"),
    [
        (0x800, 0x1000, "segment 1 at 0x800, 4,096 bytes, doesn't lie in RAM that is usable"),
        (0x9_E000, 0x1001, "doesn't lie in RAM"),
        (16 * MIB - 1, 2, "doesn't lie in RAM"),
        (1 << 52, 1, "doesn't lie in RAM"),
        (0xFFFF_FFFF_8000_0000, 1, "doesn't lie in RAM"),
        (MIB, 1 << 60, "doesn't lie in RAM"),
        (2 * MIB + 0xFFF, 1, "segment 1 at 0x200fff overlaps segment 0 at 0x200000"),
        (2 * MIB - 1, 2, "overlaps segment 0"),
    ],
)
def test_a_segment_that_is_not_in_free_ram_is_refused(start, size, message):
    image = GuestImage(((2 * MIB, b"code", 0x1000), (start, b"", size)), 2 * MIB)
    with pytest.raises(BadInput, match=message):
        Placement(USABLE).put_image(image)


def test_segments_that_touch_are_taken():
    placement = Placement(USABLE)
    placement.put_image(GuestImage(((MIB, b"", 0x1000), (MIB + 0x1000, b"", 1)), MIB))
    assert MIB + 0x1010 == placement.allocate(1, "more", floor=MIB)


def test_modules_lie_behind_the_guest_at_whole_pages():
    image = GuestImage(((0x4000, b"", 0x1000), (2 * MIB, b"", 0x1801)), 2 * MIB)
    modules = [Module("a", b"x" * 0x1001), Module("b", b""), Module("c", b"y")]
    placement = Placement(USABLE)
    placement.put_image(image)
    assert [(2 * MIB + 0x2000, 0x1001), (2 * MIB + 0x4000, 0), (2 * MIB + 0x5000, 1)] == (
        place_modules(placement, modules, image)
    )


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(
        BadInput, match=r"module big of 16,777,216 bytes doesn't fit in RAM: 0x1000-"
    ):
        place_modules(
            Placement(USABLE), [Module("big", bytes(16 * MIB))], GuestImage(((MIB, b"", 1),), MIB)
        )
    with pytest.raises(BadInput, match="a stack of 4,096 bytes doesn't fit"):
        Placement(USABLE).allocate(4096, "a stack", floor=0x1000, below=0x1FFF)


def test_the_first_room_that_is_free_is_given_away_wherever_others_are():
    placement = Placement([(0x1000, 0x4000), (MIB, MIB)])
    for start in (0x3000, 0x1000):
        placement.put(start, b"", 0x1000, "a piece")
    found = [placement.allocate(size, "more", align=0x1000, floor=0) for size in (1, 0x1000, 0x800)]
    assert [0x2000, 0x4000, MIB] == found
    assert 0x2010 == placement.allocate(0xFF0, "the rest of a page", floor=0)
