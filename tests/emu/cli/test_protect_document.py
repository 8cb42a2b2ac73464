"""What `protect --json` prints is as its schema has it, whatever is protected."""

import copy
from pathlib import Path

import pytest

from crosswalk.guest.sample import EXIT_PORT, Bug, sample_kernel
from tests.emu.cli.running import fits
from tests.emu.load.linux.kernels import elf_of
from tests.emu.protect.kernel.tiny_kernel import READY, tiny_kernel

FORMAT = "crosswalk-protect-1"
CASES = Path(__file__).resolve().parents[2] / "cases"
LINUX = CASES / "linux-6.1-4level.json"
SAMPLE = ("--ram", "16", "--exit-port", hex(EXIT_PORT))
KERNEL = ("--ram", "32", "--protect-at", f"console:{READY}")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel()))
    return path


@pytest.fixture
def failed(run, tmp_path):
    """What protects a tiny kernel that does this once it is ready."""

    def failed(program, *options):
        path = tmp_path / "vmlinux"
        path.write_bytes(elf_of(tiny_kernel(program)))
        return run("protect", "--kernel", path, *KERNEL, *options, "--json")

    return failed


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample.elf"
    path.write_bytes(sample_kernel(Bug.WRITABLE_MODULE))
    return path


def test_a_document_of_a_guest_is_one_by_its_schema(run, sample):
    options = ("--blame", "0x110000", "--expect", "tables never writable by user")
    ran = run("protect", "--guest", sample, *SAMPLE, *options, "--json")
    assert 0 == ran.status, ran.err
    assert {"blame", "expectations", "guest_exit"} <= set(ran.document)
    assert fits(FORMAT, ran.document)


def test_a_document_of_a_kernel_is_one_by_its_schema_and_a_wrong_one_none(run, tiny):
    document = run("protect", "--kernel", tiny, *KERNEL, "--json").document
    assert fits(FORMAT, document)
    for why, change in WRONG.items():
        wrong = copy.deepcopy(document)
        change(wrong)
        assert not fits(FORMAT, wrong), why


def _attack(document, by):
    return next(each for each in document["attacks"] if each["stopped_by"] == by)


WRONG = {
    "another key": lambda it: it.update(more=1),
    "no attacks": lambda it: it.pop("attacks"),
    "an attack without a result": lambda it: it["attacks"][0].pop("protected"),
    "a result in words": lambda it: it["attacks"][0].update(protected="yes"),
    "a count below zero": lambda it: it["frames"].update(no_write=-1),
    "a frame of another kind": lambda it: it["frames"].update(huge=1),
    "a check that may hold": lambda it: it["checks"][0].update(holds=None),
    "exits without numbers": lambda it: it["exits"].update(NPF="many"),
    "a slowdown of nothing": lambda it: it.update(slowdown=None),
    "an attack that half was": lambda it: it["attacks"][0].update(as_meant=None),
    "one that succeeds and is stopped": lambda it: _attack(it, "NPF").update(protected=True),
    "one that nothing stops at an address": lambda it: _attack(it, "NPF").update(stopped_by=None),
    "one that wasn't built, and was": lambda it: it["attacks"][0].update(not_built="no room"),
}


def test_a_document_of_a_kernel_that_the_host_refused_is_one_by_its_schema(run, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel("mov rax, cr0\nbtr rax, 16\nmov cr0, rax\n")))
    ran = run("protect", "--kernel", path, *KERNEL, "--json")
    assert 1 == ran.status
    assert "it would clear CR0.WP" in ran.document["refused"]["detail"]
    assert fits(FORMAT, ran.document)
    without = {k: it for k, it in ran.document["refused"].items() if k != "error_code"}
    assert not fits(FORMAT, {**ran.document, "refused": without})
    refused = {**ran.document["refused"], "rip": "0x1000"}
    assert not fits(FORMAT, {**ran.document, "refused": refused})


def test_a_kernel_that_fails_leaves_one_document_with_its_last_state(failed):
    ran = failed("cli\nhlt\n")
    assert 2 == ran.status
    (record,) = ran.records
    assert "halted" == record["failure"]["kind"]
    assert ["idle"] == record["failure"]["not_reached"]
    assert record["verdict"] in ran.err.splitlines()[-1]
    assert "0x0" != record["failure"]["registers"]["cr3"]
    assert fits(FORMAT, record)
    state = {key: value for key, value in record["failure"].items() if key != "registers"}
    assert not fits(FORMAT, {**record, "failure": state})


def test_a_kernel_that_takes_too_long_leaves_a_document(failed):
    ran = failed("spin: jmp spin\n", "--timeout", "1")
    assert (2, "timeout") == (ran.status, ran.document["failure"]["kind"])
    assert fits(FORMAT, ran.document)


def test_a_guest_that_never_comes_to_where_protection_begins_leaves_a_document(run, sample):
    at = ("--protect-at", "console:nothing of the kind")
    ran = run("protect", "--guest", sample, *SAMPLE, *at, "--json")
    assert (2, "missed") == (ran.status, ran.document["failure"]["kind"])
    assert ["console:nothing of the kind"] == ran.document["failure"]["not_reached"]
    assert fits(FORMAT, ran.document)


def test_without_a_machine_for_ept_there_is_a_document_that_says_so(run, tiny):
    for guest in ((), ("--kernel", tiny, *KERNEL)):
        where = ("--tables", "ept-mbec", "--with", "bochs:/nowhere/bochs")
        ran = run("protect", *guest, *where, "--json")
        (record,) = ran.records
        assert (2, "unusable") == (ran.status, record["failure"]["kind"])
        assert "/nowhere/bochs: no such command" in record["failure"]["message"]
        assert fits(FORMAT, record)


@pytest.mark.slow
def test_a_document_of_a_kernel_under_ept_is_one_by_its_schema(run, tiny, bochs3):
    where = ("--tables", "ept-mbec", "--with", f"bochs:{bochs3}")
    ran = run("protect", "--kernel", tiny, *KERNEL, *where, "--json")
    assert "ept-mbec" == ran.document["tables"]
    assert fits(FORMAT, ran.document)


@pytest.mark.slow
def test_a_document_of_the_built_in_guest_is_one_by_its_schema(run):
    document = run("protect", "--expect", "no wx", "--json").document
    assert fits(FORMAT, document)
    for name in ("attacks", "lifecycle", "frames"):
        assert not fits(FORMAT, {key: value for key, value in document.items() if key != name})


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ((), ("kind", "regions", "writable_executable")),
        (("--tables", "ept-mbec", "--expect", "no wx"), ("inexpressible", "expectations")),
        (("--beyond",), ("enforcers", "mapped")),
    ],
    ids=["a summary", "of another table, with expectations", "beyond"],
)
def test_a_document_of_a_memory_is_one_by_its_schema(run, options, keys):
    document = run("protect", LINUX, *options, "--json").document
    assert fits(FORMAT, document)
    for name in keys:
        without = {key: value for key, value in document.items() if key != name}
        assert (name == "expectations") == fits(FORMAT, without)


def test_a_memory_of_several_roots_has_a_document_by_the_schema(run, small_case):
    ran = run("protect", small_case, "--roots", "0x1000,0x2000", "--json")
    assert 2 == len(ran.document["roots"])
    assert fits(FORMAT, ran.document)
