"""What can't be done is said in one line, and nothing is on standard output."""

import faulthandler
import json
import os

import pytest

from crosswalk.emu.cli.main import main
from tests.emu.cli.running import refused
from tests.walker.formats.conftest import Core, cpu_state, qemu_notes

GOOD = {
    "format": "crosswalk-case/1",
    "cpu": {"cr3": "0x1000"},
    "ram": [["0x0", "0x10000"]],
    "entries": {"0x1000": "0x2067"},
    "probes": [{"va": "0x0", "access": "read", "cpl": 0, "ac": False}],
}
PROBE = GOOD["probes"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "crosswalk-case/2"}, "$.format"),
        ({"more": 1}, "more"),
        ({"cpu": {}}, "cr3"),
        ({"cpu": {"cr3": 4096}}, "$.cpu.cr3"),
        ({"cpu": {"cr3": "4096"}}, "$.cpu.cr3"),
        ({"cpu": {"cr3": "0x1000", "maxphyaddr": 53}}, "$.cpu.maxphyaddr"),
        ({"ram": [["0x0"]]}, "$.ram[0]"),
        ({"ram": [["0x0", "0x1001"]]}, "ram"),
        ({"ram": []}, "ram"),
        ({"entries": {"0x1001": "0x1"}}, "0x1001"),
        ({"entries": {"0x20000": "0x1"}}, "0x20000"),
        ({"entries": {"0x1000": "0x10000000000000000"}}, "$.entries"),
        ({"probes": [PROBE | {"access": "fetch"}]}, "$.probes[0].access"),
        ({"probes": [PROBE | {"cpl": 1}]}, "$.probes[0].cpl"),
        ({"probes": [{"va": "0x0"}]}, "$.probes[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_malformed_case_is_refused_with_the_place(run, tmp_path, change, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(GOOD))
    assert 0 == run("replay", path).status
    path.write_text(json.dumps(GOOD | change))
    line = refused(run("replay", path))
    assert line.startswith(f"crosswalk: error: {path}: ")
    assert message in line


@pytest.mark.parametrize(
    ("cpu", "message"),
    [
        ({"cr3": "0x1000", "cr0": "0x33"}, "paging is off"),
        ({"cr3": "0x1000", "cr4": "0x0"}, "has LMA, CR4 = 0x0 lacks PAE"),
        ({"cr3": "0x90000"}, "CR3 0x90000 points outside"),
    ],
    ids=["CR0", "CR4", "CR3"],
)
@pytest.mark.parametrize(
    "command",
    ["walk", "replay"],
)
def test_a_case_with_unusable_registers_is_refused_by_name(run, tmp_path, command, cpu, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(GOOD | {"cpu": cpu}))
    line = refused(run(command, path))
    assert line.startswith(f"crosswalk: error: {path}: ")
    assert message in line


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff\xfe", b"{}", b"null", b'{"format": "crosswalk-case/1"}'],
    ids=["cut", "list", "not UTF-8", "empty", "null", "format alone"],
)
def test_what_is_no_case_is_refused(run, tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    for command in ("replay", "walk", "check"):
        refused(run(command, path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk", "{tmp}/none"], "no such file or directory"),
        (["walk", "{tmp}"], "is a directory"),
        (["walk", "{raw}", "--cr3", "0x100000"], "points outside the image"),
        (["walk", "{raw}", "--cr3", "zz"], "--cr3: 'zz' is not a number"),
        (["walk", "{raw}", "--cr3", "-1"], "--cr3"),
        (["walk", "{raw}", "--cr3", "0x1000", "--cr0", "0x11"], "paging is off"),
        (["walk", "{raw}", "--cr3", "0x1000", "--efer", "0x100"], "LME without LMA"),
        (["walk", "{raw}", "--cr3", "0x1000", "--maxphyaddr", "31"], "maxphyaddr = 31"),
        (["walk", "{raw}", "--cr3", "0x1000", "--base", "0x10"], "base 0x10"),
        (["walk", "{raw}", "--cr3", "0x1000", "--kind", "elf"], "ELF"),
        (["walk", "{case}", "--start", "x"], "--start: 'x' is not a number"),
        (["walk", "{case}", "--end", "-5"], "--end: -5 is negative"),
        (["walk", "{case}", "--start", "8", "--end", "8"], "no range"),
        (["walk", "{case}", "--end", "0x10000000000000001"], "no range"),
        (["walk", "{case}", "--limit", "many"], "--limit"),
        (["walk", "{case}", "--level", "4"], "--level"),
        (["walk", "{case}", "--save-case", "{tmp}/no/file"], "No such file"),
        (["walk", "{case}", "--cpu", "1"], "no CPU 1"),
        (["walk", "guest:3level"], "no such guest"),
        (["check", "guest:4level", "--cr3", "0x10000000"], "CR3 0x10000000 points outside"),
        (["check", "guest:4level", "--cpu", "1"], "are for files"),
        (["walk"], "SOURCE"),
        (["walk", ""], "SOURCE: an empty text"),
        (["replay", ""], "CASE: an empty text"),
        (["frames", "{case}", "--policy", "none"], "--policy"),
        (["frames", "{case}", "--aliases", "-1"], "--aliases"),
        (["check", "{case}", "--limit", "-1"], "--limit"),
        (["translate", "{case}"], "VA"),
        (["translate", "{case}", "here"], "VA: 'here' is not a number"),
        (["translate", "{case}", "0x10000000000000000"], "does not fit in 64 bits"),
        (["translate", "{case}", "0", "--cpl", "1"], "--cpl"),
        (["translate", "{case}", "0", "--access", "jump"], "--access"),
        (["replay", "{tmp}/none"], "no such file or directory"),
        (["run", "--paging", "3level"], "--paging"),
        (["run", "--save", "{tmp}"], "{tmp}"),
        (["dance"], "dance"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_is_refused(run, tmp_path, small_case, small_raw, arguments, message):
    names = {"tmp": tmp_path, "case": small_case, "raw": small_raw}
    ran = run(*(each.format(**names) for each in arguments))
    assert message.format(**names) in refused(ran)


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (Core(machine=40), "ELF"),
        (Core(type=2), "not an ELF core"),
        (Core(notes=b""), "give --cr3"),
        (Core(notes=qemu_notes(cpu_state(cr3=0x9_0000))), "points outside the image"),
        (Core(notes=qemu_notes(cpu_state(cr0=0x33))), "paging is off"),
    ],
    ids=["machine", "type", "no registers", "CR3", "CR0"],
)
def test_an_elf_core_that_can_not_be_read_is_refused(run, tmp_path, core, message):
    path = tmp_path / "bad.elf"
    path.write_bytes(core.build())
    assert message in refused(run("walk", path))


@pytest.mark.parametrize("size", [10, 63, 64, 100, 200, 1000])
def test_a_truncated_core_is_refused(run, tmp_path, small_core, size):
    path = tmp_path / "cut.elf"
    path.write_bytes(small_core.read_bytes()[:size])
    refused(run("walk", path))


def test_help_says_the_exit_statuses_and_is_no_error(run):
    ran = run("--help")
    assert 0 == ran.status
    assert "exit status: 0 agreement; 1 a divergence" in ran.out
    for command in ("run", "walk", "frames", "translate", "check", "replay"):
        assert 0 == run(command, "--help").status
        assert command in ran.out


def test_an_interrupt_is_exit_status_130(monkeypatch, capfd):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("crosswalk.emu.cli.walk.chosen_spaces", interrupted)
    assert 130 == main(["walk", "guest:4level"])
    assert "crosswalk: interrupted\n" == capfd.readouterr().err


def test_a_crash_of_the_emulator_names_the_command_that_shows_it(run, monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.cli.check_pieces.Checker.check",
        lambda *_: (faulthandler.disable(), os.abort()),
    )
    ran = run("check", "guest:4level")
    assert 2 == ran.status
    assert "SIGABRT" in ran.err
    assert "reproduce: crosswalk check guest:4level" in ran.err
