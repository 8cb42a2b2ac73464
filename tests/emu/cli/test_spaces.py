"""All address spaces together, by the command line: a made guest under page-table isolation."""

import json

import pytest

from tests.tables import KIB4, RW, US, USED, XD, A, P, PageTables, linear
from tests.walker.formats.conftest import Core, cpu_state, qemu_notes

KERNEL, USER = 0x2000, 0x3000
"""The two roots of a process are neighbours: the kernel's, and user mode's above it."""
RAM = 0x4_0000
TEXT, DATA, OPEN_PAGE = 0x40_0000, 0x40_1000, 0x40_2000
IMAGE = linear(511, 510, 0, 0)
KERNEL_TEXT, KERNEL_DATA, ENTRY = 0x3_0000, 0x3_1000, 0x3_2000
SMEP = 0x10_0020


def isolated(*, bad):
    """Tables of a process under isolation; `bad` is a page that user mode writes and executes.

    Both roots have the process' tables, but in the kernel's nothing there is executable. Of the
    kernel's half user mode has the entry code alone.
    """
    tables = PageTables(root=KERNEL, ram=((0, RAM),))
    tables._free = USER + KIB4
    tables.map(TEXT, 0x2_0000, P | US | A)
    tables.map(DATA, 0x2_1000, P | US | RW | XD | A)
    if bad:
        tables.map(OPEN_PAGE, 0x2_2000, USED)
    for at in range(8):
        tables.map(IMAGE + at * KIB4, KERNEL_TEXT, P | A)
    tables.map(IMAGE + 8 * KIB4, KERNEL_DATA, P | RW | XD | A)
    tables.map(linear(300, 0, 0, 0), ENTRY, P | A)
    for slot in (0, 300):
        tables.entries[USER + 8 * slot] = tables.entries[KERNEL + 8 * slot]
    tables.entries[KERNEL] |= XD
    return tables.memory.read(0, RAM)


@pytest.fixture(params=["raw", "core"])
def guest(request, tmp_path):
    def guest(*, bad):
        path = tmp_path / f"guest.{request.param}"
        data = isolated(bad=bad)
        if request.param == "core":
            notes = qemu_notes(cpu_state(cr0=0x8001_0033, cr3=KERNEL, cr4=SMEP))
            data = Core(loads=[(0, data)], notes=notes).build()
        path.write_bytes(data)
        return path, *(("--cr4", hex(SMEP)) if request.param == "raw" else ())

    return guest


POLICIES = pytest.mark.parametrize(
    "command",
    [("frames", "--policy", "any"), ("frames", "--policy", "one-privilege"), ("protect",)],
)


STALE, SECOND = 0x3_8000, 0x3_C000
"""Roots of identity maps that nobody uses any more."""


def with_stale_roots(data, *, two):
    """The same memory with a stale identity map, or with two that have an upper half in common.

    All of it is writable and executable.
    """
    left = bytearray(data)
    for root in (STALE, SECOND)[: 1 + two]:
        tables = PageTables(root=root, ram=((0, RAM),))
        for at in range(1, 32):
            tables.map(at * KIB4, at * KIB4, P | RW, upper=P | RW)
        if two:
            tables.entries[root + 8 * 300] = STALE + KIB4 | P | RW
        for pa, entry in tables.entries.items():
            left[pa : pa + 8] = entry.to_bytes(8, "little")
    return bytes(left)


@pytest.fixture
def stale(tmp_path):
    def stale(*, two):
        path = tmp_path / "stale.core"
        notes = qemu_notes(cpu_state(cr0=0x8001_0033, cr3=KERNEL, cr4=SMEP))
        data = with_stale_roots(isolated(bad=False), two=two)
        path.write_bytes(Core(loads=[(0, data)], notes=notes).build())
        return path

    return stale


@POLICIES
def test_a_stale_root_convicts_nothing_and_is_said_to_be_left_out(run, stale, command, tmp_path):
    name, *options = command
    source = stale(two=False)
    listed = run("roots", source, "--json")
    strays = {each["cr3"] for each in listed.records if each["role"] == "stray"}
    assert {hex(STALE)} == strays
    assert listed.err.endswith("3 roots, 1 stray among them\n")
    ran = run(name, source, *options, "--roots", "all")
    whole = (
        "W^X: no frame is both writable and executable, over all 2 known roots, 1 stray left out"
    )
    assert (0, True) == (ran.status, whole in ran.out.splitlines())
    left = "1 root of other tables (stale, or another system's) left out: --roots LIST takes it"
    assert 1 == ran.err.count(left)
    ran = run(name, source, *options, "--roots", f"{KERNEL:#x},{STALE:#x}")
    assert "are both writable and executable" in ran.out


@POLICIES
def test_two_stale_roots_that_are_alike_convict(run, stale, command):
    name, *options = command
    ran = run(name, stale(two=True), *options, "--roots", "all")
    assert "are both writable and executable" in ran.out
    assert "stray" not in ran.out + ran.err
    if options:
        assert 1 == ran.status


def test_all_roots_of_every_command_leave_strays_out(run, stale, tmp_path):
    source, path = stale(two=False), tmp_path / "summary.json"
    for command in ("walk", "frames"):
        assert 0 == run(command, source, "--roots", "all", "--summary", path).status
        record = json.loads(path.read_text())
        assert {hex(KERNEL), hex(USER)} == {each["cr3"] for each in record["roots"]}
        assert (2, 1) == (record["known_roots"], record["strays"])
    for command in (("check", "--jobs", "1"), ("translate", hex(TEXT)), ("protect",)):
        ran = run(command[0], source, *command[1:], "--roots", "all", "--json")
        assert (0, 2, 1) == tuple(
            ran.document[key] if key else ran.status for key in ("", "known_roots", "strays")
        )


@POLICIES
def test_a_memory_that_cant_be_searched_may_have_more_roots(run, guest, command, monkeypatch):
    name, *options = command
    source = guest(bad=False)
    monkeypatch.setattr("crosswalk.walker.roots.sieve.MOST", 3)
    cant = "memory can't be searched for others: more than 3 frames could be tables"
    ran = run(name, *source, "--cr3", hex(USER), *options)
    assert (0, True) == (ran.status, cant in ran.out)
    if source[0].suffix == ".core":
        ran = run(name, *source, *options)
        assert (2, True) == (ran.status, "W^X: partial: in the one known root: none" in ran.out)


def test_what_is_found_by_an_assumption_is_said_beside_the_verdict(run, tmp_path):
    tables = PageTables(ram=((0, RAM),))
    tables.map(TEXT, 0x2_0000, P | US | A)  # The supervisor executes it only without SMEP,
    tables.map(IMAGE, 0x2_0000, P | RW | XD | A)  # and writes it here.
    tables.map(IMAGE + KIB4, 0x2_1000, P | RW | A)
    path = tmp_path / "image"
    path.write_bytes(tables.memory.read(0, RAM))
    given = (path, "--cr3", "0x1000")
    said = "W^X: 1 of the 2 within one privilege is no more with CR4.SMEP, which"
    ran = run("frames", *given, "--policy", "one-privilege")
    assert (1, True) == (ran.status, said in ran.out)
    assert said in run("protect", *given).out
    found = run("protect", *given, "--json").document
    assert {"register": "cr4", "bits": ["SMEP"], "ranges": 1} == found["by_assumption"]

    # What is known is no assumption.
    assert said not in run("frames", *given, "--cr4", "0x20").out
    known = run("protect", *given, "--cr4", "0x20", "--json").document
    assert {"by_assumption": None}.items() <= known.items()
    ran = run("frames", *given, "--policy", "one-privilege", "--cr4", hex(SMEP))
    assert "W^X: 1 of them within one privilege" in ran.out
    assert "no more with" not in ran.out


def roots_of(ran):
    return {record["cr3"] for record in ran.records}


def test_both_roots_of_the_pair_are_found(run, guest):
    ran = run("roots", *guest(bad=True), "--json")
    assert {hex(KERNEL), hex(USER)} == roots_of(ran)


@POLICIES
def test_one_root_alone_shows_nothing_and_is_called_a_part(run, guest, command):
    name, *options = command
    source = guest(bad=True)
    part = "W^X: partial: 1 of 2 known roots: none is both writable and executable there; --roots"
    ran = run(name, *source, *options)
    assert (2, True) == (ran.status, part in ran.out)
    assert "nothing found, but other roots are known: --roots all" in ran.err.splitlines()[-1]
    ran = run(name, *source, *options, "--partial")
    assert (0, True) == (ran.status, part in ran.out)
    ran = run(name, *source, *options, "--roots", hex(KERNEL))
    assert (0, True) == (ran.status, part in ran.out)


@pytest.mark.parametrize("policy", ["any", "one-privilege"])
def test_all_roots_convict_a_page_that_user_mode_writes_and_executes(run, guest, policy):
    source = guest(bad=True)
    ran = run("frames", *source, "--policy", policy, "--roots", "all")
    assert 1 == ran.status
    assert "all 2 known roots" in ran.err
    found = ran.out[ran.out.index("W^X: 1 ranges, 4 KiB, are both") :].splitlines()
    assert "W^X: 1 of them within one privilege" == found[-1]
    # The kernel's root has it writable, user mode's also executable.
    writers = [line.split("; ")[1] for line in found if "written" in line]
    executors = [line.split("; ")[1] for line in found if "executed" in line]
    assert {f"root {KERNEL:#x}", f"root {USER:#x}"} == set(writers)
    assert [f"root {USER:#x}"] == executors
    assert 1 == run("protect", *source, "--policy", policy, "--roots", "all").status


@POLICIES
def test_without_that_page_all_roots_have_no_such_frame(run, guest, command):
    name, *options = command
    ran = run(name, *guest(bad=False), *options, "--roots", "all")
    whole = "W^X: no frame is both writable and executable, over all 2 known roots"
    assert (0, True) == (ran.status, whole in ran.out.splitlines())


def test_a_list_for_a_hypervisor_is_of_all_roots_or_called_a_part(run, guest, tmp_path):
    source, output = guest(bad=True), tmp_path / "list.json"
    given = ("--format", "json", "--output", output)
    ran = run("protect", *source, *given)
    assert (2, False) == (ran.status, output.exists())

    assert 0 == run("protect", *source, *given, "--partial").status
    part = json.loads(output.read_text())["collective"]
    assert 0 == run("protect", *source, *given, "--roots", "all").status
    every = json.loads(output.read_text())["collective"]
    at = hex(0x2_2000)
    assert ["---"] == [each["user"][2] + "--" for each in part if each["pa"] == "0x21000"][:1]
    assert {"pa": at, "size": KIB4, "supervisor": "rw-", "user": "rwx"} in every


def test_mappings_are_named_by_their_root_in_the_order_of_roots(run, guest):
    source = guest(bad=True)
    order = [record["cr3"] for record in run("roots", *source, "--json").records]
    listed = run("walk", *source, "--roots", "all", "--json").records
    expected = []
    for root in order:
        alone = run("walk", *source, "--roots", root, "--json").records
        single = run("walk", source[0], *source[1:], "--cr3", root, "--json").records
        assert [{"root": root, **each} for each in single] == alone
        expected += alone
    assert expected == listed

    ran = run("walk", *source, "--roots", "all")
    headings = [line for line in ran.out.splitlines() if line.startswith("root")]
    assert [f"root {root}:" for root in order] == headings
    folded = run("walk", *source, "--roots", "all", "--coalesce", "--json").records
    assert sum(each["mappings"] for each in folded) == len(listed)
    assert order == list(dict.fromkeys(each["root"] for each in folded))


def test_the_summary_has_every_root_with_its_mappings(run, guest, tmp_path):
    source, path = guest(bad=True), tmp_path / "summary.json"
    ran = run("walk", *source, "--roots", "all", "--json", "--summary", path)
    record = json.loads(path.read_text())
    counts = {each["cr3"]: each["mappings"] for each in record["roots"]}
    assert {hex(KERNEL): 13, hex(USER): 4} == counts
    assert (17, 17, 2) == (len(ran.records), record["mappings"], record["known_roots"])


def test_roots_come_from_what_crosswalk_roots_prints_and_from_lists(run, guest, tmp_path):
    source = guest(bad=True)
    every = run("walk", *source, "--roots", "all", "--json")
    records = tmp_path / "roots.json"
    records.write_text(run("roots", *source, "--json").out)
    assert every.records == run("walk", *source, "--roots", records, "--json").records

    lines = tmp_path / "roots.txt"
    order = [record["cr3"] for record in map(json.loads, records.read_text().splitlines())]
    lines.write_text("\n".join(["", *order, str(int(order[0], 16))]))
    ran = run("walk", *source, "--roots", lines, "--json")
    assert every.records == ran.records
    assert "1 of 3 roots are given before, and count once" in ran.err
    lines.write_text("# of the guest\n\n" + "  # live\n".join([*order, ""]))
    assert every.records == run("walk", *source, "--roots", lines, "--json").records
    for text in (",".join(order), ", ".join(str(int(root, 16)) for root in order)):
        assert every.records == run("walk", *source, "--roots", text, "--json").records


def test_the_mode_of_a_line_decides(run, guest, tmp_path):
    source = guest(bad=True)
    path = tmp_path / "roots"
    lines = [json.dumps({"cr3": hex(KERNEL), "mode": mode}) for mode in ("5-level", "4-level")]
    path.write_text("\n".join(lines))
    ran = run("walk", *source, "--roots", path, "--json", "--allow-empty")
    assert {("5-level", hex(KERNEL)), ("4-level", hex(KERNEL))} >= {
        (each["mode"], each["root"]) for each in ran.records
    }
    four = [each for each in ran.records if each["mode"] == "4-level"]
    assert 13 == len(four)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0x5000000", "CR3 0x5000000 points outside the image"),
        ("0x2000,0x5000000", "--roots: 0x5000000 points outside the memory"),
        ("0x2000,nonsense", "--roots: neither all, nor CR3s with commas, nor a file"),
        ("0x12345678123456789", "nor a file"),
        ("0xfff0000000002000", "it is no part of the register"),
    ],
)
def test_what_is_no_root_is_one_line(run, guest, text, message):
    ran = run("walk", *guest(bad=True), "--roots", text)
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no roots"),
        ("# 0x2000\n", "no roots"),
        ("0x2000\n12x\n", "line 2: '12x' is no CR3"),
        ('{"cr3": 8192}', "line 1: "),
        ('{"mode": "4-level"}', "line 1: "),
        ('{"cr3": "0x2000", "mode": "6-level"}', "line 1: "),
        ('{"cr3": "0x2000", "root": 1}', "line 1: "),
        ('{"cr3"', "line 1: "),
    ],
)
def test_a_file_that_has_no_roots_is_one_line(run, guest, tmp_path, content, message):
    path = tmp_path / "roots"
    path.write_text(content)
    ran = run("walk", *guest(bad=True), "--roots", path)
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert message in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("walk", "--cr3", "0x2000"), "--roots and --cr3: choose one of them"),
        (("frames", "--cpu", "0"), "--roots and --cpu: choose one of them"),
        (("walk", "--save-case", "x.json"), "--save-case: a case has one root"),
        (("translate", "0x1000", "--ncr3", "0x1000"), "--roots and --ncr3: choose one of them"),
    ],
)
def test_options_that_choose_one_root_dont_go_with_roots(run, guest, options, message, tmp_path):
    command, *rest = (str(tmp_path / each) if each == "x.json" else each for each in options)
    ran = run(command, *guest(bad=True), *rest, "--roots", "all")
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]


def test_where_no_root_is_known_all_is_an_error(run, tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(RAM))
    ran = run("walk", path, "--roots", "all")
    assert (2, "") == (ran.status, ran.out)
    assert "no root is known" in ran.err.splitlines()[-1]


def test_who_maps_a_frame_is_named_root_by_root(run, guest):
    source = guest(bad=True)
    ran = run("frames", *source, "--roots", "all", "--of", "0x22000", "--json")
    found = {(each["root"], each["va"], each["rights"]["user"]) for each in ran.records}
    assert {(hex(KERNEL), hex(OPEN_PAGE), "rw-"), (hex(USER), hex(OPEN_PAGE), "rwx")} == found
    assert ["root", "va", "pa", "size", "level", "flags", "rights"] == list(ran.records[0])
    (alone,) = run("frames", *source, "--of", "0x22000", "--cr3", hex(USER), "--json").records
    assert ["va", "pa", "size", "level", "flags", "rights"] == list(alone)


def test_a_translation_is_said_for_each_root(run, guest):
    source = guest(bad=True)
    (document,) = run("translate", *source, hex(IMAGE), "--roots", "all", "--json").records
    outcomes = {each["root"]: each["predicted"]["outcome"] for each in document["translations"]}
    assert {hex(KERNEL): "ok", hex(USER): "page_fault"} == outcomes
    assert (hex(IMAGE), "read", 0) == tuple(document[name] for name in ("va", "access", "cpl"))

    lines = run("translate", *source, hex(linear(300, 0, 0, 0)), "--roots", "all").out.splitlines()
    assert 1 == sum(line.startswith("predicted: ok") for line in lines)
    assert [f"roots {KERNEL:#x}, {USER:#x}:"] == [line for line in lines if "root" in line]


def test_a_case_file_has_the_root_that_it_states(run, small_case):
    for command in (("frames", "--policy", "any"), ("protect",)):
        name, *options = command
        assert "known root" not in run(name, small_case, *options).err
    ran = run("walk", small_case, "--roots", "0x1000", "--json")
    assert {"0x1000"} == {each["root"] for each in ran.records}
