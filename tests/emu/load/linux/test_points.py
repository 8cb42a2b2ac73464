import pytest

from crosswalk.emu.load.linux.points import Point, PointKind, parse_point, parse_symbols
from crosswalk.walker.errors import BadInput

MAP = "ffffffff81000000 T _text\nffffffff81000040 t secondary\n0000000000000000 D fixed\n"


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("idle", Point(PointKind.IDLE)),
        ("cr3:12", Point(PointKind.CR3, number=12)),
        ("instructions:1000000", Point(PointKind.INSTRUCTIONS, number=1_000_000)),
        ("console:Run /init: now", Point(PointKind.CONSOLE, "Run /init: now")),
        ("symbol:_text", Point(PointKind.SYMBOL, "_text", 0xFFFF_FFFF_8100_0000)),
    ],
)
def test_points_are_read_and_written_in_one_way(text, point):
    assert point == parse_point(text, parse_symbols(MAP))
    assert text == str(point)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no point of a boot"),
        ("somewhere", "is no point of a boot"),
        ("console:", "is no point of a boot"),
        ("idle:1", "is no point of a boot"),
        ("cr3:0", "'0' is no positive number"),
        ("cr3:-1", "'-1' is no positive number"),
        ("instructions:many", "'many' is no positive number"),
        ("instructions:²", "is no positive number"),
        ("instructions:9223372036854775808", "is no positive number"),
        ("symbol:_text", "a symbol needs --system-map"),
    ],
)
def test_other_points_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parse_point(text)


def test_a_symbol_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match="no such symbol"):
        parse_point("symbol:nobody", parse_symbols(MAP))


def test_a_stub_of_a_system_map_is_refused():
    with pytest.raises(BadInput, match="no symbols in it"):
        parse_symbols("ffffffffffffffff B The real System.map is in the linux-image-dbg package\n")
