import csv
import io
import json
from argparse import Namespace

import pytest

from crosswalk.emu.cli.memory_types import chosen_types
from crosswalk.emu.cli.type_options import MEMORY_TYPES
from crosswalk.walker import SparseWords
from crosswalk.walker.formats import Registers, Source, SourceKind
from crosswalk.walker.memory_types import RESET_PAT, Pat
from crosswalk.walker.mtrrs import MemoryType
from tests.emu.cli.running import refused
from tests.tables import PCD, PS, PWT, USED, PageTables, context

CR3 = ("--cr3", "0x1000")
LINUX = ("--pat", "0x0407050600070106")
MTRRS = ("--mtrr", "default:wb", "--mtrr", "0x5000:4K:uc")
UNKNOWN = "memory types are the pages' own: MTRRs are not known (--mtrr)"
ASSUMED = "assumed: pat = 0x0007040600070406, the value after reset"


@pytest.fixture
def source(raw):
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 0x6000, USED | PWT)
    tables.map(0x9000, 0x6000, USED | PCD).map(0xA000, 0x7000, USED | PCD | PWT | PS)
    return (raw(tables), *CR3)


def types(ran):
    return [(each["va"], each["memory_type"]) for each in ran.records]


def test_the_names_of_the_option_are_those_of_the_walker():
    assert MEMORY_TYPES == tuple(kind.text for kind in MemoryType)


def test_walk_shows_the_type_of_each_mapping(run, source):
    ran = run("walk", *source, "--types", *LINUX)
    assert ["wb", "wc", "uc-", "wt"] == [line.split()[-1] for line in ran.out.splitlines()]
    assert UNKNOWN in ran.err.splitlines()
    assert "pat" not in ran.err
    ran = run("walk", *source, "--types", "--json", *LINUX, *MTRRS)
    expected = [("0x7000", "uc"), ("0x8000", "wc"), ("0x9000", "uc"), ("0xa000", "wt")]
    assert (0, expected) == (ran.status, types(ran))
    assert UNKNOWN not in ran.err


def test_pat_after_reset_is_assumed_and_said_so(run, source, tmp_path):
    ran = run("walk", *source, "--types", "--json", "--summary", tmp_path / "summary")
    assert ["wb", "wt", "uc-", "uc"] == [kind for _, kind in types(ran)]
    assert ASSUMED in ran.err.splitlines()
    assert "pat = 0x0007040600070406" in json.loads((tmp_path / "summary").read_text())["assumed"]


def source_with(**contents):
    return Source(
        name="dump",
        kind=SourceKind.ELF,
        memory=SparseWords([(0x1000, 0x1000)], {}),
        context=context(),
        assumed=("maxphyaddr = 52",),
        **contents,
    )


@pytest.mark.parametrize(
    ("pat", "contents", "expected", "assumed"),
    [
        (None, {"registers": Registers(pat=0x0606_0606_0606_0606)}, 0x0606_0606_0606_0606, ()),
        (0x0406, {"registers": Registers(pat=0x0606_0606_0606_0606)}, 0x0406, ()),
        (0x0406, {}, 0x0406, ()),
        (None, {}, RESET_PAT, ("pat = 0x0007040600070406",)),
    ],
)
def test_pat_is_the_options_before_the_sources_before_that_after_reset(
    pat, contents, expected, assumed
):
    options = Namespace(pat=pat, mtrr=None)
    types, found = chosen_types(options, source_with(**contents))
    assert Pat(expected) == types.pat
    assert ("maxphyaddr = 52", *assumed) == found.assumed


def test_of_a_dump_of_linux_the_remark_names_linuxs_value(capsys):
    chosen_types(Namespace(pat=None, mtrr=None), source_with(vmcoreinfo="OSRELEASE=6.1"))
    assert f"{ASSUMED}; Linux 6.1 has 0x407050600070106: give --pat\n" in capsys.readouterr().err


def test_walk_chooses_by_memory_type(run, source):
    ran = run("walk", *source, "--memory-type", "uc-,wc", "--json", *LINUX)
    assert ["0x8000", "0x9000"] == [each["va"] for each in ran.records]
    assert "memory_type" not in ran.records[0]
    ran = run("walk", *source, "--memory-type", "wp", *LINUX)
    assert (0, "") == (ran.status, ran.out)
    assert ran.err.endswith("\n0 mappings\n")


def test_ranges_end_where_the_memory_type_changes(run, raw):
    tables = PageTables()
    for at in range(4):
        tables.map(at << 12, 0x5000 + (at << 12) - 0x1000)
    source = (raw(tables), *CR3)
    assert 1 == len(run("walk", *source, "--coalesce", "--types", "--json").records)
    ran = run("walk", *source, "--coalesce", "--types", "--json", *MTRRS)
    assert [("0x0", "wb"), ("0x1000", "uc"), ("0x2000", "wb")] == types(ran)
    assert [1, 1, 2] == [each["mappings"] for each in ran.records]


def test_frames_names_the_ranges_that_are_mapped_with_several_types(run, source):
    ran = run("frames", *source, "--types", *LINUX)
    lines = ran.out.splitlines()
    assert 0 == ran.status
    assert "0000000006000-0000000006fff        4 KiB rwx rwx  wc uc-" in lines
    (at,) = (row for row, line in enumerate(lines) if line.startswith("types: "))
    assert "types: 1 range, 4 KiB, is mapped with several memory types:" == lines[at]
    assert "0000000006000-0000000006fff        4 KiB wc uc-" == lines[at + 1]
    assert ["wc", "uc-"] == [line.split()[0] for line in lines[at + 2 : at + 4]]
    assert "through 0000000000008000 0000000006000" in lines[at + 2]


def test_types_of_frames_are_a_text_in_json(run, source):
    ran = run("frames", *source, "--types", "--json", *LINUX)
    assert ["wb", "wc uc-", "wt"] == [each["memory_types"] for each in ran.records]
    assert "types: 1 range" in ran.err


def test_types_are_a_column_of_tables_too(run, source):
    ran = run("walk", *source, "--types", "--format", "csv", *LINUX)
    rows = csv.DictReader(io.StringIO(ran.out))
    assert ["wb", "wc", "uc-", "wt"] == [row["memory_type"] for row in rows]
    ran = run("frames", *source, "--types", "--format", "csv", "--legend", *LINUX)
    rows = csv.DictReader(io.StringIO(ran.out))
    assert ["wb", "wc uc-", "wt"] == [row["memory_types"] for row in rows]
    assert "memory types of all mappings of it" in ran.err


@pytest.mark.parametrize(("options", "status"), [(LINUX, 1), ((), 1), ((*LINUX, *MTRRS), 1)])
def test_one_type_fails_where_there_are_several(run, source, options, status):
    assert status == run("frames", *source, "--one-type", "--partial", *options).status


def test_one_type_holds_where_mtrrs_settle_it_and_only_of_what_was_looked_at(run, raw):
    tables = PageTables().map(0x7000, 0x6000, USED | PCD).map(0x8000, 0x6000)
    source = (raw(tables), *CR3)
    uc = ("--mtrr", "default:wb", "--mtrr", "0x6000:0x1000:uc")
    assert 1 == run("frames", *source, "--one-type").status
    ran = run("frames", *source, "--one-type", *uc)
    assert 0 == ran.status
    assert "types: no frame is mapped with several memory types" in ran.out
    tables.map(0x4000_0000, 0x6000)
    tables.change(0x4000_0000, 2, add=1 << 30)
    source = (raw(tables), *CR3)
    assert "not everything could be looked at" in refused_last(
        run("frames", *source, "--one-type", *uc)
    )
    assert 0 == run("frames", *source, "--one-type", "--partial", *uc).status


def refused_last(ran):
    assert 2 == ran.status
    return ran.err.splitlines()[-1]


def test_translate_shows_the_types_of_entries_and_of_the_page(run, source):
    ran = run("translate", *source, "0xa000", "--types", *LINUX, *MTRRS)
    assert "entries are read as: PML4E wb, PDPTE wb, PDE wb, PTE wb" in ran.out.splitlines()
    assert "memory type: wt, by field PA7 of IA32_PAT" in ran.out.splitlines()
    found = run("translate", *source, "0x7000", "--types", "--json", *LINUX, *MTRRS).document
    assert ["wb"] * 4 == [step["memory_type"] for step in found["steps"]]
    assert "uc" == found["memory_type"]
    found = run("translate", *source, "0xb000", "--types", "--json").document
    assert None is found["memory_type"]
    assert "memory_type" not in run("translate", *source, "0x7000", "--json").out


def test_translate_of_several_roots_keeps_apart_what_is_read_otherwise(run, raw):
    tables = PageTables().map(0x7000, 0x5000)
    tables.entries[0x8000] = tables.entries[0x1000]
    asked = ("translate", raw(tables), "0x7000", "--roots", "0x1000,0x8008")
    assert ["roots 0x1000, 0x8000:"] == headings(run(*asked))
    ran = run(*asked, "--types", *LINUX)
    assert ["root 0x1000:", "root 0x8000:"] == headings(ran)
    read = [line for line in ran.out.splitlines() if line.startswith("entries")]
    assert ["PML4E wb, PDPTE wb", "PML4E wc, PDPTE wb"] == [line[21:39] for line in read]


def headings(ran):
    return [line for line in ran.out.splitlines() if line.startswith("root")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("walk", "--pat", "0x7"), "--pat is about memory types, and no option asks for them"),
        (("walk", *MTRRS), "--mtrr is about memory types, and no option asks for them"),
        (("walk", "--types", "--pat", "0x2"), "pat = 0x2 has 0x2 in field PA0, which is reserved"),
        (("walk", "--types", "--mtrr", "5"), "MTRR 5: is neither BASE:SIZE:TYPE nor default:TYPE"),
        (("walk", "--types", "--mtrr", "@nowhere"), "nowhere: no such file or directory"),
        (("walk", "--types", "--mtrr", "0:4K:wb"), "the default type"),
        (("walk", "--types", "--watch", "1"), "--watch and --types: choose one of them"),
        (("walk", "--memory-type", "wb,ram"), "'ram' is none of uc, wc"),
        (("frames", "--types", "--of", "0x5000"), "--of and --types: choose one of them"),
        (("frames", "--one-type", "--watch", "1"), "--watch and --one-type: choose one of them"),
        (("frames", "--types", "--tables"), "--tables and --types: choose one of them"),
        (("translate", "0x7000", "--types", "--ncr3", "0"), "--types and --ncr3"),
    ],
)
def test_what_says_nothing_is_refused_in_one_line(run, source, options, message):
    command, *others = options
    assert message in refused(run(command, *source, *others))
