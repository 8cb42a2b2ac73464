"""`map`: the page that it writes, and what it says of it."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest

from crosswalk.emu.cli import map as map_command
from crosswalk.walker.formats import dump_case
from tests.emu.cli.running import crosswalk, refused
from tests.emu.report.map.pages import element, tables
from tests.tables import KIB4, OPEN, ROOT, RW, US, XD, P, PageTables, context


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: crosswalk(capfd, "map", *arguments)


def saved(path, memory, asked=None):
    """Write a memory as a case file."""
    from crosswalk.emu.report.records import structures_case  # noqa: PLC0415

    path.write_bytes(dump_case(structures_case(memory, asked or context())))
    return path


@pytest.fixture
def source(tmp_path):
    (tmp_path / "deep").mkdir()
    return saved(tmp_path / "deep" / "made.json", tables().memory)


def document(path):
    return json.loads(element(path.read_bytes(), "document"))


def test_a_page_is_written_beside(run, source, tmp_path):
    ran = run("deep/made.json")
    assert (0, "") == (ran.status, ran.out)
    assert re.search(r"map\.html: [\d,]+ B, 2 findings", ran.err)
    page = document(tmp_path / "map.html")
    assert "Address space of made.json" == page["title"]
    assert ["root 0x1000, 4-level paging", "Physical memory"] == [
        view["title"] for view in page["views"]
    ]
    assert page["about"].startswith("deep/made.json: case file, ")
    # Whoever gets the page learns no more of where it was made than the command says.
    assert str(tmp_path) not in json.dumps(page)


def test_the_same_command_writes_the_same_bytes(run, source, tmp_path):
    assert 0 == run(source, "-o", "one.html").status
    assert 0 == run(source, "-o", "two.html").status
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_page_can_go_to_standard_output(source, tmp_path):
    command = [sys.executable, "-m", "crosswalk", "map", source, "-o", "/dev/stdout"]
    done = subprocess.run(
        [*command, "--title", "Mine"], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"<h1>Mine</h1>" in done.stdout
    assert b"</html>\n" == done.stdout[-8:]


def test_a_summary_is_one_document(run, source):
    summary = run(source, "--json").document
    assert 1038 == summary["mappings"]
    assert [5, 0] == [summary["views"][0]["rows"], summary["views"][0]["folded"]["rows"]]
    assert 2 == len(summary["findings"])


def test_what_is_read_is_not_overwritten(run, source):
    assert "is read" in refused(run(source, "-o", source))


def test_no_mapping_is_an_error_unless_it_is_taken(run, tmp_path):
    empty = saved(tmp_path / "empty.json", PageTables().map(0, 0, 0).memory)
    assert "no mapping" in refused(run(empty))
    assert 0 == run(empty, "--allow-empty").status


def test_findings_are_listed_with_where_they_are(run, tmp_path):
    made = PageTables()
    made.map(0x40_0000, 0x9000, OPEN | XD).map(0x50_0000, 0x9000, P)
    made.map(0x60_0000, 0x1000, OPEN | XD)  # The root.
    path = saved(tmp_path / "found.json", made.memory)
    assert 0 == run(path).status
    page = document(tmp_path / "map.html")
    wx, table = page["findings"]
    assert "W^X: 0000000009000-0000000009fff 4 KiB rwx rw-, within one privilege" == wx["text"]
    assert [(0, 0x400), (0, 0x500), (1, 9)] == [
        (place["view"], place["frame"]) for place in wx["places"]
    ]
    assert "PML4 at 0x1000 is writable by user mode" == table["text"]
    assert (0, 0x600) == (table["places"][0]["view"], table["places"][0]["frame"])
    assert "Page tables: 1 of 5 frames writable by user mode" in " ".join(page["verdicts"])


def test_what_depends_on_an_assumed_register_is_said(run, tmp_path, monkeypatch):
    made = PageTables(root=0).map(0x40_0000, 0x9000, P | US).map(0x50_0000, 0x9000, P | RW | XD)
    data = bytearray(1 << 16)
    for pa, word in made.words.items():
        data[pa : pa + 8] = word.to_bytes(8, "little")
    (tmp_path / "raw.bin").write_bytes(data)
    assert 0 == run("raw.bin", "--kind", "raw", "--cr3", "0").status
    verdicts = " ".join(document(tmp_path / "map.html")["verdicts"])
    assert "which raw.bin doesn't tell: give --cr4" in verdicts
    monkeypatch.setattr(map_command, "_COMPARED", 0)
    assert 0 == run("raw.bin", "--kind", "raw", "--cr3", "0").status
    verdicts = " ".join(document(tmp_path / "map.html")["verdicts"])
    assert "isn't known here of more than 0 physical ranges: crosswalk frames says it" in verdicts
    assert 0 == run("raw.bin", "--kind", "raw", "--cr3", "0", "--cr4", "0x20").status
    assert "assumed" not in " ".join(document(tmp_path / "map.html")["verdicts"])


def test_tables_that_are_not_there_are_said_to_be_missing(run, tmp_path):
    made = tables()
    made.entries[made.entry_pa(0x40_0000, 2) + 8] = 0xF000_0000 | OPEN
    assert 0 == run(saved(tmp_path / "part.json", made.memory)).status
    page = document(tmp_path / "map.html")
    notes = " ".join([*page["notes"], *page["verdicts"]])
    assert "1 entry refers to tables outside SOURCE's memory" in notes


def test_what_is_folded_is_counted_and_a_command_lists_it(run, tmp_path):
    made = PageTables()
    frames = [ROOT + at * KIB4 for at in range(4)]
    for frame, below in pairwise(frames):
        made.entries |= {frame + 8 * at: below | OPEN for at in range(512)}
    made.entries |= {frames[3] + 8 * at: (at % 2 * 7) * KIB4 | OPEN for at in range(512)}
    (tmp_path / "deep").mkdir()
    saved(tmp_path / "deep" / "chain.json", made.memory)
    ran = run("deep/chain.json", "--cr0", "0x80010031")
    assert 0 == ran.status
    assert "68,719,476,736 mappings are folded to" in ran.err
    command = "crosswalk walk deep/chain.json --cr0 0x80010031"
    page = document(tmp_path / "map.html")
    for text in ran.err, " ".join(page["notes"]):
        assert f"; {command} lists them" in text
    assert f"{command} --start START --end END" == page["views"][0]["command"]


def test_commands_of_the_page_run_and_read_the_source_as_it_was_read(run, tmp_path, capfd):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "raw.bin").write_bytes(tables().memory.read(0, 0x20000))
    given = ("a b/raw.bin", "--kind", "raw", "--cr3", "0x1000", "--cr4", "0x20")
    assert 0 == run(*given).status
    page = document(tmp_path / "map.html")
    commands = page["views"][0]["command"], page["of_command"]
    where = "'a b/raw.bin' --cr3 0x1000 --cr4 0x20 --kind raw"
    assert (
        f"crosswalk walk {where} --start START --end END",
        f"crosswalk frames {where} --of PA",
    ) == commands
    walk, frames = commands
    walk = walk.replace("START", "0x400000").replace("END", "0x401000")
    for command in walk, frames.replace("PA", "0x500000"):
        ran = crosswalk(capfd, *shlex.split(command)[1:])
        assert (0, True) == (ran.status, "400000" in ran.out)


def test_several_roots_are_views_of_one_page(run, tmp_path):
    made = tables()
    made.entries[0x20_0000 + 8 * 256] = made.entries[0x1000 + 8 * 256]
    path = saved(tmp_path / "two.json", made.memory)
    assert 0 == run(path, "--roots", "0x1000,0x200000").status
    page = document(tmp_path / "map.html")
    titles = [view["title"] for view in page["views"]]
    assert ["root 0x1000, 4-level paging", "root 0x200000, 4-level paging"] == titles[:2]
    assert "--roots 0x200000" in page["views"][1]["command"]
