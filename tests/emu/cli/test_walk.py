import json

import pytest

from crosswalk.emu.cli import walk as listing
from crosswalk.walker.formats import load_case
from crosswalk.walker.mappings import mappings

GUEST_REGISTERS = (
    *("--cr3", "0x800000", "--cr4", "0x7000a0", "--cr0", "0x80010011"),
    *("--maxphyaddr", "40"),
)
WALK_KEYS = ["va", "pa", "size", "level", "flags", "rights"]
SMALL = [
    {"va": "0x400000", "pa": "0x8000", "size": 4096, "level": 1, "flags": "0x8000000000000003",
     "rights": {"supervisor": "rw-", "user": "---"}},
    {"va": "0x401000", "pa": "0x9000", "size": 4096, "level": 1, "flags": "0x1",
     "rights": {"supervisor": "r-x", "user": "---"}},
    {"va": "0x800000", "pa": "0xa000", "size": 4096, "level": 1, "flags": "0x7",
     "rights": {"supervisor": "rwx", "user": "rwx"}},
]  # fmt: skip


@pytest.fixture(params=["case", "raw", "core"])
def small_source(request, small_case, small_raw, small_core):
    return {
        "case": (small_case,),
        "raw": (small_raw, "--cr3", "0x1000"),
        "core": (small_core,),
    }[request.param]


def test_walk_lists_the_same_of_every_kind_of_source(run, small_source):
    ran = run("walk", *small_source, "--json")
    assert (0, SMALL) == (ran.status, ran.records)
    assert all(WALK_KEYS == list(record) for record in ran.records)
    assert ran.err.endswith("3 mappings\n")


def test_walk_of_the_guest_is_what_the_walker_says_in_address_order(run, guest4, guest_raw):
    ran = run("walk", "guest:4level", "--json")
    pages = list(mappings(guest4.memory, guest4.context))
    assert [hex(page.va) for page in pages] == [record["va"] for record in ran.records]
    addresses = [int(record["va"], 16) for record in ran.records]
    assert sorted(addresses) == addresses
    assert ran.out == run("walk", guest_raw, *GUEST_REGISTERS, "--json").out


def test_walk_for_people_has_a_line_a_mapping(run, small_case):
    ran = run("walk", small_case)
    lines = ran.out.splitlines()
    assert 3 == len(lines)
    assert "0000000000400000 0000000008000   4 KiB rw- ---  RW XD" == lines[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--start", "0x401000"), [1, 2]),
        (("--end", "0x401000"), [0]),
        (("--start", "0x400fff", "--end", "0x401001"), [0, 1]),
        (("--writable",), [0, 2]),
        (("--executable",), [1, 2]),
        (("--user",), [2]),
        (("--user", "--writable"), [2]),
        (("--level", "2"), []),
        (("--start", "0x800001", "--end", "0x10000000000000000"), [2]),
    ],
    ids=str,
)
def test_walk_can_be_narrowed(run, small_case, options, expected):
    assert [SMALL[at] for at in expected] == run("walk", small_case, "--json", *options).records


def test_walk_stops_at_its_limit_and_says_so(run, small_case):
    ran = run("walk", small_case, "--json", "--limit", "2")
    assert (0, SMALL[:2]) == (ran.status, ran.records)
    assert ran.err.endswith("2 mappings, and there are more\n")
    assert run("walk", small_case, "--limit", "3").err.endswith("3 mappings\n")


def test_a_limit_that_nobody_asked_for_is_an_error_when_it_is_reached(run, small_case, monkeypatch):
    monkeypatch.setattr(listing, "_LIMIT", 2)
    ran = run("walk", small_case, "--json")
    assert (2, SMALL[:2]) == (ran.status, ran.records)
    assert ran.err.splitlines()[-1].startswith("crosswalk: error: stopped after 2 lines")


def test_walk_under_other_registers_says_other_rights(run, small_case):
    ran = run("walk", small_case, "--json", "--cr0", "0x80000033", "--cr4", "0x300020")
    assert [("rw-", "---"), ("rwx", "---"), ("---", "rwx")] == [
        tuple(record["rights"].values()) for record in ran.records
    ]
    ran = run("walk", small_case, "--json", "--cr4", "0x300020", "--ac")
    assert "rw-" == ran.records[2]["rights"]["supervisor"]


def test_coalesce_folds_neighbours(run, guest4):
    ran = run("walk", "guest:4level", "--coalesce", "--json")
    pages = list(mappings(guest4.memory, guest4.context))
    assert len(pages) == sum(record["mappings"] for record in ran.records) > len(ran.records)
    assert sum(page.size for page in pages) == sum(record["size"] for record in ran.records)
    assert ["va", "pa", "size", "mappings", "flags", "rights"] == list(ran.records[0])


def test_a_saved_case_lists_the_same(run, guest_raw, tmp_path):
    saved = tmp_path / "saved.json"
    first = run("walk", guest_raw, *GUEST_REGISTERS, "--json", "--save-case", saved)
    assert () == load_case(saved).probes
    assert first.out == run("walk", saved, "--json").out


def test_frames_says_the_collective_rights_of_each_range(run, small_case):
    ran = run("frames", small_case, "--json")
    assert 0 == ran.status
    assert [
        {"pa": "0x8000", "size": 4096, "supervisor": "rw-", "user": "---"},
        {"pa": "0x9000", "size": 4096, "supervisor": "r-x", "user": "---"},
        {"pa": "0xa000", "size": 4096, "supervisor": "rwx", "user": "rwx"},
    ] == ran.records
    assert "W^X: 1 ranges, 4 KiB, are both writable and executable" in ran.err
    assert "0000000000800000 000000000a000" in ran.err


def test_an_alias_adds_to_the_rights_of_a_frame(run, tmp_path, small_case):
    case = json.loads(small_case.read_text())
    (entry,) = [pa for pa, word in case["entries"].items() if word == "0xa007"]
    case["entries"][entry] = "0x9003"
    alias = tmp_path / "alias.json"
    alias.write_text(json.dumps(case))
    ran = run("frames", alias, "--json")
    assert {"pa": "0x9000", "size": 4096, "supervisor": "rwx", "user": "---"} == ran.records[1]


@pytest.mark.parametrize(
    ("options", "status"),
    [((), 0), (("--policy", "one-privilege"), 1), (("--policy", "any"), 1)],
    ids=["none", "one-privilege", "any"],
)
def test_a_violated_policy_is_exit_status_1(run, small_case, options, status):
    assert status == run("frames", small_case, *options).status
    assert status == run("frames", small_case, "--json", *options).status


def test_a_policy_that_holds_is_exit_status_0(run, tmp_path, small_case):
    case = json.loads(small_case.read_text())
    case["entries"] = {pa: word for pa, word in case["entries"].items() if word != "0xa007"}
    path = tmp_path / "clean.json"
    path.write_text(json.dumps(case))
    ran = run("frames", path, "--policy", "any")
    assert 0 == ran.status
    assert "W^X: no frame is both writable and executable" in ran.out


def test_two_privileges_together_violate_only_the_wider_policy(run, tmp_path, small_case):
    # One mapping to write for the supervisor, another to execute for the user.
    case = json.loads(small_case.read_text())
    (entry,) = [pa for pa, word in case["entries"].items() if word == "0xa007"]
    case["entries"][entry] = "0x8005"
    path = tmp_path / "shared.json"
    path.write_text(json.dumps(case))
    smep = ("--cr4", "0x100020")
    assert 0 == run("frames", path, *smep, "--policy", "one-privilege").status
    assert 1 == run("frames", path, *smep, "--policy", "any").status


def test_frames_names_the_mappings_of_the_range_that_holds_an_address(run):
    ran = run("frames", "guest:4level", "--of", "0x122000", "--json")
    assert 0 == ran.status
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert "0x410000" in {record["va"] for record in records}
    for record in records:
        pa = int(record["pa"], 16)
        assert pa < 0x123000
        assert pa + record["size"] > 0x122000


def test_frames_of_an_address_that_nothing_maps_is_refused(run):
    ran = run("frames", "guest:4level", "--of", "0xabcdef0000")
    assert 2 == ran.status
    assert "nothing is mapped at physical address 0xabcdef0000" in ran.err
