"""`compare`: what two sources map differently, as lines, records, a summary and a status."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from crosswalk.emu.cli import compare
from crosswalk.emu.cli.compare_names import RegionTotals
from crosswalk.walker.formats import Case, Cpu, dump_case
from crosswalk.walker.pages import Pages
from crosswalk.walker.repeats import Runs
from tests.emu.cli.conftest import small
from tests.emu.cli.incomplete_images import OUTSIDE, clean, lacking
from tests.emu.cli.running import refused
from tests.tables import KIB4, OPEN, PCD, PS, PWT, RW, US, XD, A, D, G, P, PageTables, context
from tests.walker.formats.stubs import Stub

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
CR3 = ("--cr3", "0x1000", "--b-cr3", "0x1000")


@pytest.fixture
def compared(run, raw):
    """Compare two sets of tables with these options."""

    def compared(before, after, *options, roots=CR3):
        paths = raw(before, "before"), raw(after, "after")
        return run("compare", *paths, *roots, *options)

    return compared


@pytest.fixture(autouse=True)
def lines_fit_the_schema(monkeypatch):
    """Hold every line of JSON that is printed in these tests to the schema of the format."""
    schema = json.loads((SCHEMAS / "crosswalk-changes-1.json").read_text(encoding="utf-8"))
    emit, fits = compare.emit, jsonschema.Draft202012Validator(schema)

    def checked(record):
        fits.validate(record)
        emit(record)

    monkeypatch.setattr(compare, "emit", checked)


def changed(**pages):
    """The small tables, with other entries of level 1: of a page by its address, as a word."""
    tables = small()
    for va, word in pages.items():
        tables.entries[tables.entry_pa(int(va[1:], 16))] = word
    return tables


OTHER = {
    "_400000": 0x8000 | P | XD,
    "_401000": 0,
    "_402000": 0xB000 | P | RW | XD,
    "_403000": 0xC000 | P | RW | XD,
    "_800000": 0xD000 | OPEN,
}


OF_400000 = "0000000000400000-0000000000400fff 0000000008000        4 KiB r-- ---"
OF_800000 = "0000000000800000-0000000000800fff 000000000d000        4 KiB rwx rwx"


def test_a_source_has_no_difference_from_itself(run, small_case):
    ran = run("compare", small_case, small_case)
    assert (0, "") == (ran.status, ran.out)
    assert ran.err.endswith("\nno difference\n")


def test_what_appeared_went_and_changed_is_a_line_each(compared):
    ran = compared(small(), changed(**OTHER))
    assert 1 == ran.status
    assert [
        f"~ {OF_400000}  XD; was rw- ---, with RW",
        "- 0000000000401000-0000000000401fff 0000000009000        4 KiB r-x ---",
        "+ 0000000000402000-0000000000403fff 000000000b000        8 KiB rw- ---  RW XD",
        f"~ {OF_800000}  RW US; was at 000000000a000",
    ] == ran.out.splitlines()
    assert ran.err.endswith(
        "1 range added (8 KiB), 1 range removed (4 KiB), 2 ranges changed (8 KiB)\n"
    )


def test_records_have_both_sides_and_what_differs(compared):
    rights = {"supervisor": "r--", "user": "---"}
    was = {"supervisor": "rw-", "user": "---"}
    ran = compared(small(), changed(**OTHER), "--json")
    assert {
        "change": "changed",
        "va": "0x400000",
        "size": 4096,
        "before": {"pa": "0x8000", "flags": "0x8000000000000003", "rights": was},
        "after": {"pa": "0x8000", "flags": "0x8000000000000001", "rights": rights},
        "differs": ["rights", "flags"],
    } == ran.records[0]
    assert [("removed", True), ("added", False)] == [
        (each["change"], each["after"] is None) for each in ran.records[1:3]
    ]
    assert None is ran.records[2]["before"]
    assert ["frame"] == ran.records[3]["differs"]


def test_the_other_way_round_what_went_appears(compared):
    there, back = (
        [line[0] for line in compared(*sides).out.splitlines()]
        for sides in ((small(), changed(**OTHER)), (changed(**OTHER), small()))
    )
    assert ["~", "-", "+", "~"] == there
    assert ["~", "+", "-", "~"] == back


@pytest.mark.parametrize(
    ("word", "ignore", "shown"),
    [
        (0x8000 | P | RW | XD | G, "g", "without G"),
        (0x8000 | P | RW | XD | PWT, "pwt", "without PWT"),
        (0x8000 | P | RW | XD | PS, "pat", "without PAT"),
        (0x8000 | P | RW | XD | 1 << 9, "sw", "with flags 0x8000000000000003"),
        (0x8000 | P | RW | XD | 5 << 59, "pk", "without PK=5"),
        (0x9000 | P | RW | XD, "frame", "at 0000000008000"),
        (0x8000 | P | RW, "rights,flags", "rw- ---, with XD"),
    ],
)
def test_what_is_ignored_is_no_difference(compared, word, ignore, shown):
    other = changed(_400000=word)
    ran = compared(small(), other)
    assert 1 == ran.status
    assert ran.out.endswith(f"; was {shown}\n")
    assert 0 == compared(small(), other, "--ignore", ignore).status


def test_flags_that_are_ignored_keep_no_ranges_apart_nor_do_frames(compared):
    before, after = PageTables(ram=((0, 0x10000),)), PageTables(ram=((0, 0x10000),))
    for at, flags in enumerate([0, G, 1 << 9]):
        before.map(0x40_0000 + at * KIB4, 0x8000, P | flags)
        after.map(0x40_0000 + at * KIB4, 0x9000 + at * KIB4, P | RW | flags)
    assert 3 == len(compared(before, after).out.splitlines())
    (line,) = compared(before, after, "--ignore", "flags,frame").out.splitlines()
    assert "0000000000402fff             -       12 KiB rwx ---  RW; was r-x ---" in line


def test_accessed_and_dirty_count_where_that_is_asked_for(compared):
    used = changed(_800000=0xA000 | OPEN | A | D)
    assert 0 == compared(small(), used).status
    ran = compared(small(), used, "--accessed")
    assert (1, True) == (ran.status, ran.out.endswith("; was without A, without D\n"))


def split():
    """A large page, and the same as small ones but for one right."""
    large = PageTables(ram=((0, 0x10000),)).map(0x40_0000, 0x20_0000, P | RW | US | PS, level=2)
    small = PageTables(ram=((0, 0x10000),))
    for at in range(512):
        small.map(0x40_0000 + at * KIB4, 0x20_0000 + at * KIB4, P | RW | US)
    return large, small


def test_a_page_that_was_split_is_a_difference_where_sizes_count(compared):
    ran = compared(*split())
    assert (0, "") == (ran.status, ran.out)
    assert "2 MiB are mapped as before, in pages of another size" in ran.err
    ran = compared(*split(), "--page-sizes")
    assert (1, True) == (ran.status, ran.out.endswith("; was in pages of 2 MiB\n"))
    (record,) = compared(*split(), "--page-sizes", "--json").records
    assert [2 << 20, 4096] == [record[side]["page_size"] for side in ("before", "after")]
    assert (2 << 20, ["size"]) == (record["size"], record["differs"])


def test_filters_and_a_range_apply_to_both_sides(compared):
    sides = small(), changed(**OTHER)
    lines = compared(*sides, "--user").out.splitlines()
    assert ["~ 0000000000800000"] == [line[:18] for line in lines]
    lines = compared(*sides, "--start", "0x403000", "--end", "0x404000").out.splitlines()
    assert ["+ 0000000000403000-0000000000403fff"] == [line[:35] for line in lines]
    lines = compared(*sides, "--start", "0x403123", "--end", "0x403124").out.splitlines()
    assert ["+ 0000000000403000-0000000000403fff"] == [line[:35] for line in lines]
    # A large page that begins before the range is compared from there.
    lines = compared(*split(), "--start", "0x401000", "--page-sizes").out.splitlines()
    assert ["~ 0000000000401000-00000000005fffff"] == [line[:35] for line in lines]


def test_mappings_of_a_memory_type_are_compared(compared):
    sides = small(), changed(_400000=0x8000 | P | XD, _800000=0xD000 | OPEN | PCD)
    assert 2 == len(compared(*sides).out.splitlines())
    lines = compared(*sides, "--memory-type", "uc-").out.splitlines()
    assert ["+ 0000000000800000-0000000000800fff"] == [line[:35] for line in lines]
    assert 0 == compared(*sides, "--memory-type", "wc").status
    # Field 2 is write-back there.
    ran = compared(*sides, "--memory-type", "wb", "--pat", "0x60006")
    assert ["~ 0000000000400000", "~ 0000000000800000"] == [
        line[:18] for line in ran.out.splitlines()
    ]


def test_frames_compares_collective_rights(compared):
    ran = compared(small(), changed(**OTHER), "--frames")
    assert 1 == ran.status
    assert [
        "~ 0000000008000-0000000008fff        4 KiB r-- ---; was rw- ---",
        "- 0000000009000-0000000009fff        4 KiB r-x ---",
        "- 000000000a000-000000000afff        4 KiB rwx rwx",
        "+ 000000000b000-000000000cfff        8 KiB rw- ---",
        "+ 000000000d000-000000000dfff        4 KiB rwx rwx",
    ] == ran.out.splitlines()
    records = compared(small(), changed(**OTHER), "--frames", "--json").records
    assert [("changed", "0x8000"), ("removed", "0x9000"), ("removed", "0xa000")] == [
        (each["change"], each["pa"]) for each in records[:3]
    ]
    assert {"rights": {"supervisor": "rw-", "user": "---"}} == records[0]["before"]


@pytest.mark.parametrize(
    "option",
    [
        *("--accessed", "--page-sizes", "--ignore=g", "--level=1", "--user", "--start=0x1000"),
        "--memory-type=uc",
    ],
)
def test_frames_takes_nothing_that_says_what_counts_of_mappings(compared, option):
    name = option.partition("=")[0]
    line = refused(compared(small(), small(), "--frames", option))
    assert f"--frames and {name}: choose one of them" in line


def test_frames_takes_the_filters_of_physical_ranges(compared):
    sides = small(), changed(**OTHER)
    records = compared(*sides, "--frames", "--json", "--pa", "0x9000-0xb000").records
    assert ["0x9000", "0xa000"] == [each["pa"] for each in records]


def two_roots(second):
    """The small tables, and a second root that maps one page."""
    tables = small()
    other = PageTables(root=0xB000).map(0x40_0000, second & -KIB4, second & (KIB4 - 1))
    tables.entries |= other.entries
    return tables


def test_roots_are_compared_each_with_its_own(compared):
    sides = two_roots(0xA000 | OPEN), two_roots(0x9000 | OPEN)
    ran = compared(*sides, roots=("--roots", "0x1000,0xb000"))
    assert 1 == ran.status
    assert ["root 0xb000:", "~ 0000000000400000"] == [line[:18] for line in ran.out.splitlines()]
    ran = compared(*sides, "--json", roots=("--roots", "0x1000,0xb000"))
    assert [("0xb000", "changed")] == [(each["root"], each["change"]) for each in ran.records]


def test_a_root_of_one_side_alone_is_a_line(run, case, tmp_path):
    after = case(two_roots(0xA000 | OPEN), root=0xB000).rename(tmp_path / "after.json")
    before = case(small())
    ran = run("compare", before, after, "--roots", "all")
    assert 1 == ran.status
    assert ["- root 0x1000: 3 mappings", "+ root 0xb000: 1 mapping"] == ran.out.splitlines()
    assert ran.err.endswith("\n2 roots of one side alone\n")
    ran = run("compare", before, after, "--roots", "all", "--json")
    assert [("removed", "0x1000", 3), ("added", "0xb000", 1)] == [
        (each["change"], each["root"], each["mappings"]) for each in ran.records
    ]


def test_what_one_side_lacks_the_tables_for_is_no_difference_and_none_is_not_found(compared):
    before, after = clean().map(0x20_0000, 0xC000), clean()
    after.words[after.entry_pa(0x20_0000, 2)] = OUTSIDE | OPEN
    ran = compared(before, after)
    assert "" == ran.out
    assert "4 KiB that one side maps can't be compared: the other lacks the tables" in ran.err
    assert "nothing found, but not everything could be looked at" in refused(ran)
    ran = compared(before, after, "--partial")
    assert (0, "") == (ran.status, ran.out)
    assert ran.err.endswith("\nno difference in what could be looked at\n")
    # What both have is compared all the same.
    before.map(0x40_3000, 0xD000)
    ran = compared(before, after)
    assert (1, "- 0000000000403000") == (ran.status, ran.out[:18])
    assert 1 == ran.err.count("after: partial: there may be more")


def test_a_summary_has_both_sides(compared, tmp_path):
    path = tmp_path / "summary.json"
    compared(clean(), lacking(), "--summary", path)
    summary = json.loads(path.read_bytes())
    assert {"ranges": 1, "bytes": 4096} == summary["added"]
    assert {"ranges": 0, "bytes": 0} == summary["removed"]
    assert [2, 3] == [summary[side]["mappings"] for side in ("before", "after")]
    assert [0, 3] == [summary[side]["unfollowed"]["outside"] for side in ("before", "after")]
    compared(small(), changed(**OTHER), "--summary", path)
    summary = json.loads(path.read_bytes())
    assert [1, 1, 2] == [summary[kind]["ranges"] for kind in ("added", "removed", "changed")]
    assert {"frame": 1, "rights": 1, "flags": 1, "size": 0} == summary["differs"]


def test_a_limit_is_of_lines_and_all_is_counted(compared):
    ran = compared(small(), changed(**OTHER), "--limit", 1)
    assert (1, 1) == (ran.status, len(ran.out.splitlines()))
    assert "1 range added (8 KiB)" in ran.err
    assert ran.err.endswith("\nthese are the first 1\n")


def test_too_many_lines_and_mappings_are_an_error(compared, monkeypatch):
    monkeypatch.setattr(compare, "_LIMIT", 3)
    ran = compared(small(), changed(**OTHER))
    assert (2, 3) == (ran.status, len(ran.out.splitlines()))
    assert ran.err.endswith("stopped after 3 lines; --limit N prints so many\n")
    monkeypatch.setattr(compare, "_MOST", 2)
    assert "more than 2 mappings to compare: --start" in refused(compared(small(), small()))


def test_each_side_has_registers_of_its_own(run, raw, small_case):
    moved = PageTables(root=0x4000, ram=((0, 0x10000),))
    for va, pa, flags in ((0x40_0000, 0x8000, P | RW | XD), (0x40_1000, 0x9000, P)):
        moved.map(va, pa, flags)
    moved.map(0x80_0000, 0xA000)
    path = raw(moved)
    assert 0 == run("compare", small_case, path, "--b-cr3", "0x4000").status
    assert 0 == run("compare", path, small_case, "--cr3", "0x4000").status
    # Without NXE, XD is reserved, and only one page is left of the side that is read so.
    lines = run("compare", small_case, path, "--b-cr3", "0x4000", "--b-efer", "0x500").out
    assert ["- 0000000000400000"] == [line[:18] for line in lines.splitlines()]


def test_a_live_guest_is_compared_with_what_it_was(run, small_raw):
    tables = small()
    tables.entries[tables.entry_pa(0x40_1000)] = 0
    with Stub(tables.memory).listening() as guest:
        ran = run("compare", small_raw, guest.name, "--cr3", "0x1000")
        assert (1, "- 0000000000401000") == (ran.status, ran.out[:18])
        ran = run("compare", guest.name, small_raw, "--b-cr3", "0x1000")
        assert (1, "+ 0000000000401000") == (ran.status, ran.out[:18])
        assert 0 == run("compare", guest.name, guest.name).status
        assert (True, False) == guest.found


def test_sides_without_mappings_are_refused(run, small_raw):
    line = refused(run("compare", small_raw, small_raw, "--cr3", "0x1000", "--b-cr3", "0xe000"))
    assert "no mapping" in line
    ran = run(
        *("compare", small_raw, small_raw, "--cr3", "0xe000", "--b-cr3", "0xe000"), "--allow-empty"
    )
    assert (0, "") == (ran.status, ran.out)


def test_a_comparison_that_overlooks_a_kind_is_noticed(compared, monkeypatch):
    """The planted twin: this test's own sides, and a product that drops what went."""
    test_what_appeared_went_and_changed_is_a_line_each(compared)
    whole = compare.compare_pages

    def dropping(*sides, **options):
        for rows in whole(*sides, **options):
            yield rows.take(rows.kind != compare.Change.REMOVED)

    monkeypatch.setattr(compare, "compare_pages", dropping)
    with pytest.raises(AssertionError):
        test_what_appeared_went_and_changed_is_a_line_each(compared)


MAP = "0000000000400000 T one\n0000000000401000 T two\n0000000000402000 T three\n"


@pytest.fixture
def symbols(tmp_path):
    path = tmp_path / "System.map"
    path.write_text(MAP)
    return path


def test_ranges_have_the_names_of_the_side_that_maps_them(compared, symbols, tmp_path):
    sides = small(), changed(**OTHER)
    ran = compared(*sides, "--symbols", symbols)
    first, second = ran.out.splitlines()[:2]
    assert ["XD", "one;", "was", "rw-"] == first.split()[-7:-3]
    assert second.endswith("two")
    records = compared(*sides, "--symbols", symbols, "--json").records
    assert ["one", "two", "three"] == [each["symbol"].partition("+")[0] for each in records[:3]]
    other = tmp_path / "other.map"
    other.write_text(MAP.replace("three", "four"))
    records = compared(*sides, "--symbols", symbols, "--b-symbols", other, "--json").records
    assert ["one", "two", "four"] == [each["symbol"].partition("+")[0] for each in records[:3]]
    # Of one side alone: what A has no name for, and is still there, has B's.
    records = compared(*sides, "--b-symbols", other, "--json").records
    found = [(each["change"], each["symbol"]) for each in records[:3]]
    assert [("changed", "one"), ("removed", None), ("added", "four")] == found
    symbols.write_text(f"{MAP}0000000000400100 T within\n")
    first = compared(*sides, "--symbols", symbols, "--json").records[0]
    assert ("one", "within") == (first["symbol"], first["last_symbol"])
    assert "  one … within; was" in compared(*sides, "--symbols", symbols).out


def test_ranges_may_be_chosen_by_name(compared, symbols):
    lines = compared(small(), changed(**OTHER), "--symbols", symbols, "--name", "t*").out
    assert ["- 0000000000401000", "+ 0000000000402000"] == [
        line[:18] for line in lines.splitlines()[:2]
    ]
    line = refused(compared(small(), small(), "--symbols", symbols, "--in", "nothing"))
    assert "--in nothing: no such region" in line


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--by-name",), "--by-name needs --symbols"),
        (("--by-name", "--symbols", "auto", "--start", "1"), "--by-name and --start"),
        (("--by-name", "--symbols", "linux", "--frames"), "--frames and --symbols"),
        (("--b-symbols-offset", "4"), "--b-symbols-offset needs --b-symbols"),
    ],
)
def test_options_of_names_that_say_nothing_are_refused(compared, options, error):
    assert error in refused(compared(small(), small(), *options))


def test_regions_of_two_boots_are_compared_wherever_they_lie(run, tmp_path):
    path = tmp_path / "summary.json"
    options = ("guest:4level", "guest:5level", "--symbols", "auto")
    assert 1 == run("compare", *options).status
    ran = run("compare", *options, "--by-name", "--summary", path)
    assert (0, "") == (ran.status, ran.out)
    assert "text: r-x --- 16 KiB in both\n" in ran.err
    assert "regions of one name" in ran.err.splitlines()[-1]
    text = json.loads(path.read_bytes())["regions"]["text"]
    assert {"before": {"r-x ---": 16 << 10}, "after": {"r-x ---": 16 << 10}} == text


def test_a_region_that_was_moved_and_changed_is_named(run, monkeypatch):
    """The planted twin: one region whose rights are others in B."""
    whole = compare._Side.pages

    def altered(side, context, between):
        for rows in whole(side, context, between):
            if context.levels == 5:
                rows.rights[rows.rights == 5] = 7
            yield rows

    monkeypatch.setattr(compare._Side, "pages", altered)
    options = ("guest:4level", "guest:5level", "--symbols", "auto", "--by-name", "--json")
    ran = run("compare", *options)
    assert 1 == ran.status
    assert "text" in {each["region"] for each in ran.records}
    assert {("rights",)} == {tuple(each["differs"]) for each in ran.records}
    assert "text: r-x --- 0 B, was 16 KiB; rwx --- 16 KiB, was 0 B\n" in ran.err


def test_sides_without_regions_of_one_name_are_refused(run, small_case):
    line = refused(run("compare", "guest:4level", small_case, "--symbols", "auto", "--by-name"))
    assert "--by-name: B has no regions that are known" in line


def shadow(frame=0x5000):
    """2^36 mappings of one frame: each table has the next one in all its entries."""
    words = {0x1000 + 8 * at: 0x2000 | OPEN for at in range(512)}
    for table in (0x2000, 0x3000):
        words |= {table + 8 * at: table + 0x1000 | OPEN for at in range(512)}
    return words | {0x4000 + 8 * at: frame | OPEN for at in range(512)}


def test_billions_of_mappings_of_one_frame_are_compared_as_what_they_are(run, tmp_path):
    paths = [tmp_path / name for name in ("one.json", "same.json", "other.json")]
    for path, frame in zip(paths, (0x5000, 0x5000, 0x6000), strict=True):
        cpu = Cpu.from_context(context())
        path.write_bytes(dump_case(Case(cpu=cpu, ram=((0, 0x10000),), entries=shadow(frame))))
    assert 0 == run("compare", *paths[:2]).status
    ran = run("compare", paths[0], paths[2], "--json")
    assert 1 == ran.status
    assert 1 << 36 == sum(each["pieces"] for each in ran.records)
    assert {("0x5000", "0x6000", 4096)} == {
        (each["before"]["pa"], each["after"]["pa"], each["stride"]) for each in ran.records
    }


def test_what_lies_in_a_region_is_counted_to_the_page_and_runs_as_often_as_they_are_mapped():
    totals = RegionTotals()
    none, few = np.zeros(1, np.uint64), np.zeros(1, np.uint8)
    page = Pages(none + (1 << 21), none, none, few + 5, few + 21)
    run = Runs(none + (1 << 22), none, none, few + 5, few + 12, none + 8)
    window = ((1 << 21) + 4096, (1 << 22) + 3 * 4096)
    assert [page, run] == [*totals.counted("text", 1, [page, run], window)]
    size = (1 << 21) - 4096 + 3 * 4096
    assert {"text": {"before": {}, "after": {"r-x ---": size}}} == totals.record()
    assert [f"text: r-x --- {size // 1024:,} KiB, was 0 B"] == [*totals.lines()]
