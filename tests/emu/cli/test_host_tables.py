"""`walk`, `frames` and `translate` of a host's tables: an EPT, or AMD's nested tables."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from crosswalk.emu.report.host_tables import guest_mapping_text
from crosswalk.walker import Access, AccessType
from crosswalk.walker.formats import Case, Cpu, load_case, open_source
from crosswalk.walker.nested import EptContext, NestedContext, NestedTables, translate_nested
from crosswalk.walker.nested.second_level import EptTables
from crosswalk.walker.outcome import Translation
from crosswalk.walker.pages import pages
from crosswalk.walker.protection import Permission
from tests.emu.cli import ept_image
from tests.emu.cli.ept_image import EPT, EPTP, GUEST
from tests.emu.cli.running import refused, written
from tests.emu.targets.walkers import ROOT
from tests.tables import KIB4, MIB2, context

IMAGE = ROOT / "docs" / "examples" / "second-level" / "ept.json"
CASES = ROOT / "tests" / "cases"
MBEC = ("--eptp", hex(EPTP), "--mbec")
LISTED = [
    (0, MIB2, "rw-", "rw-", "WB"),
    (MIB2, MIB2, "r-x", "r--", "WB"),
    (0x40_0000, KIB4, "r--", "r--", "WB"),
    (0x40_1000, KIB4, "r--", "r-x", "WB"),
    (0x40_2000, KIB4, "r--", "r-x", "WB"),
    (0x40_3000, KIB4, "rw-", "rw-", "WB"),
    (0x40_4000, KIB4, "rw-", "rw-", "WB"),
    (0xFEE0_0000, KIB4, "rw-", "rw-", "UC"),
]
"""What the image grants: guest-physical address, size, rights, memory type."""


def granted(record):
    rights = record["rights"]
    found = int(record["gpa"], 16), record["size"], rights["supervisor"], rights["user"]
    return (*found, record["memory_type"])


def test_the_example_is_what_it_is_said_to_be():
    assert ept_image.data() == IMAGE.read_bytes()


def test_an_ept_is_listed_with_rights_types_and_where_it_leads(run):
    ran = run("walk", IMAGE, *MBEC, "--json")
    assert LISTED == [granted(each) for each in ran.records]
    for each in ran.records:
        gpa, pa = int(each["gpa"], 16), int(each["pa"], 16)
        assert pa == (gpa if gpa >= GUEST else gpa + GUEST)
    assert "4-level EPT in WB memory, EPTP 0x10005e, A/D MBEC, MAXPHYADDR 40" in ran.err
    assert "1 entry is misconfigured" in ran.err
    assert "gpa 0xfeb00000: writable and not readable" in ran.err
    assert "8 mappings" in ran.err


def test_without_mode_based_execute_control_both_privileges_execute_by_x(run):
    records = run("walk", IMAGE, "--eptp", hex(EPTP), "--json").records
    by_gpa = {granted(each)[0]: granted(each)[2:4] for each in records}
    assert ("r-x", "r-x") == by_gpa[MIB2]
    assert ("r--", "r--") == by_gpa[0x40_1000]


def test_lines_are_those_of_single_mappings(run):
    tables = EptTables(EptContext(eptp=EPTP, mbec=True))
    expected = [
        guest_mapping_text(tables, it).split()
        for block in pages(open_source(IMAGE, nested=True).memory, tables)
        for it in block
    ]
    assert expected == [line.split() for line in run("walk", IMAGE, *MBEC).out.splitlines()]


def test_neighbours_fold_but_not_over_a_change_of_type_or_rights(run, tmp_path):
    records = run("walk", IMAGE, *MBEC, "--coalesce", "--json").records
    # A and D don't tell pages apart.
    expected = [(it[0], it[1] * (2 if it[0] in (0x40_1000, 0x40_3000) else 1)) for it in LISTED]
    left = [each for each in expected if each[0] not in (0x40_2000, 0x40_4000)]
    assert left == [(int(it["gpa"], 16), it["size"]) for it in records]

    case = load_case(IMAGE)
    words = {
        pa: word ^ (6 << 3 if word & ~0xFFF == 0x240_4000 else 0)
        for pa, word in case.entries.items()
    }
    path = written(tmp_path / "other.json", replace(case, entries=words))
    again = run("walk", path, *MBEC, "--coalesce", "--json").records
    assert len(left) + 1 == len(again)


def test_bit_7_of_a_pte_means_nothing_and_is_not_named(run, tmp_path):
    case = load_case(IMAGE)
    words = {
        pa: word | (1 << 7 if word & ~0xFFF == 0x240_4000 else 0)
        for pa, word in case.entries.items()
    }
    path = written(tmp_path / "other.json", replace(case, entries=words))
    assert run("walk", IMAGE, *MBEC).out == run("walk", path, *MBEC).out
    records = run("walk", path, *MBEC, "--json").records
    assert [0xB3] == [int(it["flags"], 16) for it in records if it["gpa"] == "0x404000"]
    assert " PS " in run("walk", path, *MBEC, "--page-size", "2M").out
    frame = ("--of", "0x2404000")
    assert run("frames", IMAGE, *MBEC, *frame).out == run("frames", path, *MBEC, *frame).out


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--executable-by", "user"), {0x40_1000, 0x40_2000}),
        (("--executable-by", "supervisor"), {MIB2}),
        (("--writable",), {0, 0x40_3000, 0x40_4000, 0xFEE0_0000}),
        (("--page-size", "2M"), {0, MIB2}),
        (("--level", "1", "--readable-by", "user", "--executable"), {0x40_1000, 0x40_2000}),
        (("--memory-type", "uc"), {0xFEE0_0000}),
        (("--memory-type", "wb,uc", "--pa", "0x2403000+8K"), {0x40_3000, 0x40_4000}),
        (("--frame", "0x2000123"), {0}),
        (("--aliases-of", "0x401abc"), {0x40_1000}),
        (("--aliases-of", "pa:0x2401abc"), {0x40_1000}),
        (("--start", "0x401000", "--end", "0x403000"), {0x40_1000, 0x40_2000}),
        (("--wx",), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_options_choose_pages(run, options, kept):
    records = run("walk", IMAGE, *MBEC, *options, "--json").records
    assert kept == {int(each["gpa"], 16) for each in records}


def test_the_plain_address_of_the_first_table_is_taken_for_an_eptp_and_that_is_said(run):
    ran = run("walk", IMAGE, "--eptp", hex(EPT), "--json")
    assert "assumed: eptp = 0x10001e, ept_cap = 0x6341c1" in ran.err
    assert "EPTP 0x10001e, neither A/D nor MBEC" in ran.err
    assert run("walk", IMAGE, "--eptp", "0x10001e", "--json").out == ran.out


def test_what_the_processor_lacks_makes_entries_misconfigured(run):
    with_all = run("walk", IMAGE, *MBEC, "--json").records
    # No 2-MiB pages: bit 7 is reserved.
    ran = run("walk", IMAGE, *MBEC, "--ept-cap", hex(0x6341C1 & ~(1 << 16)), "--json")
    assert len(with_all) - 2 == len(ran.records)
    assert "3 entries are misconfigured" in ran.err
    assert "no PAGE_2M" in ran.err


def test_a_table_has_the_columns_of_guest_physical_pages(run, tmp_path):
    path = tmp_path / "ept.parquet"
    assert 0 == run("walk", IMAGE, *MBEC, "--format", "parquet", "-o", path).status
    table = pq.read_table(path)
    names = ["gpa", "pa", "size", "level", "flags", "supervisor", "user", "memory_type"]
    assert names == table.schema.names
    assert b"guest-mappings/1" == table.schema.metadata[b"crosswalk"]
    columns = (table[name].to_pylist() for name in ("gpa", "size", *names[5:]))
    assert LISTED == list(zip(*columns, strict=True))
    csv = run("walk", IMAGE, *MBEC, "--coalesce", "--format", "csv").out.splitlines()
    assert csv[0].startswith('"gpa","pa","size","mappings","stride","flags"')
    assert csv[1].startswith('"0x0","0x2000000",2097152,1,0,"0x3b3"')


def test_a_legend_explains_what_stands_there(run):
    err = run("walk", IMAGE, *MBEC, "--legend").err
    assert "GPA " in err
    assert "  IPAT  " in err
    assert "global: stays in the TLB" not in err
    assert (
        "  GPA    guest-physical addresses of"
        in run("walk", IMAGE, *MBEC, "--coalesce", "--legend").err
    )


def test_a_summary_says_how_the_tables_were_read(run, tmp_path):
    path = tmp_path / "summary.json"
    run("walk", IMAGE, *MBEC, "--summary", path)
    assert {
        "eptp": "0x10005e",
        "levels": 4,
        "mbec": True,
        "mappings": 8,
        "unfollowed": {"outside": 0, "reserved": 1},
        "assumed": ["ept_cap = 0x6341c1"],
    } == json.loads(path.read_bytes())


def test_frames_have_what_all_guest_physical_pages_grant_together(run, tmp_path):
    case = load_case(IMAGE)
    # The frame of the user's code once more, writable.
    words = case.entries | {0x10_3000 + 8 * 9: 0x240_1000 | 3 | 6 << 3}
    path = written(tmp_path / "twice.json", replace(case, entries=words))
    ran = run("frames", path, *MBEC, "--executable-by", "user")
    assert [
        "0000002401000-0000002401fff        4 KiB rw- rwx",
        "0000002402000-0000002402fff        4 KiB r-- r-x",
    ] == ran.out.splitlines()[:2]
    lines = ran.out.splitlines()[2:]
    assert "W^X: 1 ranges, 4 KiB, are both writable and executable:" == lines[0]
    assert lines[2].startswith("  written  through 0000000409000 0000002401000   4 KiB rw- rw-")
    assert lines[3].startswith("  executed through 0000000401000 0000002401000   4 KiB r-- r-x")
    assert 1 == run("frames", path, *MBEC, "--policy", "one-privilege").status
    assert 0 == run("frames", IMAGE, *MBEC, "--policy", "any").status
    of = run("frames", path, *MBEC, "--of", "0x2401234")
    assert ["0000000401000", "0000000409000"] == [line.split()[0] for line in of.out.splitlines()]


def test_a_host_table_that_the_guest_may_write_is_named(run, tmp_path):
    case = load_case(IMAGE)
    words = case.entries | {0x10_3000 + 8 * 9: 0x10_3000 | 3 | 6 << 3}
    path = written(tmp_path / "open.json", replace(case, entries=words))
    ran = run("frames", path, *MBEC, "--tables")
    assert 1 == ran.status
    lines = ran.out.splitlines()
    assert lines[0].startswith(
        "0000000103000-0000000103fff        4 KiB rw- rw-  PT of 00000000004"
    )
    assert "tables: 7 frames of the host's tables; the guest may read 1, write 1" == lines[1]
    assert lines[3].startswith("  written  through 0000000409000 0000000103000")
    record = run("frames", path, *MBEC, "--tables", "--json").records[0]
    assert ("0x400000", ["PT"], False) == (record["gpa"], record["tables"], record["is_root"])

    ran = run("frames", IMAGE, *MBEC, "--tables")
    assert (0, "tables: the guest may write none") == (ran.status, ran.out.splitlines()[-1])


@pytest.mark.parametrize(
    ("va", "access", "cpl", "failed", "outcome"),
    [
        ("0xffffffffc0000000", "execute", "0", "nested walk of the page", "ept_violation"),
        ("0x400000", "execute", "3", None, "ok"),
        ("0xffffffff81000000", "execute", "0", None, "ok"),
        ("0x600000", "write", "3", None, "ok"),
        ("0xffffffff82000000", "write", "0", "guest walk", "page_fault"),
        ("0x700000", "read", "0", "guest walk", "page_fault"),
    ],
)
def test_a_translation_shows_both_dimensions(run, va, access, cpl, failed, outcome):
    asked = ("translate", IMAGE, va, "--access", access, "--cpl", cpl, *MBEC)
    ran = run(*asked, "--json")
    assert (failed, outcome) == (ran.document["failed"], ran.document["predicted"]["outcome"])
    lines = run(*asked).out.splitlines()
    assert f"{access} of {va} at CPL {cpl}" == lines[0]
    assert lines[2].startswith("    EPT PML4E[0]    at 0x00000100000 = 0x0000000000101507  table")
    assert (failed is not None) == any(line == f"failed in: {failed}" for line in lines)
    if outcome == "ept_violation":
        assert "0x5cc" == ran.document["predicted"]["qualification"]
        told = "EPT violation, qualification 0x5cc (fetch readable user-executable gla-valid page "
        assert any(told in line for line in lines)


def test_a_misconfigured_entry_and_a_table_out_of_reach_are_told_from_each_other(run, tmp_path):
    case = load_case(IMAGE)
    words = case.entries | {0x10_3000: 0x240_0000 | 2}
    path = written(tmp_path / "wrong.json", replace(case, entries=words))
    ran = run("translate", path, "0xffffffff82000000", *MBEC)
    assert "misconfigured: writable and not readable" in ran.out
    assert "VM exit: EPT misconfiguration, gpa 0x400000" in ran.out
    assert "failed in: nested walk of the page" == ran.out.splitlines()[-1]

    words = case.entries | {0x10_2000: 0x800_0000 | 7}
    path = written(tmp_path / "away.json", replace(case, entries=words))
    ran = run("translate", path, "0xffffffff82000000", *MBEC)
    assert "outside RAM" in ran.out
    assert "failed in: nested walk of a table" == ran.out.splitlines()[-1]
    ran = run("walk", path, *MBEC, "--json")
    assert "1 entry refers to tables outside SOURCE's memory" in ran.err
    assert "gpa 0x0: its table lies outside memory" in ran.err


def test_what_is_listed_is_where_translations_through_the_guest_arrive(run):
    """Each page that the guest maps is reached by one of its addresses."""
    source = open_source(IMAGE, nested=True)
    nested = NestedContext(source.context, EptContext(eptp=EPTP, mbec=True))
    found = {
        int(it["gpa"], 16): int(it["pa"], 16) for it in run("walk", IMAGE, *MBEC, "--json").records
    }
    mapped = {
        0xFFFF_8880_0000_0000: 0,
        0xFFFF_FFFF_8100_0000: MIB2,
        0x40_0000: 0x40_1000,
        0x40_1000: 0x40_2000,
        0x60_0000: 0x40_3000,
    }
    for va, gpa in mapped.items():
        outcome = translate_nested(source.memory, nested, Access(va, AccessType.READ, 0, None))
        assert (Translation, found[gpa]) == (type(outcome), outcome.pa)


@pytest.mark.parametrize("kind", ["ept", "ept-mbec"])
def test_an_ept_that_protect_wrote_grants_what_protect_said(run, tmp_path, kind):
    linux = CASES / "linux-6.1-4level.json"
    document, image = tmp_path / "granted.json", tmp_path / "granted.ept"
    asked = ("protect", linux, "--tables", kind, "--format")
    assert 0 == run(*asked, "json", "--output", document).status
    assert 0 == run(*asked, "ept", "--at", "0x40000000", "--output", image).status
    expected = []
    for each in json.loads(document.read_bytes())["ranges"]:
        both = "".join(name[0] if name in each["granted"] else "-" for name in ("read", "write"))
        executes = (f"{who}_execute" in each["granted"] for who in ("supervisor", "user"))
        rights = (f"{both}{'x' if it else '-'}" for it in executes)
        expected.append((each["pa"], each["size"], *rights))

    raw = ("--kind", "raw", "--base", "0x40000000", "--eptp", "0x4000001e")
    mbec = ("--mbec",) if kind == "ept-mbec" else ()
    found = run("frames", image, *raw, *mbec, "--json").records
    assert 10 < len(expected)
    assert expected == [tuple(it.values()) for it in found]
    # Where a page lies isn't changed, and neighbours of equal rights are a range.
    ranges = run("walk", image, *raw, *mbec, "--coalesce", "--json").records
    assert expected == [(it["gpa"], it["size"], *it["rights"].values()) for it in ranges]
    assert all(it["gpa"] == it["pa"] for it in ranges)


@pytest.fixture
def nested_case(tmp_path):
    pool = np.zeros(8 * 512, np.uint64)
    tables = NestedTables(pool, 0x2_0000)
    tables.set(0, 0xA000, Permission(7))
    tables.set(0x8000, 0x1000, Permission(1))
    words = {0x2_0000 + 8 * int(at): int(pool[at]) for at in np.flatnonzero(pool)}
    return written(
        tmp_path / "nested.json",
        Case(cpu=Cpu.from_context(context()), ram=((0, 0x2_8000),), entries=words),
    )


def test_nested_tables_of_amd_are_listed_as_an_ept_is(run, nested_case):
    ran = run("walk", nested_case, "--ncr3", "0x20000", "--coalesce", "--json")
    assert [(0, 0x8000), (0x8000, 0x1000), (0x9000, 0x1000)] == [
        (int(it["gpa"], 16), it["size"]) for it in ran.records
    ]
    assert ["rwx", "r--", "rwx"] == [it["rights"]["supervisor"] for it in ran.records]
    assert ["rwx", "r--", "rwx"] == [it["rights"]["user"] for it in ran.records]
    assert "memory_type" not in ran.records[0]
    assert "4-level nested tables, nCR3 0x20000, NXE 1, MAXPHYADDR 40" in ran.err
    frames = run("frames", nested_case, "--ncr3", "0x20000", "--json").records
    assert [0x8000, 0x1000, 0x1000] == [it["size"] for it in frames]
    # Without NXE bit 63 is reserved: only what may be executed is left.
    some = run("walk", nested_case, "--ncr3", "0x20000", "--host-efer", "0x500", "--json")
    assert 9 == len(some.records)
    assert "1 entry sets reserved bits" in some.err


def test_tables_that_make_no_sense_are_doubted(run, tmp_path):
    entries = {0x1000 + 8 * slot: 0x800_0000_0007 | slot << 12 for slot in range(6)}
    case = Case(cpu=Cpu.from_context(context()), ram=((0, 0x10_0000),), entries=entries)
    path = written(tmp_path / "noise.json", replace(case, cpu=replace(case.cpu, maxphyaddr=48)))
    ran = run("walk", path, "--eptp", "0x101e", "--allow-empty")
    assert (0, "") == (ran.status, ran.out)
    assert "6 entries refer to tables outside SOURCE's memory" in ran.err
    assert "… and 2 more" in ran.err
    assert "make no sense: is the EPTP right?" in ran.err


def test_a_width_that_isnt_known_is_assumed_and_wide_addresses_are_named(run, tmp_path):
    words = np.zeros(4 * 512, np.uint64)
    words[[0, 512, 1024]] = [0x1007, 0x2007, 0x3007]
    words[1536] = 1 << 41 | 0x37
    path = tmp_path / "ept.bin"
    path.write_bytes(words.tobytes())
    raw = ("walk", path, "--kind", "raw", "--eptp", "0x1e", "--json")
    ran = run(*raw)
    assert ["0x20000000000"] == [it["pa"] for it in ran.records]
    assert "assumed: maxphyaddr = 52" in ran.err
    assert "1 entry needs more than 40 bits of physical address, 0 of them more than 46" in ran.err
    # With fewer bits it is misconfigured.
    assert "no mapping" in refused(run(*raw, "--maxphyaddr", "40"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--eptp", "0x100059"), "eptp = 0x100059 has the memory type 1: neither 0 (UC) nor 6"),
        (("--eptp", "0x100016"), "eptp = 0x100016 has 3 levels: neither 4 nor 5"),
        (("--eptp", "0x10015e"), "eptp = 0x10015e sets reserved bits (11:8)"),
        (("--eptp", "0x1000010005e"), "eptp = 0x1000010005e sets bits from MAXPHYADDR up"),
        (("--eptp", "0x400001e"), "EPTP 0x400001e points outside the memory"),
        (("--eptp", "0x20001e"), "no mapping: is the EPTP right? (--allow-empty takes it)"),
        (("--eptp", "nowhere"), "--eptp"),
        (("--mbec",), "--mbec needs --eptp"),
        (("--ept-cap", "0"), "--ept-cap needs --eptp"),
        ((*MBEC, "--ept-cap", "0"), "needs what the processor lacks"),
        ((*MBEC, "--ncr3", "0x1000"), "--eptp and --ncr3: choose one of them"),
        ((*MBEC, "--cr3", "0x1000"), "--cr3 and --eptp: choose one of them"),
        ((*MBEC, "--roots", "all"), "--roots and --eptp: choose one of them"),
        ((*MBEC, "--flags", "a=1"), "--flags and --eptp: choose one of them"),
        ((*MBEC, "--user"), "--user and --eptp: choose one of them"),
        ((*MBEC, "--symbols", "linux"), "--symbols and --eptp: choose one of them"),
        ((*MBEC, "--in", "text"), "--in and --eptp: choose one of them"),
        ((*MBEC, "--encryption-mask", "0x1000"), "--encryption-mask and --eptp"),
        ((*MBEC, "--page-size", "4M"), "--page-size 4M: a host's tables have 4K, 2M, 1G"),
        ((*MBEC, "--memory-type", "uc-"), "--memory-type uc-: an EPT has uc, wc, wt, wp, wb"),
        ((*MBEC, "--aliases-of", "0x900000"), "--aliases-of 0x900000: nothing is mapped there"),
        (("--ncr3", "0x1000000"), "no mapping: is nCR3 right?"),
        (("--ncr3", "0x100000", "--memory-type", "wb"), "--memory-type and --ncr3"),
        (("--ncr3", "0x100000", "--host-efer", "0"), "nested tables have 4 or 5 levels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cant_be_is_one_line(run, options, message):
    assert message in refused(run("walk", IMAGE, *options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--of", "0x2401000", "--tables"), "--of and --tables: choose one of them"),
        (("--tables", "--policy", "any"), "--tables and --policy: choose one of them"),
        (("--of", "0x9000000"), "nothing is granted of physical address 0x9000000"),
        (("--types",), "--types and --eptp: choose one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_frames_cant_answer_is_one_line(run, options, message):
    assert message in refused(run("frames", IMAGE, *MBEC, *options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--observe",), "--observe and --eptp: the emulated CPU has no EPT"),
        (("--roots", "all"), "--roots and --eptp: choose one of them"),
        (("--vendor", "amd"), "EPT is Intel's: the guest's vendor has to be intel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_translate_cant_answer_is_one_line(run, options, message):
    assert message in refused(run("translate", IMAGE, "0x400000", *MBEC, *options))


@pytest.fixture
def cycle(tmp_path):
    """One table that is its own table 512 times: 2^36 pages, all of one frame."""
    entries = {0x1000 + 8 * slot: 0x1007 for slot in range(512)}
    case = Case(cpu=Cpu.from_context(context()), ram=((0, 0x10_0000),), entries=entries)
    return written(tmp_path / "cycle.json", case)


def test_tables_that_refer_to_themselves_end(run, cycle, tmp_path):
    host = ("--eptp", "0x101e")
    first = run("walk", cycle, *host, "--limit", "3", "--summary", tmp_path / "it", "--json")
    assert [0, KIB4, 2 * KIB4] == [int(it["gpa"], 16) for it in first.records]
    assert 1 << 36 == json.loads((tmp_path / "it").read_bytes())["mappings"]
    (folded,) = run("walk", cycle, *host, "--coalesce", "--json").records
    assert (1 << 36, 1 << 48, KIB4) == (folded["mappings"], folded["size"], folded["stride"])
    ran = run("frames", cycle, *host, "--json", "--aliases", "1")
    assert [("0x1000", KIB4, "rwx", "rwx")] == [tuple(it.values()) for it in ran.records]
    assert 1 == run("frames", cycle, *host, "--tables").status
    none = run("walk", cycle, *host, "--pa", "0x2000+4K", "--json")
    assert (0, "") == (none.status, none.out)
    translated = run("translate", cycle, "0", *host)
    assert 0 == translated.status
