"""--expect: verdicts, statuses and reports of every command that takes it; `expect new`."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from crosswalk.emu.report.expectations import ExpectationsJson
from crosswalk.walker.formats import Case, Cpu, dump_case
from tests.emu.case_files import LINUX_CASE
from tests.emu.cli.running import refused
from tests.emu.load.linux.kernels import talking, vmlinux
from tests.tables import KIB4, OPEN, RW, XD, A, P, PageTables, context
from tests.walker.symbols.kernel_elf import ALLOC, GLOBAL, NOBITS, OBJECT, kernel_elf

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "kernel-ci"
OUTSIDE = 0x1234_0000
RAM = ((0, 0x10000),)


def kernel():
    """Code, data, and a page of the user's."""
    return (
        PageTables(ram=RAM)
        .map(0xFFFF_8000_0000_0000, 0x8000, P | A, upper=P | RW | A)
        .map(0xFFFF_8000_0000_1000, 0x9000, P | A | RW | XD, upper=P | RW | A)
        .map(0x40_0000, 0xA000, OPEN | A | XD)
    )


@pytest.fixture
def expect(tmp_path):
    path = tmp_path / "kernel.expect"

    def expect(*lines):
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return expect


def count_in(report):
    return len(ET.parse(report).getroot())  # noqa: S314  # Our own.


HOLDS, BROKEN, UNSAID = "no wx", "no user", "here is r-x"


@pytest.mark.parametrize(
    ("sentences", "status", "word"),
    [
        ([HOLDS], 0, "1 expectation holds"),
        ([HOLDS, "no user in upper-half"], 0, "2 expectations hold"),
        ([HOLDS, BROKEN], 1, "1 of 2 expectations broken"),
        ([HOLDS, UNSAID], 2, "1 of 2 expectations can't be said"),
        ([UNSAID, BROKEN, HOLDS], 1, "1 of 3 expectations broken; 1 can't be said"),
    ],
)
def test_walk_judges_instead_of_listing(run, case, sentences, status, word):
    options = [each for text in sentences for each in ("--expect", text)]
    ran = run("walk", case(kernel()), *options)
    assert status == ran.status
    assert f"verdict: {word}" == ran.out.splitlines()[-2]
    names = ["holds", "BROKEN", "can't be said"]
    judged = [line for line in ran.out.splitlines() if line.startswith(tuple(names))]
    assert len(sentences) == len(judged)
    document = run("walk", case(kernel()), *options, "--json").document
    assert (word, len(sentences)) == (document["verdict"], len(document["sentences"]))


def test_a_broken_sentence_names_its_mappings(run, case):
    ran = run("walk", case(kernel()), "--expect", "no user")
    assert [
        "BROKEN         no user: 1 mapping",
        f"  {0x40_0000:016x}-{0x40_0FFF:016x} 000000000a000        4 KiB rw- rw-  1 page",
    ] == ran.out.splitlines()[:2]
    tables = kernel()
    for at in range(0, 20, 2):
        tables.map(0x50_0000 + at * KIB4, at * at * KIB4, OPEN)
    few = run("walk", case(tables), "--expect", "no user")
    every = run("walk", case(tables), "--expect", "no user", "--verbose")
    assert (6, 12) == tuple(ran.out.count("\n  ") + 1 for ran in (few, every))
    assert "  … and more (--verbose names all)\n" in few.out


def test_a_file_of_sentences_has_lines_and_comments(run, case, expect, tmp_path):
    path = expect("# what stays", "", "no wx  # at all", "no user")
    document = run("walk", case(kernel()), "--expect", path, "--json").document
    first, second = document["sentences"]
    assert {"text": "no wx", "outcome": "holds", "file": str(path), "line": 3} == first
    assert ("no user", 4, 1) == (second["text"], second["line"], second["mappings"])
    assert [("0x400000", {"supervisor": "rw-", "user": "rw-"})] == [
        (each["va"], each["rights"]) for each in second["first"]
    ]
    known = {name: document[name] for name in ("format", "sentences", "holds", "broken", "unsaid")}
    msgspec.convert(known, ExpectationsJson)
    spaced = tmp_path / "a name"
    spaced.write_text("no wx\n")
    assert 0 == run("walk", case(kernel()), "--expect", f"@{spaced}").status


def test_reports_are_of_sentences_and_the_same_each_time(run, case, expect, tmp_path):
    path, report = expect("no wx", UNSAID, "no user"), tmp_path / "junit.xml"
    given = ("walk", case(kernel()), "--expect", path, "--junit", report, "--github")
    ran = run(*given)
    unsaid, broken = (line for line in ran.err.splitlines() if line.startswith("::"))
    title, text = unsaid.removeprefix("::error ").split("::")
    assert f"file={path},line=2,title=can't be said%3A here is r-x" == title
    assert "can't be said: no region, section or symbol here is known" == text
    page = f"{0x40_0000:016x}-{0x40_0FFF:016x} 000000000a000        4 KiB rw- rw-  1 page"
    assert (
        f"::error file={path},line=3,title=BROKEN%3A no user::BROKEN: 1 mapping%0A{page}" == broken
    )
    content = report.read_bytes()
    suite = ET.fromstring(content)  # noqa: S314  # Our own.
    assert ("3", "1", "1") == tuple(suite.get(name) for name in ("tests", "failures", "errors"))
    assert [None, "error", "failure"] == [(each[0].tag if len(each) else None) for each in suite]
    run(*given)
    assert content == report.read_bytes()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("no w", "--expect:4: expected wx, user, reserved, tables or mappings, found w"),
        (
            "missing",
            "missing: no such file or directory (--expect takes a sentence if a space is in",
        ),
    ],
)
def test_what_is_no_sentence_and_no_file_is_refused(run, case, value, error):
    assert error in refused(run("walk", case(kernel()), "--expect", value))


def test_an_error_in_a_file_has_its_line(run, case, expect, tmp_path):
    path = expect("no wx", "no", "guard x unmapped")
    assert f"{path}:2:3: expected wx, user, reserved, tables or mappings" in refused(
        run("check", LINUX_CASE, "--expect", path)
    )
    (tmp_path / "binary").write_bytes(b"no wx\n\xff")
    ran = run("walk", case(kernel()), "--expect", tmp_path / "binary")
    assert "byte 0x6 is no UTF-8" in refused(ran)
    assert "no sentence in it" in refused(run("walk", case(kernel()), "--expect", expect("#")))


def test_a_file_may_begin_with_a_byte_order_mark(run, case, tmp_path):
    path = tmp_path / "marked.expect"
    path.write_bytes(b"\xef\xbb\xbfno wx\n")
    assert "holds          no wx\n" in run("walk", case(kernel()), "--expect", path).out


def test_a_range_without_an_address_of_the_mode_is_not_said_to_hold(run, case):
    ran = run("walk", case(kernel()), "--expect", "no user in 0xffff80000000000-0xfffffffffffffff")
    reason = "0xffff80000000000-0xfffffffffffffff has no address that 4-level paging translates"
    assert (2, True) == (ran.status, f": {reason}\n" in ran.out)


@pytest.mark.parametrize(
    "given",
    [
        ["--types"],
        ["--coalesce"],
        ["--wx"],
        ["--start", "1"],
        ["--in", "x"],
        ["--limit", "3"],
        ["--watch", "1"],
    ],
    ids="".join,
)
def test_options_of_a_listing_are_refused(run, case, given):
    line = refused(run("walk", case(kernel()), "--expect", "no wx", *given))
    assert f"--expect lists nothing: {given[0]} is for a listing" in line


@pytest.mark.parametrize("given", [["--junit", "x"], ["--github"], ["--partial"], ["--verbose"]])
def test_its_options_need_it(run, case, given):
    assert f"{given[0]} needs --expect" in refused(run("walk", case(kernel()), *given))


@pytest.fixture
def lacking(raw):
    """An image without the table of one of its pages."""
    tables = kernel()
    tables.entries[tables.entry_pa(0x40_0000, 2)] = OUTSIDE | OPEN
    return raw(tables), "--cr3", "0x1000", "--cr4", "0x20"


def test_holds_is_not_said_of_tables_that_are_not_there(run, lacking, tmp_path):
    ran = run("walk", *lacking, "--expect", "no wx", "--expect", "no user in upper-half")
    assert "can't be said  no wx: the table for 0x400000 is not in memory\n" in ran.out
    assert "holds          no user in upper-half\n" in ran.out
    assert 2 == ran.status
    ran = run(
        "walk", *lacking, "--expect", "no wx", "--expect", "no user in upper-half", "--partial"
    )
    assert "holds          no wx: partial: the table for 0x400000 is not in memory\n" in ran.out
    assert "verdict: 2 expectations hold, 1 of them partial, in root 0x1000\n" in ran.out
    assert 0 == ran.status
    report = tmp_path / "junit.xml"
    given = ("--expect", "no wx", "--expect", "no user in upper-half", "--partial")
    assert 0 == run("walk", *lacking, *given, "--junit", report).status
    cases = ET.parse(report).getroot()  # noqa: S314  # Our own.
    outputs = [each.findtext("system-out") for each in cases]
    assert ["partial: the table for 0x400000 is not in memory", None] == outputs
    ran = run("walk", *lacking, "--expect", "frames never wx")
    assert (2, True) == (
        ran.status,
        "frames never wx: not all tables could be looked at" in ran.out,
    )
    ran = run("walk", *lacking, "--expect", "frames never wx", "--partial")
    assert (0, True) == (ran.status, "partial: not all tables could be looked at" in ran.out)


def test_what_depends_on_an_assumption_says_so(run, raw):
    tables = PageTables(ram=RAM).map(0x40_0000, 0x8000, OPEN | A)
    given = ("walk", raw(tables), "--cr3", "0x1000", "--expect", "0x400000+1 is rwx")
    ran = run(*given)
    assert 0 == ran.status
    assert "  it is broken with CR4.SMEP, which " in ran.out
    assert "give --cr4" in run(*given, "--json").document["sentences"][0]["assumption"]
    assert "SMEP" not in run(*given, "--cr4", "0x20").out


def test_what_depends_on_the_width_that_is_assumed_says_so(run, raw):
    tables = kernel().map(0x70_0000, 1 << 45, OPEN)
    text = "no reserved bits"
    given = ("walk", raw(tables), "--cr3", "0x1000", "--cr4", "0x20", "--expect", text)
    ran = run(*given)
    assert 0 == ran.status
    assert "  it is broken with a MAXPHYADDR of 40, which " in ran.out
    assert "tell: give --maxphyaddr\n" in ran.out
    assert "MAXPHYADDR" not in run(*given, "--maxphyaddr", "46").out
    ran = run(*given, "--maxphyaddr", "40")
    assert (1, True) == (ran.status, ", va 0x700000: sets reserved bit 45\n" in ran.out)
    # What else a narrower CPU would make of these tables is no part of other sentences.
    assert "MAXPHYADDR" not in run(*given[:-1], "no user in 0x700000").out


def test_a_sentence_about_entries_names_those_that_break_it(run, case, expect, tmp_path):
    tables = kernel().change(0x40_0000, 4, add=1 << 7).change(0xFFFF_8000_0000_0000, add=1 << 51)
    path, report = (
        expect("no reserved bits", "no reserved bits in 0x400000-0x800000"),
        (tmp_path / "junit.xml"),
    )
    given = ("walk", case(tables), "--expect", path, "--junit", report, "--github")
    ran = run(*given)
    upper = tables.entry_pa(0xFFFF_8000_0000_0000)
    lines = [
        f"PML4E at 0x1000 = {tables.entries[0x1000]:#x}, va 0x0: sets reserved bit 7",
        f"PTE at {upper:#x} = 0x8000000008021, va 0xffff800000000000: sets reserved bit 51",
    ]
    assert [
        "BROKEN         no reserved bits: 2 entries",
        *(f"  {line}" for line in lines),
        "BROKEN         no reserved bits in 0x400000-0x800000: 1 entry",
        f"  {lines[0]}",
        "verdict: 2 of 2 expectations broken",
    ] == ran.out.splitlines()[:-1]
    assert f"::BROKEN: 1 entry%0A{lines[0]}" in ran.err
    failure = ET.parse(report).getroot()[0][0]  # noqa: S314  # Our own.
    assert ("failure", "BROKEN: 2 entries") == (failure.tag, failure.get("message"))
    assert "\n".join(lines) == failure.text
    document = run(*given, "--json").document
    first = document["sentences"][0]
    assert (2, None, None) == (first["entries"], first.get("mappings"), first.get("first"))
    pml4e, pte = first["first_entries"]
    assert {"level": 4, "pa": "0x1000", "va": "0x0", "reserved_bits": "0x80"} == {
        name: pml4e[name] for name in ("level", "pa", "va", "reserved_bits")
    }
    assert (1, "0x8000000008021") == (pte["level"], pte["entry"])
    known = {name: document[name] for name in ("format", "sentences", "holds", "broken", "unsaid")}
    msgspec.convert(known, ExpectationsJson)


def test_roots_are_named_where_there_are_several(run, case):
    tables = kernel()
    other = 0xC000
    for slot in range(512):
        if tables.root + 8 * slot in tables.entries:
            tables.entries[other + 8 * slot] = tables.entries[tables.root + 8 * slot]
    ran = run("walk", case(tables), "--roots", f"0x1000,{other:#x}", "--expect", "no user")
    assert "; root 0x1000 and 1 other\n" in ran.out
    tables.change(0x40_0000, add=1 << 51)
    both = ("--roots", f"0x1000,{other:#x}", "--expect", "no reserved bits")
    assert (
        "va 0x400000: sets reserved bit 51; root 0x1000\n" in run("walk", case(tables), *both).out
    )


def test_check_ends_with_the_worse_of_both(run, case, tmp_path):
    path, report = case(kernel()), tmp_path / "junit.xml"
    ran = run("check", path, "--jobs", "1", "--expect", "no wx", "--junit", report)
    assert 0 == ran.status
    assert "1 expectation holds" in ran.out.splitlines()[-2]
    ran = run("check", path, "--jobs", "1", "--expect", "no user", "--json")
    assert (1, 1, 0) == (
        ran.status,
        ran.document["expectations"]["broken"],
        ran.document["divergences"],
    )
    assert 2 == run("check", path, "--jobs", "1", "--expect", UNSAID).status
    assert 1 == count_in(report)


def test_a_width_that_is_assumed_hides_no_mapping(run, raw):
    tables = kernel().map(0x70_0000, 1 << 45, OPEN)
    given = (raw(tables), "--cr3", "0x1000", "--cr4", "0x20", "--jobs", "1", "--partial")
    assert 1 == run("check", *given, "--expect", "no wx").status


def test_the_guest_is_judged_by_the_names_of_its_regions(run):
    ran = run("run", "--jobs", "1", "--expect", EXAMPLE / "guest.expect")
    assert (0, 10) == (ran.status, ran.out.count("\nholds "))
    ran = run("run", "--jobs", "1", "--expect", "no wx")
    assert 1 == ran.status
    assert "1 page  user-jit" in ran.out


@pytest.mark.parametrize("form", [[], ["--format", "json"]], ids=["summary", "list"])
def test_protect_judges_what_is_granted_to(run, case, form):
    for sentence, status in (HOLDS, 0), (BROKEN, 1), (UNSAID, 2):
        assert status == run("protect", case(kernel()), "--expect", sentence, *form).status
    document = run("protect", case(kernel()), "--expect", BROKEN, "--json").document
    assert 1 == document["expectations"]["broken"]


@pytest.mark.slow
def test_the_protected_guest_is_judged_where_protection_begins(run):
    ran = run("protect", "--expect", EXAMPLE / "guest.expect", "--json")
    assert (0, 10) == (ran.status, ran.document["expectations"]["holds"])
    assert 1 == run("protect", "--expect", "no wx").status


UNTIL = ("--until", "console:tiny kernel", "--ram", "32", "--jobs", "1")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(talking("hang: jmp hang")))
    return path


def test_a_boot_is_judged_at_each_point_and_since_one(run, tiny, tmp_path):
    since = "0x1000000- unchanged since instructions:40"
    given = ("run", "--kernel", tiny, *UNTIL, "--check-at", "instructions:40", "--json")
    report = tmp_path / "junit.xml"
    ran = run(*given, "--expect", "no user", "--expect", since, "--junit", report)
    first, last = (point["expectations"] for point in ran.document["points"])
    assert [1, 2] == [len(each["sentences"]) for each in (first, last)]
    assert ["instructions:40", "console:tiny kernel"] == [
        each["sentences"][0]["point"] for each in (first, last)
    ]
    assert 3 == count_in(report)
    # Its own tables map less than those that it is loaded with.
    assert ("broken", 1) == (last["sentences"][1]["outcome"], ran.status)
    assert last["sentences"][1]["reason"].endswith(" KiB gone")


def test_what_is_said_of_the_loaders_tables_is_said_to_be(run, tiny, tmp_path):
    report = tmp_path / "junit.xml"
    given = ("run", "--kernel", tiny, *UNTIL, "--check-at", "instructions:1")
    given += ("--expect", "no user", "--junit", report)
    ran = run(*given)
    first, last = ran.out.partition("\nconsole:tiny kernel")[::2]
    line = "  the loader's own tables, as it made them: the guest has made none of its own yet\n"
    assert (True, False) == (line in first, line in last)
    assert "verdict: agreement; 2 expectations hold; 1 judged of the loader's tables\n" in ran.out
    told = [each.get("name") for each in ET.parse(report).getroot()]  # noqa: S314  # Our own.
    assert "no user (at instructions:1, of the loader's tables)" == told[0]
    assert "no user (at console:tiny kernel)" == told[1]
    points = run(*given, "--json").document["points"]
    assert ["loader", "guest"] == [each["tables"] for each in points]
    judged = [each["expectations"]["sentences"][0] for each in points]
    assert ["loader", None] == [each.get("tables") for each in judged]


def test_a_point_that_nothing_looks_at_is_refused(run, tiny):
    ran = run("run", "--kernel", tiny, *UNTIL, "--expect", "unchanged since idle")
    assert "unchanged since idle: --check-at names no such point" in refused(ran)


def test_a_kernel_that_maps_everything_is_broken(run, tiny):
    ran = run("run", "--kernel", tiny, *UNTIL, "--expect", EXAMPLE / "linux.expect")
    assert "--check-at names no such point" in refused(ran)
    ran = run("run", "--kernel", tiny, *UNTIL, "--expect", "no wx")
    assert 1 == ran.status
    assert "BROKEN         no wx: 16 mappings\n" in ran.out


@pytest.mark.parametrize(
    "source",
    ["guest:4level", pytest.param("guest:5level", marks=pytest.mark.slow), LINUX_CASE, "made"],
)
def test_what_expect_new_writes_holds_and_is_the_same_each_time(run, case, tmp_path, source):
    source = case(kernel()) if source == "made" else source
    path = tmp_path / "new.expect"
    symbols = ("--symbols", "linux") if source == LINUX_CASE else ()
    ran = run("expect", "new", source, *symbols, "-o", path)
    assert (0, "") == (ran.status, ran.out)
    judged = run("walk", source, *symbols, "--expect", path, "--json").document
    assert (0, 0) == (judged["broken"], judged["unsaid"])
    assert f"{judged['holds']} expectations that hold\n" in ran.err
    assert path.read_text() == run("expect", "new", source, *symbols).out


def test_expect_new_says_what_breaks_what_does_not_hold(run, case):
    tables = kernel().change(0x40_0000, drop=XD)
    out = run("expect", "new", case(tables)).out
    assert "# no wx   # BROKEN: 1 mapping\n#   0000000000400000-" in out
    assert "\nno user in 0xffff800000000000-\n" in out
    assert "\nguard 0x0-0x1000 unmapped\n" in out


def test_expect_new_writes_that_guards_stay_unmapped(run, case, tmp_path):
    sections = [(b".text", 0xFFFF_8000_0000_0000, KIB4, ALLOC)]
    sections += [(b".stack_guard", 0xFFFF_8000_0000_2000, KIB4, ALLOC, NOBITS)]
    sections += [(b".unused", 0xFFFF_8000_0000_5000, KIB4, ALLOC, NOBITS)]
    symbols = [
        (b"guard_of_data", 0xFFFF_8000_0000_4000, KIB4, GLOBAL, OBJECT, 2),
        (b"guarded", 0xFFFF_8000_0000_0000, KIB4, GLOBAL, OBJECT, 1),
        (b"other", 0xFFFF_8000_0000_5000, KIB4, GLOBAL, OBJECT, 3),
    ]
    path = tmp_path / "kernel.elf"
    path.write_bytes(kernel_elf(sections, symbols))
    out = run("expect", "new", case(kernel()), "--symbols", path).out
    lines = [line for line in out.splitlines() if line.endswith("is unmapped")]
    assert [".stack_guard is unmapped", "guard_of_data is unmapped"] == lines
    # A guard that is mapped is no guard, and has its rights.
    tables = kernel().map(0xFFFF_8000_0000_2000, 0xB000, P | A, upper=P | RW | A)
    out = run("expect", "new", case(tables), "--symbols", path).out
    assert "\n.stack_guard is r-x\n" in out
    assert ".stack_guard is unmapped" not in out


def test_expect_new_says_what_breaks_everything_where_nothing_holds(run, tmp_path):
    recursive = Path(__file__).resolve().parents[2] / "cases" / "shared" / "recursive.json"
    document = json.loads(recursive.read_text())
    # In the root, which is a table of each level, a reserved bit, and an entry that leads nowhere.
    document["entries"] |= {"0x1100": "0x8000000002003", "0x1108": "0x8000000012340001"}
    path = tmp_path / "recursive.json"
    path.write_text(json.dumps(document))
    ran = run("expect", "new", path, "-o", tmp_path / "new.expect")
    assert (0, "") == (ran.status, ran.out)
    assert "no expectation holds, of 8: each stands behind a #, with the reason\n" in ran.err
    lines = (tmp_path / "new.expect").read_text().splitlines()
    assert "# no wx   # BROKEN: 122 mappings" in lines
    assert all(line.startswith("#") for line in lines if line)
    assert "no sentence in it" in refused(run("walk", path, "--expect", tmp_path / "new.expect"))


def test_expect_new_of_what_says_nothing_is_an_error(run, tmp_path):
    path = tmp_path / "case.json"
    words = {0x1000 + 8 * at: 0xBAD000 | P | 1 << 7 for at in range(512)}
    cpu = Cpu.from_context(context())
    path.write_bytes(dump_case(Case(cpu=cpu, ram=RAM, entries=words)))
    assert "no mapping" in refused(run("expect", "new", path))
