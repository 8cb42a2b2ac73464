"""`protect SOURCE --format ept`, `kvm` and `kvm-deny`, read back, and `--beyond`."""

import re
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.cli import protect_list
from crosswalk.walker.formats import Case, Cpu, dump_case, load_case
from crosswalk.walker.protection.attributes import AttributeSet, decode_attributes
from tests.emu.cli.running import refused
from tests.tables import ROOT, USED, chain, context
from tests.walker.nested.nested_memory import PA, ept_leaves
from tests.walker.protection.frame_by_frame import (
    USES,
    by_frame,
    frames_of,
    least,
    rights_of,
    wanted,
)

LINUX = Path(__file__).resolve().parents[2] / "cases" / "linux-6.1-4level.json"
PAGE = 4096
EXECUTES = {"supervisor execute", "user execute"}


@pytest.fixture(scope="module")
def frames():
    case = load_case(LINUX)
    return by_frame(case.memory(), case.context())


def words(rights, kind):
    """What an EPT entry's rights let through, in words."""
    if kind == "ept" and rights & 4:
        rights |= 8
    return frozenset(name for at, name in enumerate(USES) if rights >> at & 1)


@pytest.mark.parametrize("kind", ["ept", "ept-mbec"])
@pytest.mark.parametrize("offset", [0, 0x20_0000, 0x2_0000_1000])
def test_an_ept_grants_each_frame_of_ram_what_the_policy_does_and_nothing_elsewhere(
    run, frames, tmp_path, kind, offset
):
    path = tmp_path / "ept.bin"
    options = ("--tables", kind, "--at", hex(PA), "--offset", hex(offset), "--output", path)
    ran = run("protect", LINUX, "--format", "ept", *options)
    assert (0, "") == (ran.status, ran.out)
    assert f"EPTP {PA | 0x1E:#x}; {PA | 0x5E:#x} for accessed and dirty flags\n" in ran.err
    entries = np.frombuffer(path.read_bytes(), "<u8").astype(np.uint64)
    assert f"{len(entries) // 512} tables of kind {kind}\n" in ran.err
    leaves = ept_leaves(entries, mbec=kind == "ept-mbec")
    assert {6} == {memory_type for *_, memory_type in leaves}
    assert {offset} == {pa - gpa for gpa, _, pa, _, _ in leaves}
    said = {
        frame: words(int(rights), kind)
        for gpa, size, _, rights, _ in leaves
        for frame in frames_of([(gpa, size)])
    }
    assert {frame: least(kind, wanted(pages)) for frame, pages in frames.items()} == said
    # Pages of 4 KiB are where a region of 2 MiB isn't all alike, and nowhere else.
    small = {gpa >> 21 for gpa, size, *_ in leaves if size == PAGE}
    assert small == {
        region
        for region in {frame >> 21 for frame in said}
        if offset % 0x20_0000 or not alike(said, region)
    }


def alike(said, region):
    every = [said.get((region << 21) + PAGE * page) for page in range(512)]
    return None not in every and 1 == len(set(every))


def granted_by(record):
    """The rights of a record of `walk --eptp`, in the words of the policy's document."""
    supervisor, user = record["rights"]["supervisor"], record["rights"]["user"]
    assert supervisor[:2] == user[:2]
    names = zip(("read", "write", "supervisor_execute"), supervisor, strict=True)
    return [*(name for name, each in names if each != "-"), *["user_execute"] * (user[2] == "x")]


@pytest.mark.parametrize("kind", ["ept", "ept-mbec"])
def test_walk_reads_an_ept_back_as_the_document_has_it(run, tmp_path, kind):
    path = tmp_path / "ept.bin"
    run("protect", LINUX, "--format", "ept", "--tables", kind, "--at", hex(PA), "--output", path)
    options = ("--kind", "raw", "--base", hex(PA), "--eptp", hex(PA | 0x1E), "--coalesce", "--json")
    walked = run("walk", path, *options, *["--mbec"] * (kind == "ept-mbec"))
    assert 0 == walked.status
    said = [(each["pa"], each["gpa"], each["size"], granted_by(each)) for each in walked.records]
    document = run("protect", LINUX, "--format", "json", "--tables", kind).document
    assert said == [
        (each["pa"], each["pa"], each["size"], each["granted"]) for each in document["ranges"]
    ]


def test_an_ept_is_without_mbec_unless_told_otherwise(run, small_case, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    options = ("protect", small_case, "--format", "ept", "--at", "0x100000", "--output")
    run(*options, one)
    run(*options, other, "--tables", "ept")
    assert one.read_bytes() == other.read_bytes()


def test_one_thing_is_said_to_be_one():
    said = [protect_list._several(count, name) for count in (1, 1200) for name in ("entry", "page")]
    assert ["1 entry", "1 page", "1,200 entries", "1,200 pages"] == said


def test_what_an_ept_grants_beyond_the_policy_and_leaves_out_is_said(run, tmp_path):
    ran = run("protect", LINUX, "--format", "ept", "--at", hex(PA), "--output", tmp_path / "ept")

    assert "17,424 KiB are granted execution beyond the policy: see --beyond" in ran.err
    assert re.search(r"KiB are mapped and not RAM: an access there is an EPT violation", ran.err)
    options = ("--tables", "ept-mbec", "--at", hex(PA), "--output", tmp_path / "ept")
    assert "beyond the policy" not in run("protect", LINUX, "--format", "ept", *options).err


@pytest.mark.parametrize(
    ("at", "offset", "said"),
    [
        (1 << 32, 0, 0),
        (1 << 40, 0, 1),
        (1 << 32, (1 << 40) - 4096, 1),
        ((1 << 40) - (1 << 20), 0, 0),
    ],
)
def test_what_a_processor_as_narrow_as_the_guests_cant_reach_is_said(
    run, tmp_path, at, offset, said
):
    options = ("--at", hex(at), "--offset", hex(offset), "--output", tmp_path / "ept")
    ran = run("protect", LINUX, "--format", "ept", *options)
    assert 0 == ran.status
    assert said == ran.err.count("not for a processor with MAXPHYADDR 40, as the guest's has")


@pytest.mark.parametrize(
    ("ram", "options", "message"),
    [
        (
            (0, 1 << 50),
            (),
            "RAM ends at 0x4000000000000: an EPT of 4 levels ends at 0x1000000000000",
        ),
        (
            (0, 1 << 47),
            ("--offset", "0x1000"),
            "67,240,193 tables would be needed; at most 131,072",
        ),
    ],
)
def test_memory_that_takes_too_many_tables_or_levels_is_refused(
    run, tmp_path, ram, options, message
):
    path = tmp_path / "vast.json"
    cpu = Cpu.from_context(context(maxphyaddr=52))
    words = dict(chain(4, ROOT | USED).words())
    path.write_bytes(dump_case(Case(cpu=cpu, ram=(ram,), entries=words, probes=())))
    options = ("--at", "0x8000000000000", "--output", tmp_path / "ept.bin", *options)
    assert message in refused(run("protect", path, "--format", "ept", *options))


def granted(attributes, uses):
    if attributes is AttributeSet.HEKI:
        return uses | {"read", "user execute"}
    return uses | {"read"} | (EXECUTES if uses & EXECUTES else set())


@pytest.mark.parametrize(
    ("form", "attributes"), [("kvm", AttributeSet.HEKI), ("kvm-deny", AttributeSet.DENY)]
)
def test_attributes_grant_each_frame_of_ram_what_the_policy_does(
    run, frames, tmp_path, form, attributes
):
    path = tmp_path / "list.bin"
    ran = run("protect", LINUX, "--format", form, "--output", path)
    assert (0, "") == (ran.status, ran.out)
    entries = list(decode_attributes(path.read_bytes(), attributes))
    assert f"wrote {path}: {len(entries)} entries of 32 bytes\n" in ran.err
    said = {
        frame: frozenset(name for at, name in enumerate(USES) if use >> at & 1)
        for start, size, use in entries
        for frame in frames_of([(start, size)])
    }
    assert {frame: granted(attributes, wanted(pages)) for frame, pages in frames.items()} == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "ept", "--output", "x"), "--format ept needs --at"),
        (("--format", "ept", "--at", "0x100000"), "--format ept needs --output"),
        (
            ("--format", "ept", "--output", "x", "--at", "0x100000", "--tables", "npt"),
            "is ept or ept-m",
        ),
        (("--format", "ept", "--output", "x", "--at", "0x1001"), "not a multiple of 4096"),
        (("--format", "ept", "--output", "x", "--at", "0xffffffffff000"), "end past 2^52"),
        (("--format", "ept", "--output", "x", "--at", "0xd000"), "are the guest's own memory"),
        (
            ("--format", "ept", "--output", "x", "--at", "0x100000", "--offset", "0xff000"),
            "are the guest's own memory",
        ),
        (
            ("--format", "ept", "--output", "x", "--at", "0x100000", "--offset", "8"),
            "not a multiple",
        ),
        (
            ("--format", "kvm", "--output", "x", "--at", "0x100000"),
            "--at is for --format pages and ept",
        ),
        (("--format", "kvm", "--output", "x", "--tables", "ept"), "not --tables"),
        (("--format", "kvm-deny"), "--format kvm-deny needs --output"),
        (("--format", "json", "--offset", "0x1000"), "--offset is for --format ept"),
        (("--offset", "0x1000"), "--offset needs --format"),
        (("--beyond", "--format", "json"), "choose one of them"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_a_line(
    run, small_case, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert message in refused(run("protect", small_case, *options))
    assert before == sorted(tmp_path.iterdir())


def test_what_each_kind_grants_beyond_is_a_line_of_a_table(run, frames):
    lines = run("protect", LINUX, "--beyond").out.splitlines()
    rights = [rights_of(pages) for pages in frames.values() if pages]
    found = {
        line[:31].strip(): [int(text.replace(",", "")) for text in line[33:].split()]
        for line in lines[3:]
    }
    read = sum(not each & 8 for each in rights) * PAGE >> 10
    write = sum(bool(each & 2) and not each & 16 for each in rights) * PAGE >> 10
    by_user = sum(bool(each & 4) and not each & 32 for each in rights) * PAGE >> 10
    by_supervisor = sum(bool(each & 32) and not each & 4 for each in rights) * PAGE >> 10
    assert [0, 0, by_supervisor, read, write, by_user] == found["npt"] == found["ept"]
    assert [0, 0, 0, read, write, 0] == found["ept-mbec"]
    assert [0, 0, 0, read, write, by_user] == found["npt, GMET"]
    never = sum(not each & 32 for each in rights) * PAGE >> 10
    assert [0, 0, 0, read, write, never] == found["ept-mbec by Heki's attributes"]


def test_what_each_kind_grants_beyond_is_there_for_machines(run, small_case):
    # At 0xa000 both execute, without SMEP; at 0x9000 the supervisor alone.
    record = run("protect", small_case, "--beyond", "--json").document
    assert [0] * 4 == list(record.values())[:4]
    by_name = {each["name"]: each for each in record["enforcers"]}
    assert (0x1_0000, 0x1000) == (record["ram"], by_name["npt"]["beyond"]["user_execute"])
    changed = {
        (each["supervisor"], each["user"], *each["granted"].values()): each["size"]
        for each in by_name["npt"]["changed"]
    }
    assert 0x1000 == changed["r-x", "---", "r-x", "r-x"]
    assert 0 == by_name["ept-mbec"]["beyond"]["user_execute"]


def test_a_violated_policy_is_exit_status_1_of_each_form(run, small_case, tmp_path):
    path = tmp_path / "out"
    for options in (
        ("--beyond",),
        ("--format", "ept", "--at", "0x100000", "--output", path),
        ("--format", "kvm", "--output", path),
    ):
        assert 1 == run("protect", small_case, "--policy", "any", *options).status
