"""The commands on 32-bit and PAE paging: from cases, raw images and cores."""

import json

import pytest

from crosswalk.walker.formats import Case, Cpu, Probe, dump_case
from tests.tables import OPEN, PS, RW, US, P, PageTables, context
from tests.walker.formats.conftest import FLAT_CODE, Core, cpu_state, qemu_notes

MODES = pytest.mark.parametrize("mode", ["32-bit", "PAE"])
VA = 0xC000_0123
PROBES = tuple(
    Probe(va=va, access=access, cpl=cpl, ac=False)
    for va in (VA, 0x80_0000, 0x40_0000)
    for access in ("read", "write", "execute")
    for cpl in (0, 3)
)


def small(mode):
    found = (
        PageTables(mode, ram=((0, 1 << 16),))
        .map(VA, 0x8000, P | RW)
        .map(VA + 0x1000, 0x9000, P | US)
    )
    return found.map(0x80_0000, 0x40_0000, OPEN | PS, level=2)


@pytest.fixture
def case(tmp_path, request):
    mode = request.node.callspec.params["mode"]
    tables, paging = small(mode), context(mode, smep=True)
    path = tmp_path / "small.json"
    parts = Case(cpu=Cpu.from_context(paging), ram=tables.ram, entries=tables.words, probes=PROBES)
    path.write_bytes(dump_case(parts))
    return path


@MODES
def test_a_case_is_checked_and_agrees(run, mode, case):
    ran = run("check", case, "--json")
    assert 0 == ran.status
    assert 0 == ran.document["divergences"] == ran.document["known_divergences"]
    assert ran.document["probes"] == ran.document["agreements"] > 60
    assert f"{mode} paging" in ran.err


@MODES
def test_what_is_checked_is_told_by_size_of_page(run, mode, case):
    out = run("check", case).out
    assert ("4 MiB page" in out) is (mode == "32-bit")
    assert ("2 MiB page" in out) is (mode == "PAE")
    assert "not canonical" not in out


@MODES
def test_every_probe_of_a_case_is_replayed(run, mode, case):
    ran = run("replay", case, "--json")
    assert 0 == ran.status
    probes = ran.document["probes"]
    assert len(PROBES) == len(probes)
    assert all(each["predicted"] == each["observed"] for each in probes)
    assert {"ok", "page_fault"} == {each["observed"]["outcome"] for each in probes}


@MODES
def test_one_translation_shows_its_steps_and_both_answers(run, mode, case):
    ran = run("translate", case, hex(VA), "--access", "write", "--observe", "--json")
    assert ran.document["predicted"] == ran.document["observed"]
    assert [2, 1] == [step["level"] for step in ran.document["steps"]][-2:]
    out = run("translate", case, hex(VA)).out
    index = {"32-bit": "PDE[768]", "PAE": "PDPTE[3]"}[mode]
    assert index in out
    assert ("= 0x0000200" in out) is (mode == "32-bit")


@MODES
def test_an_address_of_more_than_32_bits_is_refused_in_one_line(run, mode, case):
    ran = run("translate", case, "0x100000000", "--observe")
    assert 2 == ran.status
    assert f"linear addresses of {mode} paging have 32 bits" in ran.err
    assert 1 == len(ran.err.splitlines())


@MODES
def test_walk_and_frames_list_what_is_mapped(run, mode, case):
    size = 1 << (22 if mode == "32-bit" else 21)
    rows = [(each["va"], each["pa"], each["size"]) for each in run("walk", case, "--json").records]
    assert [
        ("0x800000", "0x400000", size),
        ("0xc0000000", "0x8000", 4096),
        ("0xc0001000", "0x9000", 4096),
    ] == rows
    frames = [(each["pa"], each["supervisor"]) for each in run("frames", case, "--json").records]
    assert [("0x8000", "rwx"), ("0x9000", "r--"), ("0x400000", "rw-")] == frames


@MODES
def test_walk_saves_a_case_that_reads_the_same(run, mode, case, tmp_path):
    saved = tmp_path / "saved.json"
    before = run("walk", case, "--json", "--save-case", saved).out
    assert before == run("walk", saved, "--json").out


@MODES
def test_registers_given_or_dumped_tell_the_mode(run, mode, tmp_path):
    tables = small(mode)
    image = tables.memory.read(0, 1 << 16)
    raw, core = tmp_path / "raw.bin", tmp_path / "core.elf"
    raw.write_bytes(image)
    cr4 = 0x20 if mode == "PAE" else 0x10
    notes = qemu_notes(cpu_state(cr3=0x1000, cr4=cr4, cs_flags=FLAT_CODE))
    ident = b"\x7fELF\x01\x01\x01"
    core.write_bytes(Core(loads=[(0, image)], notes=notes, ident=ident, machine=3).build())
    given = ("--cr3", "0x1000", "--cr4", hex(cr4), *(("--efer", "0x800") if mode == "PAE" else ()))
    by_hand, dumped = run("walk", raw, *given, "--json"), run("walk", core, "--json")
    assert by_hand.out == dumped.out
    assert 3 == len(dumped.records)
    assert f"{mode} paging" in dumped.err


def test_a_pae_address_space_that_can_not_be_entered_is_shown_to_be_so(run, tmp_path):
    tables = small("PAE").map(0, 0xA000).change(0, 3, add=US)
    case = Case(cpu=Cpu.from_context(context("PAE")), ram=tables.ram, entries=tables.words)
    path = tmp_path / "bad.json"
    path.write_bytes(dump_case(case))
    assert [] == run("walk", path, "--json").records
    out = run("translate", path, hex(VA)).out
    assert "PDPTE[0]" in out
    assert "reserved bit set" in out
    assert "predicted: #GP(0)" in out
    assert 2 == run("check", path, "--json").status  # No mapping.
    ran = run("check", path, "--json", "--allow-empty")
    assert 0 == ran.status
    assert {"pae-pdpte-read-when-used"} == set(ran.document["known"])


@MODES
def test_a_walker_under_test_is_held_to_these_modes_too(run, mode, case, tmp_path):
    reduced = tmp_path / "reduced.json"
    walker = ("--walker", "python:docs/examples/broken_walker.py:translate")
    ran = run("reduce", case, *walker, "-o", reduced)
    assert 0 == ran.status
    document = json.loads(reduced.read_text())
    assert 1 == len(document["probes"])
    assert len(document["entries"]) <= 3
    assert 0 == run("replay", reduced).status
