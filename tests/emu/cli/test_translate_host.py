"""`translate` and `walk` where the processor chooses under EPT, and under AMD's GMET."""

import pytest

from crosswalk.walker.formats import Case, Cpu
from tests.emu.cli.running import refused, written
from tests.ept_tables import EPTP, EptSpace, W
from tests.tables import KIB4, NCR3, OPEN, ROOT, RW, US, XD, NestedPageTables, PageTables, context

VA = 0x40_0000
TABLES = [ROOT + at * KIB4 for at in range(4)]


def case_of(space, registers):
    return Case(cpu=Cpu.from_context(registers), ram=((0, 1 << 24),), entries=space.words)


@pytest.fixture
def unmarked(tmp_path):
    """A guest in whose tables A is clear, two of them where EPT allows no writing."""
    space = EptSpace(PageTables().map(VA, 0x9000)).map_all([*TABLES, 0x9000])
    for table in (TABLES[1], TABLES[3]):
        space.ept.change(table, drop=W)
    return written(tmp_path / "unmarked.json", case_of(space, context()))


def test_each_outcome_that_the_processor_may_choose_is_shown(run, unmarked):
    asked = ("translate", unmarked, hex(VA), "--eptp", hex(EPTP))
    lines = run(*asked).out.splitlines()
    place = next(at for at, line in enumerate(lines) if line.startswith("predicted: "))
    violation = "VM exit: EPT violation, qualification 0xab (read write readable executable"
    assert [f"predicted: {violation}", f"or:        {violation}"] == [
        line[: 11 + len(violation)] for line in lines[place : place + 2]
    ]
    assert "failed in: nested walk of a table" == lines[place + 2]
    document = run(*asked, "--json").document
    both = [document["predicted"], *document["or"]]
    assert ["ept_violation"] * 2 == [each["outcome"] for each in both]
    assert ["0x2000", "0x4000"] == [hex(int(each["gpa"], 16) & -KIB4) for each in both]
    # With A and D of EPT the first table can't even be read.
    document = run(*asked[:-1], hex(EPTP | 0x5E), "--json").document
    assert "or" not in document
    assert "0xab" == document["predicted"]["qualification"]


@pytest.fixture
def trapped(tmp_path):
    """A guest with a page that the nested tables give the user, and one that they don't."""
    guest = PageTables().map(VA, 0x9000).map(VA + KIB4, 0xA000)
    space = NestedPageTables(guest).map_all([*TABLES, 0x9000, 0xA000])
    space.host.change(0xA000, drop=US)
    return written(tmp_path / "trapped.json", case_of(space, context()))


NESTED = ("--ncr3", hex(NCR3))


@pytest.mark.parametrize(
    ("va", "access", "cpl", "plain", "with_gmet"),
    [
        (VA, "execute", 0, "ok", "nested_page_fault"),
        (VA, "execute", 3, "ok", "ok"),
        (VA, "write", 0, "ok", "ok"),
        (VA + KIB4, "execute", 0, "nested_page_fault", "ok"),
        (VA + KIB4, "execute", 3, "nested_page_fault", "ok"),
        (VA + KIB4, "read", 3, "nested_page_fault", "ok"),
    ],
)
def test_gmet_has_u_s_say_who_executes(run, trapped, va, access, cpl, plain, with_gmet):
    asked = ("translate", trapped, hex(va), "--access", access, "--cpl", cpl, *NESTED, "--json")
    assert plain == run(*asked).document["predicted"]["outcome"]
    ran = run(*asked, "--gmet")
    assert with_gmet == ran.document["predicted"]["outcome"]
    assert "NXE 1, GMET" in ran.err
    if with_gmet != "ok":
        predicted = ran.document["predicted"]
        assert ("0x100000015", "0x4") == (predicted["error_code"], predicted["open"])


def test_so_it_does_in_listings(run, trapped):
    def rights(*options):
        records = run("walk", trapped, *NESTED, *options, "--json").records
        by_gpa = {int(each["gpa"], 16): each["rights"] for each in records}
        return [tuple(by_gpa[gpa].values()) for gpa in (0x9000, 0xA000) if gpa in by_gpa]

    assert [("rwx", "rwx"), ("---", "---")] == rights()
    assert [("rw-", "rwx"), ("rwx", "rwx")] == rights("--gmet")
    assert "MAXPHYADDR 40, GMET" in run("walk", trapped, *NESTED, "--gmet").err
    line = refused(run("walk", trapped, "--eptp", hex(NCR3), "--gmet"))
    assert "--gmet needs --ncr3" in line


@pytest.mark.parametrize(
    ("flags", "supervisor", "user"),
    [(OPEN | XD, "rw-", "rw-"), (OPEN & ~RW, "r--", "r-x"), (OPEN & ~(RW | US), "r-x", "r-x")],
)
def test_with_each_right_by_itself(run, tmp_path, flags, supervisor, user):
    space = NestedPageTables(PageTables().map(VA, 0x9000))
    space.host.map(0x9000, 0x9000, flags)
    case = written(tmp_path / "one.json", case_of(space, context()))
    (record,) = run("walk", case, *NESTED, "--gmet", "--json").records
    assert {"supervisor": supervisor, "user": user} == record["rights"]
