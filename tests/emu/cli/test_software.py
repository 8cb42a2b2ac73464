from pathlib import Path

import pytest

from tests.emu.cli.running import refused
from tests.tables import MIB2, PageTables

LINUX = Path(__file__).parents[2] / "walker" / "software" / "linux-6.1.json"


@pytest.fixture
def source(raw):
    tables = PageTables().map(0x7000, 0x5000)
    tables.map(0x8000, 4 << 5, 0).map(MIB2, 1 << 11 | 0x7000 | 4 << 5, 0, level=2)
    tables.map(MIB2 << 9, 2, 0, level=3)
    return (raw(tables), "--cr3", "0x1000")


def test_walk_lists_what_is_not_present_with_what_it_means(run):
    ran = run("walk", LINUX, "--software", "linux")
    lines = ran.out.splitlines()
    assert (0, 20) == (ran.status, len(lines))
    special, *_ = lines
    assert "type 30 offset 0x1" == special.partition("special")[2].strip()
    assert (
        "00007fc302000000   2 MiB PDE   0x000ffffffb8009e0  prot-none     "
        "pa 0x4600000 accessed dirty"
    ) in lines
    swapped = [line.split() for line in lines if " swap " in line]
    assert ["soft-dirty", "uffd-wp", "exclusive"] == swapped[0][-3:]
    assert ran.err.endswith("\n20 entries of Linux: 4 prot-none, 4 special, 12 swap\n")


def test_states_are_records_in_json(run, source):
    ran = run("walk", LINUX, "--software", "linux", "--json", "--limit", 1)
    expected = {
        "va": "0x7fc301ea3000",
        "size": 4096,
        "level": 1,
        "entry": "0xf7fffffffffffc00",
        "state": "special",
        "type": 30,
        "offset": "0x1",
        "flags": [],
    }
    assert [expected] == ran.records
    assert ran.err.endswith("1 entry of Linux: 1 special, and there are more\n")
    ran = run("walk", *source, "--software", "windows", "--json")
    assert ["demand-zero", "transition", "unknown"] == [each["state"] for each in ran.records]
    assert {"pa": "0x7000", "protection": 4} == {
        name: ran.records[1][name] for name in ("pa", "protection")
    }


def test_the_list_is_written_to_a_file(run, source, tmp_path):
    asked = ("walk", *source, "--software", "windows")
    ran = run(*asked, "--output", tmp_path / "list")
    assert ("", run(*asked).out) == (ran.out, (tmp_path / "list").read_text(encoding="utf-8"))
    assert run(*asked, "--json").out == run(*asked, "--format", "json").out


def test_protections_of_windows_are_words_for_people(run, source):
    ran = run("walk", *source, "--software", "windows", "--end", "0x9000")
    assert ["demand-zero", "rw-"] == ran.out.split()[-2:]


def test_without_such_entries_nothing_is_listed(run, small_case):
    ran = run("walk", small_case, "--software", "linux")
    assert (0, "") == (ran.status, ran.out)
    assert ran.err.endswith("\n0 entries of Linux\n")


def test_those_of_several_roots_stand_below_each(run, raw):
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 4 << 5, 0)
    tables.entries[0x9000] = tables.entries[0x1000]
    asked = ("walk", raw(tables), "--roots", "0x1000,0x9000", "--software", "windows")
    lines = run(*asked).out.splitlines()
    assert ["root 0x1000:", "root 0x9000:"] == lines[::2]
    assert 4 == len(lines)
    assert ["0x1000", "0x9000"] == [each["root"] for each in run(*asked, "--json").records]


def test_too_many_are_an_error_unless_a_limit_is_given(run, source, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.cli.software.MOST", 1)
    ran = run("walk", *source, "--software", "windows")
    assert 2 == ran.status
    assert "stopped after 1 lines; --limit N goes on" in ran.err
    ran = run("walk", *source, "--software", "windows", "--limit", 3)
    assert (0, False) == (ran.status, "there are more" in ran.err)
    assert "there are more" in run("walk", *source, "--software", "windows", "--limit", 2).err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--writable",), "--software lists what maps nothing: --writable is about mappings"),
        (("--coalesce",), "--coalesce is about mappings"),
        (("--in", "text"), "--in is about mappings"),
        (("--memory-type", "wb"), "--memory-type is about mappings"),
        (("--watch", "1"), "--watch is about mappings"),
        (("--format", "csv"), "--software and --format csv: choose text or json"),
        (("--legend",), "--legend is about mappings"),
        (("--flags", "g=1"), "--flags is about mappings"),
        (("--cr4", "0"), "known in 4-level and 5-level paging, this is 32-bit"),
    ],
)
def test_what_is_about_mappings_is_refused_in_one_line(run, source, options, message):
    if options[0] == "--cr4":
        source = (*source, "--efer", "0", "--allow-empty")
    assert message in refused(run("walk", *source, "--software", "linux", *options))
