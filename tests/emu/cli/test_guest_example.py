"""The worked example of a small kernel's CI job: good, it holds; each bug breaks one sentence."""

import json
import re
from pathlib import Path

import pytest

from crosswalk.guest.sample import EXIT_PORT, Bug, sample_kernel

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "guest-ci"
EXPECTATIONS = EXAMPLE / "kernel.expect"
SENTENCES = 13
CONSOLE = [
    "sample kernel: long mode, own page tables",
    "the timer ticks",
    "a module was loaded and answers",
    "hello from user mode",
    "done",
]
BROKEN = {
    Bug.SHARED_FRAME: ("frames of .text never writable", 0x10_3000, "rw- ---"),
    Bug.STACK_GUARD: (".stack_guard is unmapped", 0x10_D000, "rw- ---"),
    Bug.USER_RODATA: ("no user in 0x0-0x40000000", 0x10_2000, "r-- r--"),
    Bug.WRITABLE_MODULE: ("no wx", 0x11_0000, "rwx ---"),
}
"""The sentence that each bug breaks, and the page that is named with its rights."""


@pytest.fixture
def boot(run, tmp_path):
    """Boot the kernel, with a bug or without, as the example's job does."""

    def boot(bug, *options):
        kernel = tmp_path / "kernel.elf"
        kernel.write_bytes(sample_kernel(bug))
        return run("run", "--guest", kernel, "--exit-port", hex(EXIT_PORT), "--ram", "16", *options)

    return boot


def printed(ran):
    """The lines of the kernel's console, which shows no bug."""
    return [line for line in ran.err.splitlines() if line in CONSOLE]


def held(text):
    return re.findall(r"^holds +(.*)$", text, re.MULTILINE)


def test_the_kernel_without_a_bug_keeps_all_sentences(boot):
    ran = boot(None, "--expect", EXPECTATIONS, "--console")
    assert 0 == ran.status, ran.err
    assert CONSOLE == printed(ran)
    assert SENTENCES == len(held(ran.out))
    assert "verdict: agreement; 13 expectations hold\n" in ran.out


@pytest.mark.parametrize("bug", Bug)
def test_each_bug_breaks_its_sentence_and_no_other(boot, bug):
    ran = boot(bug, "--expect", EXPECTATIONS, "--console")
    assert 1 == ran.status, ran.err
    assert CONSOLE == printed(ran)
    sentence, page, rights = BROKEN[bug]
    ((broken, named),) = re.findall(r"^BROKEN +(.*): 1 .*\n  (.*)$", ran.out, re.MULTILINE)
    assert sentence == broken
    assert named.startswith(f"{page:016x}-{page + 0xFFF:016x} ")
    assert rights in named
    assert SENTENCES - 1 == len(held(ran.out))


def test_who_made_the_page_writable_and_executable_is_named(boot):
    ran = boot(Bug.WRITABLE_MODULE, "--blame", "0x110000")
    assert 0 == ran.status, ran.err
    stores = ran.out.partition("  PTE[272] ")[2].splitlines()
    (at,) = [n for n, line in enumerate(stores) if line.startswith("    0000000000110003 by ")]
    assert "by set_page+" in stores[at]
    assert "load_module+" in stores[at + 1]


def test_the_document_says_what_the_kernel_did(boot):
    ran = boot(None, "--json")
    record = ran.document
    assert (0, [], 0) == (record["guest_exit"], record["unanswered"], record["divergences"])
    (point,) = record["points"]
    assert point["user_space"]
    assert 2 == point["system_calls"]


@pytest.mark.parametrize("bug", [None, Bug.STACK_GUARD])
def test_the_guard_page_faults_in_a_real_access_where_it_is_not_mapped(boot, run, tmp_path, bug):
    saved = tmp_path / "saved.json"
    assert 0 == boot(bug, "--save", saved).status
    guard, _ = BROKEN[Bug.STACK_GUARD][1:]
    case = json.loads(saved.read_text())
    case["probes"] = [{"va": hex(guard + 0xFF8), "access": "write", "cpl": 0, "ac": False}]
    saved.write_text(json.dumps(case))
    ran = run("replay", saved, "--json")
    assert 0 == ran.status, ran.err
    observed = ran.document["probes"][0]["observed"]
    assert ("page_fault" if bug is None else "ok") == observed["outcome"]


def test_two_runs_leave_the_same_memory(boot, tmp_path):
    cores = [tmp_path / name for name in ("one.core", "two.core")]
    for core in cores:
        assert 0 == boot(None, "--save", core).status
    one, two = (core.read_bytes() for core in cores)
    assert one == two
    assert sample_kernel()[0x1A0:0x200] in one
