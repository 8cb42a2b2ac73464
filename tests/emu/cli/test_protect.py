import json
import re
from pathlib import Path

import pytest

from crosswalk.walker import Segments
from crosswalk.walker.formats import Case, Cpu, dump_case, load_case
from crosswalk.walker.protection import PageEntry, Permission, decode
from tests.tables import ROOT, USED, chain, context
from tests.walker.protection.frame_by_frame import by_frame, least, wanted

LINUX = Path(__file__).resolve().parents[2] / "cases" / "linux-6.1-4level.json"
PAGE = 4096
SUMMARY = ["probes", "agreements", "divergences", "known_divergences", "seconds"]
R, W, X = Permission
EXECUTES = {"supervisor execute", "user execute"}


def letters(uses):
    execute = "x" if uses & EXECUTES else "-"
    return ("r" if "read" in uses else "-") + ("w" if "write" in uses else "-") + execute


@pytest.fixture(params=["case", "raw", "core"])
def small_source(request, small_case, small_raw, small_core):
    return {
        "case": (small_case,),
        "raw": (small_raw, "--cr3", "0x1000"),
        "core": (small_core,),
    }[request.param]


def test_the_list_is_the_same_for_every_kind_of_source(run, small_source):
    ran = run("protect", *small_source, "--format", "json")
    assert 0 == ran.status
    assert [
        ("0x0", 0x9000, "rw-", ["read", "write"]),
        ("0x9000", 0x1000, "r-x", ["read", "supervisor_execute", "user_execute"]),
        ("0xa000", 0x1000, "rwx", ["read", "write", "supervisor_execute", "user_execute"]),
        ("0xb000", 0x5000, "rw-", ["read", "write"]),
    ] == [tuple(each.values()) for each in ran.document["ranges"]]
    assert ["pa", "size", "permission", "granted"] == list(ran.document["ranges"][0])
    assert ("crosswalk-protection/1", "npt", [["0x0", "0x10000"]], ["read", "write"]) == tuple(
        ran.document[name] for name in ("format", "kind", "ram", "unmapped")
    )


@pytest.mark.parametrize("kind", ["npt", "ept", "ept-mbec"])
def test_the_list_of_the_guest_grants_each_frame_what_its_mappings_allow(run, guest4, kind):
    ran = run("protect", "guest:4level", "--format", "json", "--tables", kind)
    said = {
        pa: (each["permission"], {use.replace("_", " ") for use in each["granted"]})
        for each in ran.document["ranges"]
        for pa in range(int(each["pa"], 16), int(each["pa"], 16) + each["size"], PAGE)
    }
    frames = by_frame(guest4.memory, guest4.context)
    uses = {frame: least(kind, wanted(pages)) for frame, pages in frames.items()}
    assert {frame: (letters(each), each) for frame, each in uses.items()} == said
    assert kind == ran.document["kind"]


def test_what_no_kind_can_say_is_named_for_each(run, small_case):
    record = run("protect", small_case, "--format", "json").document["inexpressible"]
    # All may execute at 0xa000, the supervisor alone at 0x9000.
    supervisor = {
        "pa": "0x9000",
        "size": 4096,
        "wanted": ["read", "supervisor_execute"],
        "beyond": ["user_execute"],
    }
    assert {"npt": [supervisor], "ept": [supervisor], "ept-mbec": []} == record


def test_the_page_list_is_one_that_a_hypervisor_takes(run, tmp_path):
    path = tmp_path / "list.bin"
    ran = run("protect", LINUX, "--format", "pages", "--output", path, "--at", "0x200000")
    assert (0, "") == (ran.status, ran.out)
    case = load_case(LINUX)
    ram = bytearray(0x800_0000)
    ram[0x20_0000 : 0x20_0000 + path.stat().st_size] = path.read_bytes()
    memory = Segments([(0, bytes(ram)), (0xFFFC_0000, bytes(0x4_0000))])
    entries = decode(memory, 0x20_0000, write_execute=True)
    said = {pa: each.permission for each in entries for pa in range(each.pa, each.epa, PAGE)}
    frames = by_frame(case.memory(), case.context())
    assert frames.keys() == said.keys()
    for frame, pages in frames.items():
        uses = least("npt", wanted(pages))
        assert Permission(R | W * ("write" in uses) | X * bool(uses & EXECUTES)) == said[frame]
    assert "8 entries allow writing and executing" in ran.err


def test_a_list_written_to_a_file_is_the_one_that_is_printed(run, small_case, tmp_path):
    path = tmp_path / "list.json"
    run("protect", small_case, "--format", "json", "--output", path)
    assert run("protect", small_case, "--format", "json").document == json.loads(path.read_text())


def test_pages_lie_at_1_mib_unless_told_otherwise(run, tmp_path, guest4):
    path = tmp_path / "list.bin"
    assert 0 == run("protect", "guest:4level", "--format", "pages", "--output", path).status
    ram = guest4.ram.bytes.copy()
    ram[0x10_0000 : 0x10_0000 + path.stat().st_size] = list(path.read_bytes())
    entries = decode(Segments([(0, ram)]), 0x10_0000, write_execute=True)
    assert PageEntry(0x12_2000, 0x12_3000, R | W | X) in entries


def test_the_summary_for_machines_has_what_every_summary_has(run):
    ran = run("protect", LINUX, "--json")
    record = ran.document
    assert SUMMARY == list(record)[:5]
    assert [0, 0, 0, 0] == [record[name] for name in SUMMARY[:4]]
    frames = by_frame(load_case(LINUX).memory(), load_case(LINUX).context())
    granted = [letters(least("npt", wanted(pages))) for pages in frames.values()]
    assert {each: PAGE * granted.count(each) for each in sorted(set(granted))} == dict(
        sorted(record["granted"].items())
    )
    assert (
        PAGE * sum("w" not in each for each in granted),
        PAGE * sum("x" not in each for each in granted),
        PAGE * granted.count("r--"),
        PAGE * granted.count("rwx"),
    ) == tuple(record[name] for name in ("read_only", "no_execute", "both", "neither"))
    assert "0xffff8c4c40000000" == record["regions"][0]["va"]


def test_the_summary_for_people_is_read_in_a_minute(run):
    lines = run("protect", LINUX).out.splitlines()
    assert 25 <= len(lines) <= 60
    text = "\n".join(lines)
    assert re.search(r"^  read-only +6,189 frames +24\.18 MiB +18\.85 %$", text, re.MULTILINE)
    assert "(the direct map): ffff8c4c40000000-" in text
    assert 1 == text.count("the direct map")
    assert "W^X: 8 ranges, 1,020 KiB, are both writable and executable, 0 of them within" in text
    assert "ept-mbec: nothing" in text


def test_an_image_that_maps_nothing_has_a_summary(run, tmp_path):
    path = tmp_path / "empty.bin"
    path.write_bytes(bytes(0x4000))
    assert 2 == run("protect", path, "--cr3", "0x1000").status
    ran = run("protect", path, "--cr3", "0x1000", "--allow-empty")
    assert 0 == ran.status
    assert "W^X: no frame is both writable and executable" in ran.out
    assert "of which nothing maps 16 KiB" in ran.out


@pytest.mark.parametrize(
    ("source", "options", "status"),
    [
        ("small", (), 0),
        ("small", ("--policy", "one-privilege"), 1),
        ("small", ("--policy", "any"), 1),
        ("linux", ("--policy", "one-privilege"), 0),
        ("linux", ("--policy", "any"), 1),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--format", "json")], ids=str)
def test_a_violated_policy_is_exit_status_1(run, small_case, source, options, status, form):
    path = small_case if source == "small" else LINUX
    assert status == run("protect", path, *options, *form).status


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "pages"), "needs --output"),
        (("--output", "x"), "--output needs --format"),
        (("--at", "0x1000"), "--at needs --format"),
        (("--format", "json", "--at", "0x1000"), "--at is for --format pages"),
        (("--format", "json", "--json"), "choose one"),
        (("--format", "pages", "--output", "x", "--at", "0xf001"), "not a multiple of 4096"),
        (("--format", "pages", "--output", "x", "--at", "0x10000"), "are not all RAM"),
        (("--kernel", "x"), "choose one"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_in_a_line(
    run, small_case, options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    ran = run("protect", small_case, *options)
    assert (2, "") == (ran.status, ran.out)
    assert " error: " in ran.err.splitlines()[-1]
    assert message in ran.err.splitlines()[-1]
    assert before == sorted(tmp_path.iterdir())


def test_of_an_image_of_too_many_mappings_only_the_regions_are_missing(run, tmp_path):
    memory = chain(4, ROOT | USED)
    path = tmp_path / "bomb.json"
    words = dict(memory.words())
    cpu = Cpu.from_context(context())
    path.write_bytes(dump_case(Case(cpu=cpu, ram=tuple(memory.ranges), entries=words, probes=())))
    ran = run("protect", path)
    assert 0 == ran.status
    assert "  not listed: 68,719,476,736 mappings; " in ran.out
    assert "W^X: 1 ranges, 4 KiB, are both writable and executable" in ran.out
    ran = run("protect", path, "--json")
    assert ran.document["regions_unlisted"].startswith("68,719,476,736 mappings")
    assert ([], {"rw-": 0x3000, "rwx": 0x1000}) == (
        ran.document["regions"],
        ran.document["granted"],
    )
    ran = run("protect", path, "--format", "json")
    assert [("0x1000", 4096, "rwx"), ("0x2000", 0x3000, "rw-")] == [
        tuple(each.values())[:3] for each in ran.document["ranges"]
    ]
