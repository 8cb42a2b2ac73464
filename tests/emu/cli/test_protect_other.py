"""`protect --guest`, with the project's own sample kernel."""

import numpy as np
import pytest

from crosswalk.emu.protect.kernel import guest_scenario
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.guest.sample import EXIT_PORT, Bug, sample_kernel
from crosswalk.walker.protection.pagelist import Permission
from tests.emu.cli.running import refused
from tests.emu.load.elf_files import Part, elf_file
from tests.emu.load.linux.kernels import elf_of
from tests.emu.protect.kernel.tiny_kernel import PATCH, READY, RUN_USER, tiny_kernel

AT = ("--ram", "16", "--exit-port", hex(EXIT_PORT))
EXITS = bytes((0x31, 0xC0, 0xE6, EXIT_PORT))
"""xor eax, eax; out EXIT_PORT, al."""
NOT_STOPPED = ["execute free memory", "write data"]


@pytest.fixture
def sample(tmp_path):
    def written(bug=None):
        path = tmp_path / "sample.elf"
        path.write_bytes(sample_kernel(bug))
        return path

    return written


def test_a_guest_is_protected_from_its_first_process_on_and_attacked(run, sample):
    ran = run("protect", "--guest", sample(), *AT)
    assert 0 == ran.status, ran.out + ran.err
    assert "\nat user: 4,096 frames, by collective rights 1 read-only, 13 read-write, 4 " in ran.out
    assert "forge tables: CR3 set to forged tables that map all memory" in ran.out
    assert "EXITINFO1 0x15 (fetch), EXITINFO2 0x102000" in ran.out
    assert "ok     memory at exit as without nested paging" in ran.out
    assert "clear SMEP: CR4.SMEP cleared\n    not built: CR4.SMEP is clear\n" in ran.out
    assert "swap rodata" in ran.out
    assert "    not built: it takes what is known of Linux alone\n" in ran.out
    assert (
        "verdict: protected as the mappings have it; 6 attacks stopped, 2 not, 7 not built; "
        in (ran.out)
    )


def test_what_turns_read_only_later_is_followed_and_sealed(run, sample):
    ran = run("protect", "--guest", sample(), *AT, "--protect-at", "symbol:load_module", "--json")
    document = ran.document
    assert 0 == ran.status
    assert ("multiboot", "sample.elf") == (document["format"], document["guest"])
    assert {"followed": 1} == document["nested_faults"]
    assert (1, 0, 0) == tuple(document["since"][name] for name in ("sealed", "freed", "late"))
    assert (0, 0) == (document["divergences"], document["guest_exit"])
    assert {"stopped": 6, "not_stopped": 2, "not_built": 7} == document["attack_counts"]
    attacks = {each["name"]: each for each in document["attacks"]}
    assert NOT_STOPPED == [name for name, each in attacks.items() if each["protected"]]
    assert ("0x100000", 7) == (attacks["own entry"]["gpa"], attacks["own entry"]["error_code"])


def test_a_page_that_is_writable_and_executable_is_withheld_nothing(run, sample):
    ran = run("protect", "--guest", sample(Bug.WRITABLE_MODULE), *AT, "--expect", "no wx")
    assert 1 == ran.status
    assert "1 all three" in ran.out
    assert "verdict: protected as the mappings have it" in ran.out


def test_a_host_that_grants_too_much_fails_the_command(run, sample, monkeypatch):
    def writable(protection):
        grants = enforce(protection)
        protection.nested.grant(protection.nested.granted | np.uint8(Permission.WRITE))
        protection.host.flush()
        return grants

    enforce = Protection.enforce
    monkeypatch.setattr(Protection, "enforce", writable)
    ran = run("protect", "--guest", sample(), *AT)
    assert 1 == ran.status
    for name in ("write past WP", "own entry", "forge tables"):
        assert f"FAILED {name}: works unprotected; is stopped" in ran.out


def test_a_linux_kernel_is_protected_as_one(run, tmp_path):
    path = tmp_path / "vmlinux"
    content = elf_of(tiny_kernel(f"{PATCH}{RUN_USER}"))
    path.write_bytes(content + b"Linux version 0.0\n\0")
    ran = run("protect", "--guest", path, "--ram", "32", "--protect-at", f"console:{READY}")
    assert 0 == ran.status, ran.out + ran.err
    assert "forge the patching window: forged tables with one page" in ran.out
    assert "1 nested faults: text patching" in ran.out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("--module", "{path},x"),
        ("--exit-port", "0xf4"),
        ("--tick-every", "1000"),
        ("--until", "user"),
        ("--system-map", "{path}"),
    ],
)
def test_an_option_that_protection_of_linux_does_not_read_is_refused(run, tmp_path, name, value):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel(RUN_USER)) + b"Linux version 0.0\n\0")
    ran = run("protect", "--guest", path, name, value.format(path=path))
    assert f"{name} isn't for a Linux kernel that is protected" in refused(ran)


def test_verbose_without_expectations_is_refused(run, sample):
    assert "--verbose isn't for --guest" in refused(
        run("protect", "--guest", sample(), "--verbose")
    )


def test_a_guest_that_fails_says_so(run, sample, monkeypatch):
    monkeypatch.setattr(guest_scenario, "attack_guest", lambda _: iter(()))
    ran = run("protect", "--guest", sample(), "--ram", "16")
    # Without the port that it exits by it goes on, to halt for good.
    assert (2, "") == (ran.status, ran.out)
    assert "crosswalk: error: the guest didn't reach idle" in ran.err


def test_a_guest_without_user_mode_is_told_how_to_say_where_protection_begins(run, tmp_path):
    path = tmp_path / "k.elf"
    path.write_bytes(elf_file([Part(0x10_0000, EXITS)], bits=64))
    said = "exit came before user"
    how = "where protection begins unless --protect-at names another point"
    ran = run("protect", "--guest", path, "--as", "elf64", *AT)
    assert (2, "") == (ran.status, ran.out)
    assert f"crosswalk: error: {said}, {how}" in ran.err.splitlines()[-1]
    ran = run("protect", "--guest", path, "--as", "elf64", *AT, "--protect-at", "cr3:99")
    assert "crosswalk: error: exit came before cr3:99" == ran.err.splitlines()[-1]


def test_a_guest_whose_mappings_allow_everything_is_said_to_be_that(run, tmp_path):
    path = tmp_path / "k.elf"
    # Without WP the loader's tables let all memory be written and executed.
    path.write_bytes(elf_file([Part(0x10_0000, b"\x90" * 8 + EXITS)], bits=64))
    nothing = "the mappings let all memory be written and executed: nothing is withheld"
    options = ("--as", "elf64", *AT, "--protect-at", "instructions:1")
    ran = run("protect", "--guest", path, *options)
    assert 2 == ran.status
    assert f"\nverdict: {nothing}; " in ran.out
    assert f"crosswalk: error: {path}: {nothing}" == ran.err.splitlines()[-1]
    assert {nothing: 1} == run("protect", "--guest", path, *options, "--json").document["not_asked"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protect-at", "instructions:1"], "the guest is without paging there"),
        (["--protect-at", "symbol:nothing"], "no such symbol"),
        (["--tables", "ept"], "--guest is protected under NPT alone"),
        (["--until", "exit"], "the point exit needs --exit-port"),
        (["--protect-at", "cr3:99"], "came before cr3:99"),
        (["--kernel", "{sample}"], "name one guest each"),
    ],
    ids=str,
)
def test_bad_usage_is_one_line(run, sample, arguments, message):
    path = sample()
    port = [] if "exit" in arguments else ["--exit-port", hex(EXIT_PORT)]
    given = [each.format(sample=path) for each in arguments]
    ran = run("protect", "--guest", path, "--ram", "16", *port, *given)
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]


def test_who_mapped_a_writable_and_executable_page_is_told(run, sample):
    module = sample(Bug.WRITABLE_MODULE)
    ran = run("protect", "--guest", module, *AT, "--blame", "0x110000", "--json")
    (target,) = ran.document["blame"]
    leaf = target["walks"][0]["entries"][-1]
    assert ("PTE[272]", 4, "0x110023") == tuple(leaf[key] for key in ("name", "count", "entry"))
    stores = leaf["stores"]
    assert ["0x0", "0x8000000000110003", "0x110003"] == [each["after"] for each in stores]
    assert "set_page" == stores[-1]["symbol"].partition("+")[0]
    assert ["load_module", "main"] == [
        each.partition("+")[0] for each in stores[-1]["return_addresses"]
    ]
