import pytest

from crosswalk.emu.protect.kernel import ept_scenario, ept_subject
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.protection import Protection
from tests.emu.load.linux.distribution_kernels import CLOUD, GENERIC, fetched, fetched_module
from tests.emu.load.linux.kernels import elf_of, talking, vmlinux
from tests.emu.protect.kernel.module_init import SAID, init_with_module
from tests.emu.protect.kernel.tiny_kernel import NAMES, PATCH, READY, RUN_USER, tiny_kernel

AT = ("--ram", "32", "--protect-at", f"console:{READY}")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel(PATCH)))
    return path


def test_a_kernel_is_protected_and_attacked(run, tiny):
    ran = run("protect", "--kernel", tiny, *AT)
    assert 0 == ran.status, ran.out + ran.err
    assert f"at console:{READY}: 8,192 frames, by collective rights 2 read-only" in ran.out
    assert "1 nested faults: text patching" in ran.out
    assert "forge tables: CR3 set to forged tables" in ran.out
    assert "EXITINFO1 0x7 (write), EXITINFO2 0x1002000" in ran.out
    (verdict,) = (line for line in ran.out.splitlines() if line.startswith("verdict"))
    assert verdict.startswith(
        "verdict: protected as the mappings have it; 9 attacks stopped, 4 not, 2 not built; "
        "writing withheld "
        "from 6 of 8,192"
    )
    assert ran.out.endswith(f"--ram 32 --protect-at console:{READY}\n")


def test_the_same_as_a_document(run, tiny):
    ran = run("protect", "--kernel", tiny, *AT, "--json")
    document = ran.document
    assert 0 == ran.status
    # Two attacks want code outside the image, which this kernel has none of.
    assert len(NAMES) - 2 + 9 == document["probes"] == document["agreements"]
    assert {"stopped": 9, "not_stopped": 4, "not_built": 2} == document["attack_counts"]
    assert (0, 0) == (document["divergences"], document["known_divergences"])
    assert {"patched": 1} == document["nested_faults"]
    assert NAMES == [each["name"] for each in document["attacks"]]
    assert 8192 == document["frames"]["frames"]
    assert {0} == set(document["since"].values())
    assert False is document["isolated"]
    # 15 pages of 2 MiB and 512 of 4 KiB, those of the image by two ways, and a user's page.
    assert {} == document["not_asked"] == document["predicted_only"]
    assert {"outside": 0, "reserved": 0} == document["unfollowed"]
    assert (15 + 512 + 34 + 1, []) == (document["mappings"], document["assumed"])


def test_a_point_behind_a_system_call_is_refused(run, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel(RUN_USER)))
    ran = run("protect", "--kernel", path, "--ram", "32", "--protect-at", "syscall:1")
    assert 2 == ran.status
    told = "--protect-at syscall:1 is too late: 1 system call had been made"
    assert f"crosswalk: error: {told}" == ran.err.splitlines()[-1]


def test_without_symbols_protection_begins_with_the_first_process(run, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel(RUN_USER + PATCH)))
    ran = run("protect", "--kernel", path, "--ram", "32")
    assert 0 == ran.status, ran.out + ran.err
    assert "\nat user: 8,192 frames, " in ran.out
    told = "the image has no symbol run_init_process: protection begins with the first process"
    assert told in ran.err.splitlines()


def test_where_nothing_came_to_the_host_nothing_is_proved(run, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_of(tiny_kernel()))
    nothing = "nothing came to the host since protection began: is --protect-at too late?"
    ran = run("protect", "--kernel", path, *AT)
    assert 2 == ran.status
    assert f"\nverdict: {nothing}; " in ran.out
    assert "verdict: protected" not in ran.out
    assert f"crosswalk: error: {path}: {nothing}" == ran.err.splitlines()[-1]
    ran = run("protect", "--kernel", path, *AT, "--json")
    assert (2, {nothing: 1}) == (ran.status, ran.document["not_asked"])


def test_a_kernel_that_is_not_as_protected_fails_the_command(run, tiny, monkeypatch):
    monkeypatch.setattr(Protection, "_close", lambda _: None)
    ran = run("protect", "--kernel", tiny, *AT)
    assert 1 == ran.status
    assert "FAILED the nested tables grant what the rules do" in ran.out
    assert "\nverdict: FAILED;" in ran.out


def test_an_enforcement_that_withholds_nothing_fails_the_command(run, tiny, monkeypatch):
    def nothing(protection):
        counts = enforce(protection)
        protection.nested.grant_all()
        protection.host.flush()
        return counts

    enforce = Protection.enforce
    monkeypatch.setattr(Protection, "enforce", nothing)
    document = run("protect", "--kernel", tiny, *AT, "--json").document
    assert document["divergences"] > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ram", "32"], "--ram needs --kernel or --guest"),
        (["--protect-at", "idle"], "--protect-at needs --kernel or --guest"),
        (["--kernel", "{tiny}", "--protect-at", "idle"], "before the kernel is idle"),
        (["--kernel", "{tiny}", "--protect-at", "exit"], "before the kernel is idle"),
        (["--kernel", "{tiny}", "--protect-at", "nowhere"], "is no point of a boot"),
        (
            ["--kernel", "{tiny}", "--ram", "32", "--protect-at", "console:never"],
            "idle came before",
        ),
        (["--kernel", "{tiny}", "--ram", "4"], "--ram: 4 is less than 16"),
        (["--kernel", "{tiny}.none"], "no such file"),
        (["--kernel", "{tiny}", "--format", "json"], "--format needs SOURCE"),
        (["guest:4level", "--kernel", "{tiny}"], "choose one"),
        (
            ["--kernel", "{tiny}", "--tables", "ept", "--protect-at", "cr3:3"],
            "--protect-at cr3:3: under EPT it is console:TEXT",
        ),
        (["--kernel", "{tiny}", "--tables", "ept", "--with", "qemu"], "EPT is run by bochs"),
        (
            ["--kernel", "{tiny}", "--tables", "ept-mbec", "--with", "bochs:{tiny}.none"],
            "scripts/judges",
        ),
        (["--kernel", "{tiny}", "--tables", "npt", "--with", "bochs"], "--with is for --tables"),
    ],
    ids=str,
)
def test_bad_usage_is_one_line(run, tiny, arguments, message):
    ran = run("protect", *(each.format(tiny=tiny) for each in arguments))
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]


@pytest.mark.parametrize("tables", ["ept", "ept-mbec"])
def test_a_kernel_of_32_bits_is_refused_under_ept_in_one_line(run, tmp_path, tables):
    path = tmp_path / "vmlinuz"
    path.write_bytes(vmlinux("nop", machine=3))
    ran = run("protect", "--kernel", path, "--tables", tables)
    assert (2, "", 1) == (ran.status, ran.out, ran.err.count("\n"))
    assert "a Linux kernel of 32 bits is protected under NPT alone (--tables npt)" in ran.err


def test_a_kernel_that_protects_nothing_cannot_be_sealed(run, tmp_path):
    path = tmp_path / "vmlinuz"
    path.write_bytes(vmlinux(talking("hang: jmp hang")))
    ran = run("protect", "--kernel", path, "--ram", "32", "--timeout", "1")
    assert 2 == ran.status
    assert ran.err.endswith("the guest didn't reach idle: the time is up\n")


def test_under_ept_a_kernel_runs_in_bochs(run, tiny, bochs3, monkeypatch):
    monkeypatch.setattr(ept_subject, "attacks_for", lambda *_: [])
    monkeypatch.setattr(ept_scenario, "IDLE_TICKS", 20)
    where = ("--tables", "ept-mbec", "--with", f"bochs:{bochs3}")
    ran = run("protect", "--kernel", tiny, *AT, *where, "--json")
    document = ran.document
    assert 0 == ran.status
    assert (8, 8, 0) == tuple(document[name] for name in ("probes", "agreements", "divergences"))
    assert "ept-mbec" == document["tables"]
    assert document["machine"].startswith("Bochs 3")
    assert {"patched": 1} == document["nested_faults"]
    assert {"EPT_VIOLATION": 1, "write of CR3": 1} == document["exits"]
    assert None is document["refused"]
    # All but its text and the user's page; under AMD's tables it is two.
    assert 8192 - 5 == document["frames"]["no_execute"]
    assert (15 + 512 + 34 + 1, {}) == (document["mappings"], document["not_asked"])


@pytest.mark.slow
def test_under_ept_what_is_not_as_it_should_be_fails_the_command(run, tiny, bochs3, monkeypatch):
    monkeypatch.setattr(ept_subject, "attacks_for", lambda *_: [])
    monkeypatch.setattr(ept_scenario, "IDLE_TICKS", 20)
    monkeypatch.setattr(Enforcement, "_close", lambda _: None)
    ran = run("protect", "--kernel", tiny, *AT, "--tables", "ept", "--with", f"bochs:{bochs3}")
    assert 1 == ran.status
    assert "FAILED the nested tables grant what the rules do, and no more" in ran.out
    assert "\nverdict: FAILED; " in ran.out


@pytest.mark.slow
@pytest.mark.parametrize(("tables", "stopped"), [("ept", 11), ("ept-mbec", 13)])
def test_the_distributions_kernel_is_protected_under_ept(run, bochs3, tables, stopped):
    where = ("--tables", tables, "--with", f"bochs:{bochs3}", "--timeout", "3000")
    ran = run("protect", "--kernel", fetched(CLOUD), "--ram", "128", *where, "--json")
    document = ran.document
    assert 0 == ran.status
    faults = document["nested_faults"].pop("patched")
    assert {"loaded": 1, "process_code": 1} == document["nested_faults"]
    assert faults + 2 == document["exits"]["EPT_VIOLATION"] > 100
    frames = document["frames"]
    assert frames["no_execute"] == frames["frames"] - frames["read_execute"]
    assert frames["no_write"] == frames["read_only"] + frames["read_execute"]
    ends = [each["stopped_by"] for each in document["attacks"]]
    assert (17, stopped) == (len(ends), len(ends) - ends.count(None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "arguments"), [(CLOUD, "nopti"), (CLOUD, "pti=on"), (GENERIC, "")]
)
def test_the_distributions_kernels_are_protected(run, package, arguments):
    ran = run("protect", "--kernel", fetched(package), "--append", arguments, "--json")
    document = ran.document
    assert 0 == ran.status
    # Turned on and off, a switch takes as many patches each time. One filter is compiled, the
    # other becomes read-only.
    faults = document["nested_faults"].pop("patched")
    assert faults + 1 == document["exits"]["NPF"] == document["exits"]["CR3_WRITE"] > 100
    assert {"loaded": 1} == document["nested_faults"]
    assert 0 == faults % 2
    assert {
        "loaded_frames_patched": 1,
        "granted": 0,
        "withdrawn": 1,
        "withdrawals": 1,
        "stale": 0,
        "sealed": 1,
        "freed": 0,
        "late": 0,
        "unsealed": 0,
    } == document["since"]
    assert "symbol:run_init_process" == document["protect_at"]
    # The JIT's pack of 2 MiB, and two pages of the real-mode trampoline.
    assert 514 == document["sealed_outside_at_first"]
    assert document["isolated"] is (arguments == "pti=on")
    assert {"cr0": ["PE", "WP", "PG"], "cr4": ["PAE", "SMEP", "SMAP"]} == {
        name: document["pinned"][name] for name in ("cr0", "cr4")
    }
    frames = document["frames"]
    assert 0 == frames["all_three"]
    assert frames["no_write"] == frames["read_only"] + frames["read_execute"]
    assert frames["no_write"] > frames["sealed"] > 5000
    stopped = [each["stopped_by"] for each in document["attacks"]]
    assert 5 == stopped.count(None)


@pytest.mark.slow
def test_a_module_is_sealed_while_it_is_loaded(run, tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(init_with_module("crc7", fetched_module(CLOUD, "crc7")))
    ran = run(
        "protect",
        "--kernel",
        fetched(CLOUD),
        "--ram",
        "128",
        "--initrd",
        initrd,
        "--console",
        "--json",
    )
    document = ran.document
    assert 0 == ran.status, ran.err
    assert [*SAID, *SAID] == [line for line in ran.err.splitlines() if line in SAID]
    since = document["since"]
    # Its text alone, or its read-only data too, each time; what is freed is seen by its next store.
    assert since["sealed"] >= 2
    assert since["freed"] >= 1
    assert (0, 0, 0) == (since["late"], since["unsealed"], since["stale"])
    stops = {each["name"]: each["stopped_by"] for each in document["attacks"]}
    assert "NPF" == stops["loaded code"]


@pytest.mark.slow
def test_too_early_a_moment_is_told(run):
    point = "console:Freeing unused kernel image (text/rodata gap) memory"
    ran = run("protect", "--kernel", fetched(CLOUD), "--protect-at", point)
    assert 1 == ran.status
    assert (
        "FAILED each of 1 nested faults a change that the rules follow; stopped by NPF" in ran.out
    )
