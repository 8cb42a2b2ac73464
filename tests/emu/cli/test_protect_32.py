"""`protect` of kernels and guests of 32 bits: the tiny one, Debian's, and GNU Mach."""

import subprocess

import pytest

from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.guest.init import init_program
from tests.emu.load.linux.distribution_kernels import ROOT, fetched
from tests.emu.load.linux.kernels import elf_of
from tests.emu.protect.kernel.tiny_kernel_32 import MODES, PATCH, READY, tiny_kernel_32

AT = ("--ram", "16", "--protect-at", f"console:{READY}")


@pytest.fixture(params=MODES)
def tiny(tmp_path, request):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel_32(request.param, PATCH)))
    return request.param, path


def test_a_kernel_is_protected_and_attacked(run, tiny):
    mode, path = tiny
    ran = run("protect", "--kernel", path, *AT)
    assert 0 == ran.status, ran.out + ran.err
    assert "1 nested faults: text patching" in ran.out
    (verdict,) = (line for line in ran.out.splitlines() if line.startswith("verdict"))
    # Six pages of the image, and one of code outside it; none can be withheld execution without
    # NX. With it, from read-only and kept data: two pages each.
    why = "without NX the mappings let all that is mapped be executed"
    nx = {"32-bit": f"execution from 0: {why}", "PAE": "execution from 4 and not from the rest: "}
    assert verdict.startswith("verdict: protected as the mappings have it; ")
    assert f"writing withheld from 7 of 4,096 frames, {nx[mode]}" in verdict
    (line,) = (line for line in ran.out.splitlines() if "execution withheld from" in line)
    assert (why in line) is (mode == "32-bit")


def test_high_memory_is_refused(run, tiny):
    ran = run("protect", "--kernel", tiny[1], "--ram", "769")
    assert (2, "") == (ran.status, ran.out)
    assert "--ram 769: a Linux kernel of 32 bits is protected in at most 768 MiB" in ran.err


def test_the_same_as_a_guest(run, tiny):
    _, path = tiny
    path.write_bytes(path.read_bytes() + b"Linux version 0.0\n\0")
    document = run("protect", "--guest", path, *AT, "--json").document
    assert (0, {"patched": 1}) == (document["divergences"], document["nested_faults"])


def test_a_host_that_grants_too_much_fails_the_command(run, tiny, monkeypatch):
    def nothing(protection):
        counts = enforce(protection)
        protection.nested.grant_all()
        protection.host.flush()
        return counts

    enforce = Protection.enforce
    monkeypatch.setattr(Protection, "enforce", nothing)
    _, path = tiny
    document = run("protect", "--kernel", path, *AT, "--json").document
    assert document["divergences"] > 3


@pytest.mark.slow
def test_a_point_behind_a_system_call_is_refused(run):
    """The first one is made by INT 80H."""
    path = fetched("linux-image-686-pae", "--suite", "bookworm", "--arch", "i386")
    ran = run("protect", "--kernel", path, "--protect-at", "syscall:1")
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.endswith("syscall:1 is too late: 1 system call had been made\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "flavour", "more"),
    [
        ("bookworm", "686-pae", ()),
        ("bookworm", "686-pae", ("--append", "pti=on")),
        ("bookworm", "686-pae", ("--protect-at", "user")),
        ("bookworm", "686", ("--protect-at", "user")),
        ("bookworm", "686", ()),
        ("bullseye", "686-pae", ()),
        ("bullseye", "686", ()),
    ],
    ids=str,
)
def test_the_distributions_kernels_are_protected(run, suite, flavour, more):
    path = fetched(f"linux-image-{flavour}", "--suite", suite, "--arch", "i386")
    document = run("protect", "--kernel", path, "--timeout", "600", *more, "--json").document
    assert 0 == document["divergences"]
    pae = flavour == "686-pae"
    # A switch is turned on and off. With NX the vDSO's page has to be granted to a process.
    faults = document["nested_faults"]
    patches = faults.pop("patched")
    assert ({"user_code": 1} if pae else {}) == faults
    assert patches == document["exits"]["CR3_WRITE"] > 100
    assert (0, patches + len(faults)) == (patches % 2, document["exits"]["NPF"])
    # One filter is compiled, the other becomes read-only; neither goes through a window.
    assert {
        "loaded_frames_patched": 0,
        "granted": 0,
        "withdrawn": 2,
        "withdrawals": 2,
        "stale": 0,
        "sealed": 2,
        "freed": 0,
        "late": 0,
        "unsealed": 0,
    } == document["since"]
    assert document["isolated"] is ("pti=on" in more)
    assert {
        "cr0": ["PE", "WP", "PG"],
        "cr4": [*(["PAE"] if pae else []), "SMEP", "SMAP"],
        "efer": ["NXE"] if pae else [],
    } == document["pinned"]
    frames = document["frames"]
    assert frames["no_write"] == frames["read_only"] + frames["read_execute"] > 2500
    assert frames["sealed"] > frames["text"] > 1900
    assert (frames["all_three"] == 0, frames["no_execute"] > 1000) == (pae, pae)
    stops = {each["name"]: each["stopped_by"] for each in document["attacks"]}
    assert ("NPF", "NPF") == (stops["forge tables"], stops["loaded code"])
    # Without NX three can't be built, and two of these would be stopped.
    expected = (9, 5, 1) if pae else (7, 5, 3)
    counts = document["attack_counts"]
    assert expected == tuple(counts[name] for name in ("stopped", "not_stopped", "not_built"))


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["486", "486-pae"])
def test_gnu_mach_is_protected(run, tmp_path, flavour):
    command = [ROOT / "scripts" / "fetch-guest", f"gnumach-{flavour}"]
    fetched = subprocess.run(command, check=True, capture_output=True, text=True)
    first = tmp_path / "first"
    first.write_bytes(init_program(bits=32))
    ran = run(
        *("protect", "--guest", fetched.stdout.strip(), "--append", "console=com0"),
        *("--module", f"{first},$(first-task=task-create) $(task-resume)"),
        *("--tick-every", "100000", "--protect-at", "console:multiboot modules"),
        *("--until", "user", "--json"),
    )
    document = ran.document
    assert (0, 0) == (ran.status, document["divergences"])
    # It write-protects its text, and lets all memory be executed.
    frames = document["frames"]
    assert frames["no_write"] == frames["text"] == frames["sealed"] > 150
    assert 0 == frames["no_execute"] == frames["read_only"]
    stops = {each["name"]: each["stopped_by"] for each in document["attacks"]}
    names = ("clear WP", "write past WP", "own entry", "forge tables")
    assert ["CR0_WRITE", "NPF", "NPF", "NPF"] == [stops[name] for name in names]
