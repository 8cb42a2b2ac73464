"""What can't be followed is said, by every command that walks, and counts for the exit status."""

import json
import re

import pytest

from tests.emu.cli.incomplete_images import RAM, ROOT, clean, commands, lacking
from tests.tables import OPEN, PS, RW, XD, P, PageTables

NAMED = [
    "3 entries refer to tables outside SOURCE's memory",
    "1 entry sets reserved bits, or PS where no page can be",
    "  PDE at 0x3008 = 0x12342007, va 0x200000: its table lies outside memory",
    "  PTE at 0x4010 = 0x800000000000a001, va 0x402000: sets a reserved bit",
    "  PDE at 0x3018 = 0x12341007, va 0x600000: its table lies outside memory",
    "  PDPTE at 0x2010 = 0x12340007, va 0x80000000: its table lies outside memory",
]
# Without NXE, XD is reserved; the read-only page alone is left then.
NO_NXE = ("--efer", "0x500")
UNFOLLOWED = {"outside": 3, "reserved": 2}


def test_every_listing_names_what_can_not_be_followed(run, raw):
    for command in commands(raw(lacking()), *ROOT, *NO_NXE):
        ran = run(*command)
        lines = (ran.out if command[0] == "info" else ran.err).splitlines()
        assert 0 == ran.status
        assert "3 entries refer to tables outside SOURCE's memory" in lines
        assert "2 entries set reserved bits, or PS where no page can be" in lines
        assert "  … and 1 more" in lines
        assert 4 == sum(line.startswith("  P") and " va 0x" in line for line in lines)


def test_the_first_few_are_named_by_level_address_value_and_va(run, raw):
    tables = lacking()
    tables.words[tables.entry_pa(0x40_0000, 1)] = 0x8000 | P | RW
    lines = run("walk", raw(tables), *ROOT, *NO_NXE).err.splitlines()
    assert NAMED == [line for line in lines if line in NAMED]


def test_where_everything_can_be_followed_nothing_is_said(run, raw):
    for command in commands(raw(clean()), *ROOT):
        ran = run(*command)
        assert 0 == ran.status
        assert "SOURCE's memory" not in ran.err + ran.out
        assert "reserved" not in ran.err + ran.out


@pytest.mark.parametrize("command", ["walk", "frames"])
def test_the_summary_is_a_document_beside_the_listing(run, raw, tmp_path, command):
    path = tmp_path / "summary.json"
    ran = run(command, raw(lacking()), *ROOT, *NO_NXE, "--json", "--summary", path)
    assert 1 == len(ran.records)
    record = json.loads(path.read_text())
    keys = ["mappings", "unfollowed", "assumed", "roots", "known_roots", "strays", "unsearched"]
    assert keys == list(record)
    assert "null" == json.dumps(record["known_roots"])
    assert (1, UNFOLLOWED) == (record["mappings"], record["unfollowed"])
    assert [{"cr3": "0x1000", "mode": "4-level", "mappings": 1}] == record["roots"]
    assert "maxphyaddr = 52" in record["assumed"]
    assert not any("efer" in text for text in record["assumed"])


@pytest.mark.parametrize(
    "command",
    [
        ("walk",),
        ("frames",),
        ("frames", "--policy", "any"),
        ("protect",),
        ("info",),
        ("translate", "0x1000"),
    ],
    ids=" ".join,
)
def test_an_address_space_without_any_mapping_is_status_2(run, raw, command):
    name, *options = command
    path = raw(PageTables(ram=RAM))
    ran = run(name, path, *options, *ROOT)
    expected = f"crosswalk: error: {path}: no mapping: is CR3 right? (--allow-empty takes it)"
    assert (2, expected) == (ran.status, ran.err.splitlines()[-1])
    assert 0 == run(name, path, *options, *ROOT, "--allow-empty").status


POLICIES = [("frames", "--policy", "any"), ("frames", "--policy", "one-privilege"), ("protect",)]
FORBIDDEN = re.compile(r"no frame|protected|agreement\b")  # "agreements" is a key in JSON.


@pytest.mark.parametrize("command", POLICIES, ids=" ".join)
@pytest.mark.parametrize("json_", [(), ("--json",)], ids=["text", "json"])
def test_nothing_found_where_tables_are_missing_is_status_2(run, raw, command, json_):
    name, *options = command
    path = raw(lacking())
    ran = run(name, path, *options, *ROOT, *json_)
    assert 2 == ran.status
    assert None is FORBIDDEN.search(ran.out + ran.err)
    assert ran.err.splitlines()[-1] == (
        f"crosswalk: error: {path}: nothing found, but not everything could be looked at "
        "(--partial takes what is there)"
    )


@pytest.mark.parametrize("command", POLICIES, ids=" ".join)
def test_a_part_can_be_taken_and_is_called_one(run, raw, command):
    name, *options = command
    ran = run(name, raw(lacking()), *options, *ROOT, "--partial")
    assert 0 == ran.status
    assert "W^X: partial: none is both writable and executable of what could be" in ran.out
    assert None is FORBIDDEN.search(ran.out + ran.err)


@pytest.mark.parametrize("command", POLICIES, ids=" ".join)
def test_where_nothing_is_missing_it_is_said_as_ever(run, raw, case, command):
    name, *options = command
    for source in ((raw(clean()), *ROOT), (case(clean()),)):
        ran = run(name, *source, *options)
        assert (0, True) == (ran.status, "W^X: no frame is both" in ran.out)


@pytest.mark.parametrize("command", POLICIES, ids=" ".join)
def test_in_a_case_file_ram_is_all_there_is(run, case, command):
    name, *options = command
    ran = run(name, case(lacking()), *options)
    assert (0, True) == (ran.status, "W^X: no frame is both" in ran.out)
    assert "3 entries refer to tables outside SOURCE's memory" in ran.err


@pytest.mark.parametrize(
    "command", [("frames", "--policy", "any"), ("protect", "--policy", "any")], ids=" ".join
)
def test_what_is_found_is_a_violation_all_the_same(run, raw, command):
    name, *options = command
    path = raw(lacking().map(0x40_3000, 0xB000, OPEN))
    assert 1 == run(name, path, *options, *ROOT).status
    assert 1 == run(name, path, *options, *ROOT, "--partial").status


def test_a_violation_of_the_other_policy_is_nothing_found(run, raw):
    # Under SMAP the user alone writes the frame, and the supervisor alone fetches from it.
    tables = lacking().map(0x40_3000, 0xB000, OPEN | XD).map(0x40_4000, 0xB000, P)
    command = ("frames", raw(tables), *ROOT, "--cr4", "0x200020", "--policy")
    assert [1, 2] == [run(*command, policy).status for policy in ("any", "one-privilege")]


@pytest.mark.parametrize("form", ["json", "pages"])
def test_no_list_is_written_of_a_part_unless_asked_for(run, raw, tmp_path, form):
    output = tmp_path / "list"
    command = ("protect", raw(lacking()), *ROOT, "--format", form, "--output", output)
    command += ("--at", "0x0") if form == "pages" else ()
    assert 2 == run(*command).status
    assert not output.exists()
    assert 0 == run(*command, "--partial").status
    assert output.exists()


def test_the_summary_of_protect_counts_it(run, raw):
    record = run("protect", raw(lacking()), *ROOT, "--partial", "--json").document
    assert (2, {"outside": 3, "reserved": 0}) == (record["mappings"] - 1, record["unfollowed"])
    assert ({}, {}) == (record["predicted_only"], record["not_asked"])
    assert "efer = 0xd00" in record["assumed"]


@pytest.mark.parametrize(
    "command",
    [
        *(("walk",), ("frames",), ("frames", "--policy", "any"), ("protect",), ("info",)),
        *(("protect", "--policy", "any"), ("translate", "0x1000"), ("check",)),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("head", [b"MDMP\x93\xa7", b"HIBR", b"QFI\xfb"])
def test_no_command_takes_a_file_of_another_format_for_memory(run, tmp_path, command, head):
    path = tmp_path / "image"
    path.write_bytes(head + clean().memory.read(*RAM[0])[len(head) :])
    name, *options = command
    ran = run(name, path, *options, *ROOT)
    assert (2, "") == (ran.status, ran.out)
    assert "(--kind raw takes the file as memory all the same)" in ran.err
    assert None is FORBIDDEN.search(ran.err)


def test_a_file_that_is_taken_for_raw_by_force_is_a_part(run, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"HIBR" + clean().memory.read(*RAM[0])[4:])
    said = (
        "the file begins as a file of another kind (Windows hibernation file): is it a raw image?"
    )
    for command in commands(path, *ROOT, "--kind", "raw"):
        ran = run(*command)
        assert 0 == ran.status
        assert said in ran.err + ran.out
    for name, *options in (("frames", "--policy", "any"), ("protect",), ("check",)):
        command = (name, path, *options, *ROOT, "--kind", "raw")
        ran = run(*command)
        assert (2, None) == (ran.status, FORBIDDEN.search(ran.out + ran.err))
        ran = run(*command, "--partial")
        assert (0, None) == (ran.status, FORBIDDEN.search(ran.out + ran.err))
        assert "partial" in ran.out


def test_a_translation_that_ends_outside_says_so(run, raw):
    path = raw(lacking())
    ran = run("translate", path, "0x200000", *ROOT)
    expected = "partial: the walk ends at a table outside SOURCE's memory, taken for absent"
    assert (0, expected) == (ran.status, ran.err.splitlines()[-1])
    assert expected not in run("translate", path, "0x400000", *ROOT).err


@pytest.mark.parametrize("word", [0x6578_7400_0000_0000 | OPEN, PS | OPEN], ids=["text", "PS"])
def test_wrong_tables_are_called_wrong(run, raw, word):
    tables = PageTables(ram=RAM).map(0x1000, 0x5000, P)
    for at in range(1, 5):
        tables.words[0x1000 + 8 * at] = word
    path = raw(tables)
    expected = (
        "most entries of the root, or of all tables, make no sense: "
        "are CR3 and the paging mode right?"
    )
    assert expected in run("walk", path, *ROOT).err
    assert expected in run("info", path, *ROOT).out
    assert run("info", path, *ROOT, "--json").document["mostly_senseless"]
    assert 2 == run("frames", path, *ROOT, "--policy", "any").status
    assert expected not in run("walk", raw(clean()), *ROOT).err


def test_tables_with_an_encryption_bit_are_told_what_it_may_be(run, raw):
    bit = 1 << 47
    tables = clean()
    tables.entries = {pa: word | bit for pa, word in tables.words.items()}
    hint = f"the root's entries share bits that may be no address: --encryption-mask {bit:#x}?"
    ran = run("walk", raw(tables), *ROOT)
    assert (2, True) == (ran.status, hint in ran.err.splitlines())
    assert hint in run("info", raw(tables), *ROOT).out.splitlines()
    ran = run("walk", raw(tables), *ROOT, "--encryption-mask", hex(bit))
    assert (0, 2) == (ran.status, len(ran.out.splitlines()))
    assert "encryption mask 0x800000000000" in ran.err
    assert "--encryption-mask" not in ran.err


def test_listings_take_the_widest_addresses_and_say_which_need_them(run, raw):
    tables = clean().map(0x40_2000, 1 << 40, P | XD).map(0x40_3000, 1 << 46, P | XD)
    path = raw(tables)
    ran = run("walk", path, *ROOT)
    assert 4 == len(ran.out.splitlines())
    assert (
        "2 entries need more than 40 bits of physical address, 1 of them more than 46: "
        "give --maxphyaddr if the CPU has fewer" in ran.err
    )
    ran = run("walk", path, *ROOT, "--maxphyaddr", "46")
    assert 3 == len(ran.out.splitlines())
    assert "need more" not in ran.err
    assert "1 entry sets reserved bits" in ran.err
