import pytest

from crosswalk.emu.load.points import Point, PointKind, parse_point
from crosswalk.walker.errors import BadInput

SYMBOLS = {"_text": 0xFFFF_FFFF_8100_0000, "secondary": 0xFFFF_FFFF_8100_0040}


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("idle", Point(PointKind.IDLE)),
        ("user", Point(PointKind.USER)),
        ("syscall:2", Point(PointKind.SYSCALL, number=2)),
        ("cr3:12", Point(PointKind.CR3, number=12)),
        ("instructions:1000000", Point(PointKind.INSTRUCTIONS, number=1_000_000)),
        ("console:Run /init: now", Point(PointKind.CONSOLE, "Run /init: now")),
        ("symbol:_text", Point(PointKind.SYMBOL, "_text", 0xFFFF_FFFF_8100_0000)),
    ],
)
def test_points_are_read_and_written_in_one_way(text, point):
    assert point == parse_point(text, SYMBOLS)
    assert text == str(point)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no point of a boot"),
        ("somewhere", "is no point of a boot"),
        ("console:", "is no point of a boot"),
        ("idle:1", "is no point of a boot"),
        ("user:1", "is no point of a boot"),
        ("syscall", "is no point of a boot"),
        ("syscall:0", "'0' is no positive number"),
        ("cr3:0", "'0' is no positive number"),
        ("cr3:-1", "'-1' is no positive number"),
        ("instructions:many", "'many' is no positive number"),
        ("instructions:²", "is no positive number"),
        ("instructions:9223372036854775808", "is no positive number"),
        pytest.param("cr3:" + "1" * 5_000, "is no positive number", id="digits"),
        ("symbol:_text", "no symbols are known; --system-map FILE"),
    ],
)
def test_other_points_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parse_point(text)


def test_a_symbol_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match="no such symbol"):
        parse_point("symbol:nobody", SYMBOLS)
