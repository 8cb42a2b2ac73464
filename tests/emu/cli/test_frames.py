"""`frames`: the mappings of one frame, chosen ranges, and page tables that are mapped."""

import pytest

from crosswalk.emu.cli import frames as frames_command
from crosswalk.emu.cli import tables as listing
from tests.emu.cli.conftest import case_of
from tests.emu.cli.incomplete_images import OUTSIDE, lacking
from tests.emu.cli.running import refused, written
from tests.tables import GIB1, KIB4, MIB2, OPEN, PS, ROOT, RW, US, XD, P, PageTables

COUNTS = (
    "tables: 4 frames of page tables, 2 of them mapped; the supervisor may write 2, "
    "user mode read 1"
)
SMALL_RANGES = ["0x8000", "0x9000", "0xa000"]


def shared():
    """A 2-MiB page and two small ones whose frames have the rights of their neighbours."""
    return (
        PageTables(ram=((0, 0x10000),))
        .map(0, 0x8000, P | RW | XD)
        .map(KIB4, 0x9000, P | RW | XD)
        .map(2 * KIB4, 0x9000, P | XD)
        .map(GIB1, 0x20_0000, P | PS, level=2)
        .map(GIB1 + MIB2, 0x20_5000, P)
    )


@pytest.fixture
def shared_case(tmp_path):
    return written(tmp_path / "shared.json", case_of(words=shared().words))


@pytest.mark.parametrize(
    ("pa", "expected"),
    [
        ("0x8000", ["0x0"]),
        ("0x8fff", ["0x0"]),
        ("0x9000", ["0x1000", "0x2000"]),
        ("0x204fff", ["0x40000000"]),
        ("0x205123", ["0x40000000", "0x40200000"]),
    ],
)
def test_of_names_the_mappings_of_that_very_frame(run, shared_case, pa, expected):
    assert 2 == len(run("frames", shared_case, "--json").records)
    ran = run("frames", shared_case, "--of", pa, "--json")
    assert (0, expected) == (ran.status, [record["va"] for record in ran.records])


def test_of_says_the_collective_rights_of_that_frame_alone(run, shared_case):
    ran = run("frames", shared_case, "--of", "0x9fff")
    assert "0000000009000-0000000009fff        4 KiB rw- ---" in ran.err.splitlines()
    ran = run("frames", shared_case, "--of", "0x205000")
    assert "0000000205000-0000000205fff        4 KiB r-x ---" in ran.err.splitlines()


def test_of_a_frame_that_nothing_maps_is_refused(run, shared_case):
    line = refused(run("frames", shared_case, "--of", "0xa000"))
    assert line.endswith("nothing is mapped at physical address 0xa000")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--pa", "0x8800-0x9800"), ["0x8000", "0x9000"]),
        (("--pa", "0xb000+4K"), []),
        (("--writable-by", "user"), ["0xa000"]),
        (("--writable-by", "supervisor"), ["0x8000", "0xa000"]),
        (("--executable-by", "supervisor", "--pa", "0-0x9001"), ["0x9000"]),
        (("--readable-by", "user"), ["0xa000"]),
        (("--wx",), ["0xa000"]),
    ],
    ids=str,
)
def test_frames_lists_the_ranges_that_are_chosen(run, small_case, options, expected):
    assert SMALL_RANGES == [it["pa"] for it in run("frames", small_case, "--json").records]
    ran = run("frames", small_case, "--json", *options)
    assert expected == [record["pa"] for record in ran.records]
    count = f"{len(expected)} range{'' if len(expected) == 1 else 's'}"
    assert count in ran.err.splitlines()
    assert "W^X: 1 ranges, 4 KiB, are both writable and executable:" in ran.err


def test_of_very_many_writable_executable_ranges_the_first_have_their_mappings_named(
    run, tmp_path, monkeypatch
):
    tables = PageTables(ram=((0, 0x20000),))
    for number in range(3):
        tables.map(number * KIB4, 0x8000 + 2 * number * KIB4, P | RW)
    path = written(tmp_path / "case.json", case_of(words=tables.words))
    whole = run("frames", path, "--policy", "any")
    assert (1, 6) == (whole.status, whole.out.count("through"))
    assert "are named of the first" not in whole.out
    monkeypatch.setattr(frames_command, "_NAMED", 2)
    ran = run("frames", path, "--policy", "any")
    assert (1, 4) == (ran.status, ran.out.count("through"))
    report = ran.out[ran.out.index("W^X") :].splitlines()
    assert "W^X: 3 ranges, 12 KiB, are both writable and executable:" == report[0]
    assert "000000000c000-000000000cfff        4 KiB rwx ---" == report[-3]
    assert "W^X: mappings are named of the first 2; walk --pa lists those of others" == report[-2]
    assert "W^X: 3 of them within one privilege" == report[-1]


def test_ranges_are_cut_to_the_frames_that_are_asked_for(run, tmp_path):
    tables = PageTables().map(0, 0x20_0000, OPEN | PS, level=2)
    path = written(tmp_path / "case.json", case_of(words=tables.words))
    asked = ("--pa", "0x201800-0x202800", "--pa", "0x203000-")
    ran = run("frames", path, "--json", *asked)
    assert [("0x201000", 0x1FF000)] == [(it["pa"], it["size"]) for it in ran.records]
    ran = run("frames", path, "--json", "--pa", "0x201000-0x202000", "--pa", "0x203000+4K")
    assert [("0x201000", KIB4), ("0x203000", KIB4)] == [
        (it["pa"], it["size"]) for it in ran.records
    ]


def holed(*, user):
    """Page tables of which one is mapped for user mode, writable or not."""
    tables = PageTables(ram=((0, 0x10000),)).map(0, 0x8000)
    page_table = tables.entry_pa(0) & -KIB4
    tables.map(KIB4, page_table, P | US | (RW if user else 0))
    return tables.map(2 * KIB4, ROOT, P | RW).map(3 * KIB4, page_table, P | RW)


@pytest.fixture(params=[True, False], ids=["a hole", "no hole"])
def hole(request, tmp_path):
    words = holed(user=request.param).words
    return request.param, written(tmp_path / "case.json", case_of(words=words))


def test_a_table_that_user_mode_may_write_is_exit_status_1(run, hole):
    user, path = hole
    ran = run("frames", path, "--tables", "--json")
    assert (1 if user else 0) == ran.status
    assert [
        {
            "pa": "0x1000",
            "size": KIB4,
            "supervisor": "rwx",
            "user": "---",
            "tables": ["PML4"],
            "is_root": True,
            "va": "0x0",
            "spans": 1 << 48,
        },
        {
            "pa": "0x4000",
            "size": KIB4,
            "supervisor": "rwx",
            "user": "rwx" if user else "r-x",
            "tables": ["PT"],
            "is_root": False,
            "va": "0x0",
            "spans": MIB2,
        },
    ] == ran.records
    assert "tables: 4 frames of page tables, 2 of them mapped; the supervisor may" in ran.err


def test_tables_are_named_with_what_they_translate_and_who_writes_them(run, tmp_path):
    path = written(tmp_path / "case.json", case_of(words=holed(user=True).words))
    lines = run("frames", path, "--tables").out.splitlines()
    frame = "0000000004000-0000000004fff        4 KiB rwx rwx"
    page_table = f"{frame}  PT of 0000000000000000-00000000001fffff"
    assert [
        "0000000001000-0000000001fff        4 KiB rwx ---  PML4, a root",
        page_table,
        COUNTS,
        "tables: user mode may write 1:",
        page_table,
        "  written  through 0000000000001000 0000000004000   4 KiB rwx rwx  RW US",
    ] == lines


def test_tables_that_user_mode_may_not_write_are_a_verdict(run, tmp_path):
    path = written(tmp_path / "case.json", case_of(words=holed(user=False).words))
    ran = run("frames", path, "--tables", "--writable-by", "user")
    assert 0 == ran.status
    assert [
        COUNTS,
        "tables: user mode may write no page table",
    ] == ran.out.splitlines()


def test_no_more_mappings_and_tables_are_named_than_asked_for(run, tmp_path, monkeypatch):
    tables = PageTables(ram=((0, 0x10000),))
    for at, pa in enumerate((ROOT, ROOT + KIB4, ROOT + 2 * KIB4, ROOT)):
        tables.map(at * KIB4, pa)
    path = written(tmp_path / "case.json", case_of(words=tables.words))
    monkeypatch.setattr(listing, "_NAMED", 2)
    ran = run("frames", path, "--tables", "--aliases", "1")
    assert 2 == ran.out.count("written  through")
    assert "  and 1 other: --writable-by user lists them" == ran.out.splitlines()[-1]
    assert 3 == len(run("frames", path, "--tables", "--json", "--writable-by", "user").records)


def test_no_hole_in_a_part_of_the_tables_is_no_verdict(run, tmp_path):
    raw = tmp_path / "lacking.bin"
    raw.write_bytes(lacking().memory.read(0, 0x10000))
    asked = ("frames", raw, "--cr3", "0x1000", "--tables")
    ran = run(*asked)
    assert 2 == ran.status
    assert "tables: partial: user mode may write none of what could be looked at" in ran.out
    assert "nothing found, but not everything could be looked at" in ran.err
    assert 0 == run(*asked, "--partial").status


def test_a_hole_in_a_part_of_the_tables_is_said_to_be_one_of_perhaps_more(run, tmp_path):
    tables = holed(user=True)
    tables.words[tables.entry_pa(GIB1, 3)] = OUTSIDE | OPEN
    raw = tmp_path / "lacking.bin"
    raw.write_bytes(tables.memory.read(0, 0x10000))
    ran = run("frames", raw, "--cr3", "0x1000", "--tables")
    assert 1 == ran.status
    assert ran.out.endswith("partial: there may be more behind what could not be looked at\n")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--of", "0x8000", "--tables"), "--of and --tables"),
        (("--of", "0", "--policy", "any"), "--of and --policy"),
        (("--of", "0x8000", "--pa", "0x8000-"), "--of and --pa"),
        (("--of", "0x8000", "--writable-by", "user"), "--of and --writable-by"),
        (("--tables", "--policy", "any"), "--tables and --policy"),
        (("--tables", "--watch", "1"), "--watch and --tables"),
    ],
    ids=str,
)
def test_options_that_ask_for_different_answers_are_refused(run, small_case, options, names):
    assert f"{names}: choose one of them" in refused(run("frames", small_case, *options))
