"""Lines and records of differences."""

from crosswalk.emu.report.changes import (
    ChangeColumn,
    ChangeForm,
    Totals,
    change_heading,
    change_lines,
    change_records,
)
from crosswalk.walker.compare import Aspect, Change, Changes, compare_pages
from crosswalk.walker.pages import Mapping, pages_of
from crosswalk.walker.rights import Rights
from tests.tables import KIB4, MIB2, PS, RW, XD, P

SMALL = Mapping(0x1000, 0x5000, KIB4, 1, P | RW | XD, Rights(3))
LARGE = Mapping(MIB2, MIB2, MIB2, 2, P | PS, Rights(5))


def changes(before, after, **options):
    return Changes.join(compare_pages(pages_of(before), pages_of(after), **options))


def test_columns_stand_below_their_headings():
    columns = [ChangeColumn("region", "REGION", 8, ["text"]), ChangeColumn("s", "S", 0, ["one"])]
    heading = change_heading(columns)
    (line,) = change_lines(changes([], [SMALL]), ChangeForm(), columns)
    for name, cell in (("VA", "0000000000001000"), ("PA", "0000000005000"), ("FLAGS", "RW XD")):
        assert heading.index(name) == line.index(cell)
    assert heading.index("SUP") == line.index("rw-")
    assert heading.index("REGION") == line.index("text")
    assert heading.rindex("S") == line.index("one")


def test_what_was_is_told_by_what_differs_and_is_not_ignored():
    other = Mapping(0x1000, 0x6000, KIB4, 1, P | XD, Rights(1))
    (line,) = change_lines(changes([SMALL], [other]), ChangeForm())
    assert line.endswith("r-- ---  XD; was rw- ---, at 0000000005000, with RW")
    counted = Aspect.RIGHTS
    rows = changes([SMALL], [other], counted=counted)
    (line,) = change_lines(rows, ChangeForm(counted))
    assert line.endswith("            -        4 KiB r-- ---  XD; was rw- ---")


def test_totals_count_ranges_and_bytes_of_each_kind_and_what_differs():
    totals = Totals()
    small = [
        Mapping(MIB2 + at * KIB4, MIB2 + at * KIB4, KIB4, 1, P, Rights(5)) for at in range(512)
    ]
    totals.add(changes([SMALL, LARGE], small))
    totals.add(changes([SMALL], [SMALL, LARGE]))
    moved = Mapping(0x1000, 0x9000, KIB4, 1, P | RW, Rights(7))
    totals.add(changes([SMALL], [moved]))
    assert {
        "added": {"ranges": 1, "bytes": MIB2},
        "removed": {"ranges": 1, "bytes": KIB4},
        "changed": {"ranges": 1, "bytes": KIB4},
        "resized": {"ranges": 1, "bytes": MIB2},
        "unknown": {"ranges": 0, "bytes": 0},
        "differs": {"frame": 1, "rights": 1, "flags": 1, "size": 0},
        "roots": 0,
    } == totals.record()
    assert 3 == totals.differences
    assert {each.name.lower() for each in Change} < totals.record().keys()


def test_repeats_are_one_line_with_how_many_there_are_and_how_far_apart():
    aliases = [Mapping(at * 16 * KIB4, 0x5000, KIB4, 1, P | XD, Rights(1)) for at in range(8)]
    rows = changes([], aliases)
    (line,) = change_lines(rows, ChangeForm())
    assert line.endswith("       32 KiB r-- ---  XD; 8 × 4 KiB, every 64 KiB")
    (record,) = change_records(rows, ChangeForm())
    assert (8, 1 << 16, 113 * KIB4) == tuple(record[k] for k in ("pieces", "stride", "size"))
    totals = Totals()
    totals.add(rows)
    assert {"ranges": 1, "bytes": 8 * KIB4} == totals.record()["added"]
