import pytest

from crosswalk.emu.cli import check_pieces as pieces
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.formats import load_case
from tests.emu.check.planting import without_code
from tests.emu.cli.running import refused
from tests.emu.load.linux.distribution_kernels import fetched
from tests.emu.load.linux.kernels import BASE, PAGE, TABLES, TEXT, bzimage, talking, vmlinux
from tests.packing import gzipped

HELLO = "console:tiny kernel"


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(gzipped(vmlinux(talking("hang: jmp hang")))))
    return path


def test_a_kernel_is_checked_where_its_boot_ends(run, tiny):
    ran = run("run", "--kernel", tiny, "--until", HELLO, "--ram", "32")
    assert 0 == ran.status
    assert f"{tiny}: linux64, 6.1.0-tiny, entry 0x1000000, 4-level paging, 32 MiB\n" in ran.err
    assert "16 mappings, 16 of them writable and executable for the supervisor" in ran.out
    assert (
        f"0000000000000000-{0x1FFFFFF:016x} 0000000000000       32 MiB rwx ---  16 pages" in ran.out
    )
    assert ran.out.endswith(f"--until '{HELLO}' --ram 32\n")
    assert "\nverdict: agreement\n" in ran.out


ISOLATED = f"""
    mov rax, [{TABLES}]
    mov edi, 0x1a00000
    mov [rdi], rax
    mov [rdi + 256 * 8], rax
    mov [rdi + 511 * 8], rax
    add edi, {PAGE}
    mov [rdi], rax
    mov [rdi + 511 * 8], rax
    mov cr3, rdi
    lea rdi, [rip + text]
    call say
"""


@pytest.mark.parametrize(
    ("select", "kernel_root"), [("mov rdi, rdi", "0x1a00000"), ("sub rdi, 0x1000", None)]
)
def test_the_users_root_of_page_table_isolation_is_said_to_be_one(
    run, tmp_path, select, kernel_root
):
    path = tmp_path / "vmlinux"
    source = ISOLATED.replace("mov cr3", f"{select}\nmov cr3")
    path.write_bytes(vmlinux(talking(source)))
    until = f"console:{TEXT}\n{TEXT}"
    ran = run("run", "--kernel", path, "--ram", "32", "--until", until)
    said = f"the kernel's root is {kernel_root}, in use inside the kernel\n"
    assert (0, kernel_root is not None) == (ran.status, said in ran.out)
    assert ("page-table isolation" in ran.out) == (kernel_root is not None)
    document = run("run", "--kernel", path, "--ram", "32", "--until", until, "--json").document
    assert kernel_root == document["points"][0].get("kernel_root")


def test_several_points_of_one_boot_are_one_document(run, tiny):
    ran = run(
        *("run", "--kernel", tiny, "--ram", "32", "--json"),
        *("--until", HELLO, "--check-at", "cr3:1", "instructions:40"),
    )
    document = ran.document
    first, second, last = document["points"]
    assert ["instructions:40", "cr3:1", HELLO] == [each["point"] for each in document["points"]]
    assert [2048, 16, 16] == [each["mappings"] for each in document["points"]]
    assert (hex(TABLES), 4, 16, 0) == tuple(
        last[name] for name in ("cr3", "levels", "writable_executable", "divergences")
    )
    assert document["probes"] == sum(each["probes"] for each in (first, second, last)) > 1000
    assert (0, 0) == (ran.status, document["divergences"])


@pytest.mark.parametrize("name", ["core", "case.json"])
def test_what_was_saved_is_checked_with_the_same_result(run, tiny, tmp_path, name):
    saved = tmp_path / name
    ran = run(
        *("run", "--kernel", tiny, "--until", HELLO, "--ram", "32", "--save", saved, "--json")
    )
    again = run("check", saved, "--json").document
    assert ran.document["probes"] == again["probes"] == again["agreements"]
    listed = run("walk", saved, "--json").records
    assert [at << 21 for at in range(16)] == [int(each["va"], 16) for each in listed]
    document = run("info", saved, "--json").document
    assert ([], 40) == (document["assumed"], document["context"]["maxphyaddr"])


def test_a_kernel_that_fails_says_how_and_ends_with_status_2(run, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(talking("ud2", "about to fail")))
    ran = run("run", "--kernel", path, "--ram", "32")
    assert (2, "") == (ran.status, ran.out)
    assert "  about to fail\n" in ran.err
    assert f"exception 6 (#UD) at {BASE:#x}"[:-3] in ran.err
    assert ran.err.splitlines()[-1].startswith(
        "crosswalk: error: the guest didn't reach idle: the CPU shut down (triple fault: 6 (#UD)"
    )


def test_a_kernel_that_hangs_is_ended(run, tiny):
    ran = run("run", "--kernel", tiny, "--ram", "32", "--timeout", "1")
    assert 2 == ran.status
    assert ran.err.endswith("crosswalk: error: the guest didn't reach idle: the time is up\n")


def test_the_console_can_be_watched(run, tiny):
    ran = run(
        *("run", "--kernel", tiny, "--until", HELLO, "--ram", "32", "--console", "--json"),
        *("--check-at", "console:\n"),
    )
    assert 2 == ran.status  # The line isn't over before the last point.
    assert "tiny kernel" in ran.err


def test_a_divergence_at_a_point_is_status_1_and_written_as_a_case(
    run, tiny, tmp_path, monkeypatch
):
    def predict(memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        outcomes.error_code[:] = without_code(2)(outcomes, accesses)["error_code"]
        return outcomes

    monkeypatch.setattr(pieces, "translate_many", predict)
    folder = tmp_path / "cases"
    ran = run("run", "--kernel", tiny, "--until", HELLO, "--ram", "32", "--cases", folder)
    assert 1 == ran.status
    assert "verdict: FAILED" in ran.out
    assert "divergence: write of " in ran.out
    case = load_case(folder / "console-tiny-kernel" / "divergence-0000.json")
    assert case.probes[0].predicted.error_code | 2 == case.probes[0].observed.error_code
    ran = run("run", "--kernel", tiny, "--until", HELLO, "--ram", "32", "--json")
    assert (1, True) == (ran.status, ran.document["divergences"] > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", "idle"), "--until needs --kernel"),
        (("--check-at", "idle"), "--check-at needs --kernel"),
        (("--ram", "64"), "--ram needs --kernel"),
        (("--kernel", "/nowhere"), "/nowhere: no such file or directory"),
        (("--kernel", __file__), "test_run_kernel.py: not a kernel"),
        (("--kernel", "TINY", "--ram", "8"), "--ram: 8 is less than 16"),
        (("--kernel", "TINY", "--ram", "16"), "don't fit"),
        (("--kernel", "TINY", "--until", "x"), "'x' is no point of a boot"),
        (("--kernel", "TINY", "--until", "symbol:x"), "the guest's file has no symbols"),
        (
            ("--kernel", "TINY", "--system-map", __file__),
            "test_run_kernel.py: line 1 is no",
        ),
        (("--kernel", "TINY", "--initrd", "/nowhere"), "/nowhere: no such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, tiny, arguments, message):
    ran = run("run", *(tiny if each == "TINY" else each for each in arguments))
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]


def test_who_looks_for_symbols_as_other_commands_have_them_is_told_the_option(run, tiny):
    error = refused(run("run", "--kernel", tiny, "--symbols", "System.map"))
    assert "unrecognized arguments: --symbols System.map; a guest's symbols are given by" in error
    assert "given by" not in refused(run("run", "--kernel", tiny, "--symbol", "System.map"))


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "broken"), [("bullseye", 0), ("bookworm", 3)])
def test_linux_6_1_with_pae_lets_user_mode_execute_what_it_may_write(run, suite, broken):
    path = fetched("linux-image-686-pae", "--suite", suite, "--arch", "i386")
    ran = run("run", "--kernel", path, "--expect", "no wx", "--json")
    (sentence,) = ran.records[0]["points"][-1]["expectations"]["sentences"]
    rights = [each["rights"]["user"] for each in sentence.get("first", ())]
    assert (int(broken > 0), ["rwx"] * broken) == (ran.status, rights)
