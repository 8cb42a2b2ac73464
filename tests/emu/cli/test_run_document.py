"""What `run --json` prints is as its schema has it, whatever the guest, and however it ended."""

import copy

import pytest

from crosswalk.emu.monitor.svm import Vmcb
from crosswalk.guest.sample import Bug, sample_kernel
from tests.emu.cli.mutants import survivors
from tests.emu.cli.running import fits
from tests.emu.load.failing_guest import failing_guest
from tests.emu.load.linux.kernels import talking, vmlinux
from tests.emu.load.monitor_guest import NESTED, commands_for, image_of

FORMAT = "crosswalk-run-1"
NESTED_PAGING = {Vmcb.NESTED: 1, Vmcb.NESTED_CR3: NESTED}
SPIN = b"\xeb\xfe"
EXIT = ("--exit-port", "0xf4")
# By what the guest is and how it ends: its file, options, and the exit status.
GUESTS = {
    "good": (sample_kernel, (*EXIT, "--check-at", "user", "--expect", "no wx"), 0),
    "blamed": (
        lambda: sample_kernel(Bug.WRITABLE_MODULE),
        (*EXIT, "--expect", "no wx", "--blame", "0x110000", "pa:0x110000"),
        1,
    ),
    "halted": (failing_guest, (), 2),
    "missed": (sample_kernel, (*EXIT, "--check-at", "cr3:9"), 2),
    "unpaged": (sample_kernel, ("--until", "instructions:2"), 2),
    "spinning": (lambda: vmlinux("spin: jmp spin"), ("--timeout", "1"), 2),
    "linux": (lambda: vmlinux(talking("")), ("--until", "console:tiny"), 0),
    "hypervisor": (
        lambda: image_of(commands_for(SPIN, NESTED_PAGING.items())),
        ("--model", "epyc", "--until", "instructions:20000"),
        0,
    ),
}


@pytest.fixture
def documents(run, tmp_path):
    def documents(name):
        make, options, status = GUESTS[name]
        path = tmp_path / "guest"
        path.write_bytes(make())
        kind = "--kernel" if name in {"spinning", "linux"} else "--guest"
        ran = run("run", kind, path, "--ram", "32", *options, "--json")
        assert status == ran.status, ran.err
        return ran.document

    return documents


@pytest.mark.parametrize("name", GUESTS)
def test_a_document_of_a_guest_is_one_by_its_schema(documents, name):
    document = documents(name)
    assert "crosswalk-run/1" == document["format"]
    assert fits(FORMAT, document)
    assert (name in {"halted", "missed", "spinning"}) == ("failure" in document)


def test_a_document_of_the_built_in_guest_is_one_by_its_schema(run):
    document = run("run", "--json").document
    assert fits(FORMAT, document)
    assert "crosswalk-run/1" == document["format"]
    for name in ("intended_pages", "probes", "format"):
        assert not fits(FORMAT, {key: value for key, value in document.items() if key != name})


# Maps by name have any keys; what else may be missing or null is so in other documents.
ALLOWED = [
    r"\.failure\.registers\.\w+ left out",
    r"\.failure left out",
    r"\.failure\.exceptions\.last\[\]\.name left out",
    r".*\.symbol null",
]


def test_a_document_with_any_one_thing_changed_is_none(documents):
    document = documents("halted")
    assert [] == survivors(document, lambda it: fits(FORMAT, it), ALLOWED)
    assert [".failure left out"] == survivors(
        document, lambda it: fits(FORMAT, it), [each for each in ALLOWED if each != ALLOWED[1]]
    )


WRONG = {
    "another key": lambda it: it.update(more=1),
    "no verdict": lambda it: it.pop("verdict"),
    "a negative count": lambda it: it.update(probes=-1),
    "another format": lambda it: it.update(format="crosswalk-run/2"),
    "a guest without a format": lambda it: it["guest"].pop("format"),
    "a kind that isn't known": lambda it: it["failure"].update(kind="broken"),
    "a failure without a console": lambda it: it["failure"].pop("console"),
    "a register as a number": lambda it: it["failure"]["registers"].update(rax=1),
    "a RIP in decimals": lambda it: it["failure"].update(rip="12"),
    "an exception without a place": lambda it: it["failure"]["exceptions"]["last"][0].pop("rip"),
    "a vector beyond 255": lambda it: it["failure"]["exceptions"]["last"][0].update(vector=256),
    "hardware of another kind": lambda it: it["unanswered"][0].update(target="disk"),
    "code without a symbol's key": lambda it: it["unanswered"][0].pop("symbol"),
}


def test_a_document_that_is_wrong_in_one_thing_is_none(documents):
    document = documents("halted")
    for why, change in WRONG.items():
        wrong = copy.deepcopy(document)
        change(wrong)
        assert not fits(FORMAT, wrong), why


@pytest.mark.parametrize("name", ["levels", "peak_mib", "under", "unfollowed", "point"])
def test_a_point_without_one_of_its_keys_is_none(documents, name):
    document = documents("good")
    del document["points"][1][name]
    assert not fits(FORMAT, document)
