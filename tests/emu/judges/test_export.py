"""Cases in boot images, and logs of those as judges: what comes back, and what isn't taken."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cli import main
from crosswalk.emu.judges import exported as exported_module
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.exported import images_of, tag_of
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.machines.iso import judges_folder
from crosswalk.guest.boot import image as image_module
from crosswalk.guest.boot import log, places
from crosswalk.guest.boot.image import Output, size_of
from crosswalk.guest.boot.screen import on_screen
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Probe, dump_case, load_case
from crosswalk.walker.memory import SparseWords
from tests.emu.case_files import CASES, JUDGES_CASES
from tests.emu.cli.running import crosswalk
from tests.emu.conftest import missing
from tests.emu.judges.images import record

TABLES = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4000": "0x200007"}
STATE = {
    "cpu": {"cr0": "0x80010033", "cr3": "0x1000", "cr4": "0xa0", "efer": "0xd00"},
    "ram": [["0x0", "0x40000000"]],
    "entries": TABLES,
}
COMPOSITE = {
    "format": "crosswalk-composite/1",
    "access": "rmw:xadd",
    "va": "0x123",
    "cpl": 3,
    "ac": False,
    "case": {"format": "crosswalk-case/1", **STATE, "probes": []},
}
SEQUENCE = {
    "format": "crosswalk-sequence/1",
    **STATE,
    "steps": [
        {"step": "access", "access": "read", "va": "0x0", "cpl": 3, "ac": False},
        {"step": "store", "pa": "0x4000", "value": "0x201007"},
        {"step": "invlpg", "va": "0x0"},
        {"step": "access", "access": "write", "va": "0x0", "cpl": 3, "ac": False},
    ],
}
MODES = ("bit32", "pae", "four-level", "five-level")
RIGHT = ("bit32", "four-level", "five-level", "composite", "sequence")
RESERVED = JUDGES_CASES / "reserved-fault-without-p.json"
ENCRYPTED = CASES / "rules" / "sev-cbit47.json"


def with_probes(name):
    """A case of tests/cases/shared, with accesses to its first pages."""
    case = load_case(CASES / "shared" / f"{name}.json")
    probes = [
        Probe(va=page << 12 | 0x123, access=kind.name.lower(), cpl=cpl, ac=False)
        for page in range(12)
        for kind in AccessType
        for cpl in (0, 3)
    ]
    return replace(case, probes=tuple(probes))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder with a case in each paging mode."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "composite.json").write_text(json.dumps(COMPOSITE))
    (folder / "sequence.json").write_text(json.dumps(SEQUENCE))
    for name in MODES:
        (folder / f"{name}.json").write_bytes(dump_case(with_probes(name)))
    return folder


def printed(program, *options):
    """What a PC of QEMU's sends to COM1."""
    shared = "-cpu max -m 2048 -nodefaults -display none -no-reboot -serial stdio"
    command = [program, *shared.split(), *map(str, options)]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout


def four(cases):
    return [cases / f"{name}.json" for name in MODES]


@pytest.fixture(scope="module")
def exported(cases, tmp_path_factory, qemu):
    """What QEMU printed that booted the cases."""
    folder = tmp_path_factory.mktemp("exported")
    assert 0 == main(["export", str(cases), "-o", str(folder / "x.img")])
    (cases / "other.json").write_bytes(RESERVED.read_bytes())
    program = qemu.partition(":")[2] or "qemu-system-x86_64"
    return printed(program, "-kernel", folder / "x.img")


@pytest.fixture
def run(capfd):
    """Run a command, as a user does."""
    return lambda *arguments: crosswalk(capfd, *arguments)


@pytest.fixture
def judged(run, tmp_path, cases):
    """Has the cases judged by a log of these bytes."""

    def judge(data, *more, given=RIGHT):
        path = tmp_path / "boot.log"
        path.write_bytes(data)
        files = [cases / f"{name}.json" for name in given]
        return run("judge", *files, "--with", f"log:{path}", *more)

    return judge


def test_all_paging_modes_go_into_one_image_and_come_back_in_its_log(judged, exported):
    ran = judged(b"SeaBIOS\r\n\x1b[2JGRUB\r\n" + exported + b"[    0.000000] Linux\r\n")
    assert (0, 3) == (ran.status, ran.out.count("72 agreed"))
    assert "verdict: agreement; by QEMU TCG CPU version" in ran.out
    assert "AuthenticAMD of 40 bits" in ran.out
    # QEMU sets bit 5 of PDPTEs: a log isn't QEMU's, whatever it was that printed it.
    ran = judged(exported, given=["pae"])
    assert 1 == ran.status
    assert " diverged: bit 5 of a PDPTE of PAE paging: says set, it is left as it was" in ran.out
    assert "verdict: FAILED: 0 of 72 probes agree; diverged: 72; by" in ran.out


@pytest.mark.parametrize("name", RIGHT)
def test_each_case_of_an_image_can_be_asked_for_alone(judged, exported, name):
    ran = judged(exported, given=[name])
    assert 0 == ran.status
    assert "verdict: agreement; by" in ran.out


def test_lines_typed_from_a_screen_are_a_log(judged, exported):
    start = exported.index(log.MARK.to_bytes(2, "little"))
    ran = judged(b"page 1\n" + on_screen(exported[start:]).encode())
    assert (0, 3) == (ran.status, ran.out.count("72 agreed"))


def altered(data, wanted, flipped):
    """The log with a bit of the first record that is wanted altered, and its checksum right."""
    at = data.index(log.MARK.to_bytes(2, "little"))
    while (found := log._record(data, at)) is not None:
        if wanted(found):
            words = [word ^ bit for word, bit in zip(found.words, flipped, strict=False)]
            words += found.words[len(words) :]
            return data[:at] + record(found.kind, found.number, words) + data[found.end :]
        at = found.end
    return pytest.fail("no such record")


def is_fault(found):
    return found.kind == log.Kind.PROGRAM and found.words[1] & 0xFF == 14


def on_other_cpu(data):
    return altered(data, lambda found: found.kind == log.Kind.CPU, [0, 0, 1 << 4])


def test_a_log_that_says_otherwise_diverges(judged, exported):
    ran = judged(altered(exported, is_fault, [0, 1 << 32]))
    assert 1 == ran.status
    assert "diverged: 1" in ran.out
    assert "P in the error code" in ran.out


def test_a_log_of_other_cases_answers_nothing(judged, exported):
    ran = judged(exported, given=["other"])
    assert 2 == ran.status
    assert "lost: not in the log: that is of other cases, or by another version" in ran.out
    assert "verdict: nothing answered" in ran.out


def test_of_a_log_that_is_cut_all_that_it_has_is_judged(judged, exported):
    ran = judged(exported[: len(exported) // 2])
    assert 2 == ran.status
    assert " lost: the log ends before it" in ran.out
    assert "FAILED" not in ran.out
    assert "verdict: not finished; " in ran.out


def test_a_machine_that_starts_again_ended_at_the_probe_where_it_did(judged, exported):
    part = exported[: len(exported) // 3]
    ran = judged(part + part)
    assert 1 == ran.status
    assert "1 ended: started again" in ran.out
    assert "lost: not asked: the machine had ended before" in ran.out


def test_a_log_twice_is_a_log(judged, exported):
    once, twice = judged(exported), judged(exported + exported)
    assert (0, once.out) == (twice.status, twice.out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:3000] + b"[    1.0] usb 1-1\n" + data[3000:], "the log is damaged: "),
        (lambda data: data[:3000] + data[3001:], "the log is damaged: record"),
        (lambda _: b"", "no answer of a boot image in it"),
        (lambda _: b"\x7fELF" + bytes(100), "no answer of a boot image in it"),
        (lambda data: data + data[:3000] + data[3001:], "the log is damaged: record"),
        (lambda data: data + on_other_cpu(data), "the logs in it are of several machines"),
    ],
    ids=["kernel text in it", "a byte lost", "empty", "no log", "damaged behind", "two machines"],
)
def test_a_log_that_cannot_be_read_is_one_line(judged, exported, change, words):
    ran = judged(change(exported))
    assert (2, "") == (ran.status, ran.out)
    (line,) = ran.err.splitlines()
    assert words in line


def test_a_log_that_cannot_be_read_ends_no_other_judge(judged):
    ran = judged(b"nothing", "--with", "unicorn")
    assert 2 == ran.status
    assert "" == ran.err
    assert ": not asked: no answer of a boot image in it\n  given as log:" in ran.out
    assert "verdict: agreement; by Unicorn" in ran.out
    assert "verdict: not asked; by log:" in ran.out


@pytest.fixture(scope="module")
def asked():
    """A run, without the runner's pages."""
    case = with_probes("four-level")
    accesses = Accesses.of([each.asked for each in case.probes])
    question = Question(case.memory(), case.context(), accesses)
    (part,) = CompiledAccesses(question, Ram(None), None).parts
    return part.asked


def test_a_run_is_for_cpus_that_reserve_what_has_no_ram():
    words = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 1 << 45 | 7, 0x4008: 0x20_0007}
    words |= {0x4010: 1 << 50 | 1 << 44 | 7, 0x3008: 1 << 46 | 0x5007}
    context = PagingContext(cr0=0x8001_0033, cr3=0x1000, cr4=0x20, efer=0xD00)
    memory = SparseWords([(0, 1 << 30)], words)
    pages = [0, 1, 2, 512]
    accesses = Accesses.of([Access(page << 12, AccessType.READ, 0) for page in pages])
    question = Question(memory, context, accesses)

    parts = CompiledAccesses(question, Ram(None), None).parts
    widest = {int(row): part.asked.run.maxphyaddr for part in parts for row in part.rows}
    assert {0: 45, 1: 0, 2: 50, 3: 46} == widest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "firmware", "stick"),
    [("pc", False, False), ("q35", False, True), ("pc", True, True), ("q35", True, False)],
    ids=["CD by BIOS", "stick by BIOS", "stick by UEFI", "CD by UEFI"],
)
def test_an_iso_file_boots_pcs(
    judged, run, cases, qemu, iso_tools, tmp_path, machine, firmware, stick
):
    iso, options = tmp_path / "x.iso", ["-machine", machine]
    assert 0 == run("export", cases, "-o", tmp_path / "x.img", "--iso", iso).status
    if firmware:
        code = judges_folder() / "ovmf/root/usr/share/OVMF/OVMF_CODE.fd"
        if not code.exists():
            missing(f"no {code}: scripts/judges ovmf")
        shutil.copy(code.with_name("OVMF_VARS.fd"), tmp_path / "variables")
        flash = "if=pflash,format=raw"
        options += ["-drive", f"{flash},readonly=on,file={code}"]
        options += ["-drive", f"{flash},file={tmp_path / 'variables'}"]
    if stick:
        options += ["-drive", f"file={iso},format=raw,if=none,id=stick,snapshot=on"]
        options += ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"]
    else:
        options += ["-cdrom", iso]
    data = printed(qemu.partition(":")[2] or "qemu-system-x86_64", *options)

    ran = judged(data)
    assert (0, 3) == (ran.status, ran.out.count("72 agreed"))
    assert "verdict: agreement; by QEMU TCG CPU version" in ran.out


def test_the_same_cases_give_the_same_image(run, cases, tmp_path):
    for name in "ab":
        assert 0 == run("export", *four(cases), "-o", tmp_path / name).status
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_does_not_go_into_one_image_goes_into_several(
    judged, run, cases, qemu, tmp_path, monkeypatch
):
    monkeypatch.setattr(exported_module, "_LARGEST", size_of([]) + 40_000)
    two = [cases / "composite.json", cases / "four-level.json", cases / "five-level.json"]
    ran = run("export", *two, "-o", tmp_path / "x.img")
    assert (0, ["x-2.img", "x.img"]) == (
        ran.status,
        sorted(each.name for each in tmp_path.iterdir()),
    )
    assert "x.img: 73 probes in 2 runs" in ran.out
    assert "x-2.img: 72 probes in 1 run" in ran.out
    program = qemu.partition(":")[2] or "qemu-system-x86_64"
    data = [printed(program, "-kernel", tmp_path / name) for name in ("x-2.img", "x.img")]

    ran = judged(b"\r\nGRUB\r\n".join(data), given=["composite", "four-level", "five-level"])
    assert 0 == ran.status
    assert "verdict: agreement; by QEMU TCG CPU version" in ran.out


def lending_other(asked):
    """The run with another slot lent: another run."""
    return replace(asked, loan=replace(asked.loan, alias=asked.loan.alias - 1))


def test_a_run_with_no_place_for_the_runner_is_in_no_image(asked):
    everywhere = np.arange(0, 2 << 30, 2 << 20, dtype=np.uint64)
    crowded = replace(lending_other(asked), taken=everywhere)
    images, homeless = images_of([crowded, asked, asked], Output.SERIAL)

    assert [1] == [each.runs for each in images]
    assert {tag_of(crowded)} == homeless


def test_the_runner_lies_where_the_most_runs_leave_it_room(asked):
    there = replace(lending_other(asked), taken=np.array([0x800_0000], np.uint64))
    ((image,), homeless) = images_of([there, asked], Output.SERIAL)

    assert (0x20_0000, 2, frozenset()) == (image.base, image.runs, homeless)


def test_answers_are_shown_where_there_is_no_com1_or_as_is_wanted(run, cases, tmp_path):
    at = places.DATA + image_module._VARIABLES["D_OUTPUT"]
    for name, options, wanted in (
        ("a", [], Output.SERIAL | Output.SCREEN),
        ("b", ["--screen"], Output.SCREEN),
    ):
        assert 0 == run("export", cases / "pae.json", "-o", tmp_path / name, *options).status
        assert wanted == (tmp_path / name).read_bytes()[at]


def test_what_cannot_be_exported_is_refused_by_probe_and_counted(run, cases, tmp_path):
    image = tmp_path / "x.img"
    ran = run("export", cases / "pae.json", ENCRYPTED, cases / "pae.json", "-o", image, "--verbose")
    assert 0 == ran.status
    assert "72 probes in 1 run" in ran.out
    assert "exported: 144 of 150 probes, 72 of them the same as others" in ran.out
    assert "6 not exported: a mask of encryption bits, which no judge is told" in ran.out
    assert 6 == ran.out.count(f"{ENCRYPTED}: not exported: ")


def test_as_json_there_is_what_is_in_the_images(run, cases, tmp_path):
    image = tmp_path / "x.img"
    document = run("export", *four(cases), ENCRYPTED, "-o", image, "--json").document
    (made,) = document["images"]
    assert (294, 288, 288) == (document["probes"], document["exported"], made["probes"])
    assert {"a mask of encryption bits, which no judge is told": 6} == document["refused"]
    assert [0, 0, 0, 0, 6] == [len(each["refused"]) for each in document["cases"]]
    assert (str(image), image.stat().st_size) == (made["image"], made["bytes"])


def test_where_nothing_can_be_exported_no_image_is_written(run, tmp_path):
    image = tmp_path / "x.img"
    ran = run("export", ENCRYPTED, "-o", image)
    assert (2, False) == (ran.status, image.exists())
    assert "nothing to export: no image is written" in ran.err


def test_a_case_that_cannot_be_read_is_a_line_and_the_others_are_exported(run, cases, tmp_path):
    image = tmp_path / "x.img"
    ran = run("export", tmp_path / "none.json", cases / "pae.json", "-o", image)
    assert (2, True) == (ran.status, image.exists())
    assert "none.json: no such file" in ran.err
