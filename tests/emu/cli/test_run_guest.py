"""`run --guest`: kernels that aren't Linux."""

import numpy as np
import pytest

from crosswalk.emu.cli import check_pieces as pieces
from crosswalk.emu.cli.guest_options import MODELS
from crosswalk.emu.cpu import engine
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.formats import load_case
from tests.emu.check.planting import without_code
from tests.emu.cli.running import refused
from tests.emu.load.elf_files import BASE, Part, code, elf_file
from tests.emu.load.failing_guest import (
    AFTER_CALL,
    PROTECTED,
    SELECTOR,
    STOP,
    UNDEFINED,
    failing_guest,
)
from tests.emu.load.small_guests import multiboot_header, with_header

TABLES = 0x10_0000

# Two large pages in PAE paging, or one of 4 MiB in 32-bit paging: each mapped to itself.
PAE = f"""
    mov edi, {TABLES}
    mov dword ptr [edi], {TABLES + 0x1001}
    mov dword ptr [edi + 0x1000], 0x83
    mov dword ptr [edi + 0x1008], 0x200083
    mov eax, 0x20
    mov cr4, eax
"""
LEGACY = f"""
    mov edi, {TABLES}
    mov dword ptr [edi], 0x83
    mov eax, 0x10
    mov cr4, eax
"""
PAGING = """
    mov cr3, edi
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""
EXIT = """
    mov eax, {code}
    out 0xf4, eax
    cli
    hlt
"""


def exiting(number=0, before=""):
    return with_header(multiboot_header(), before + EXIT.format(code=number))


@pytest.fixture
def guest(tmp_path):
    def write(data, name="tiny.elf"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


PORT = ("--exit-port", "0xf4", "--ram", "16")


@pytest.mark.parametrize(
    ("tables", "mode", "levels"), [(PAE, "PAE", 3), (LEGACY, "32-bit", 2)], ids=["PAE", "32-bit"]
)
def test_a_guest_is_checked_where_it_exits(run, guest, tables, mode, levels):
    path = guest(exiting(0, tables + PAGING))
    ran = run("run", "--guest", path, *PORT)
    assert 0 == ran.status
    assert f"{path}: multiboot, entry 0x200010, 16 MiB\n" in ran.err
    assert f"at exit: {mode} paging, CR3 {TABLES:#x}" in ran.err
    assert "the guest exited with 0\nverdict: agreement\n" in ran.out
    document = run("run", "--guest", path, *PORT, "--json").document
    assert {"format": "multiboot", "entry": "0x200010"} == document["guest"]
    assert (0, "exit", levels) == (
        document["guest_exit"],
        document["points"][0]["point"],
        document["points"][0]["levels"],
    )
    assert document["probes"] == document["agreements"] > 20


@pytest.mark.parametrize("number", [1, 3])
def test_a_guest_that_fails_makes_the_command_fail(run, guest, number):
    path = guest(exiting(number, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT)
    assert 1 == ran.status
    assert f"verdict: agreement; the guest exited with {number}\n" in ran.out
    assert number == run("run", "--guest", path, *PORT, "--json").document["guest_exit"]


def test_a_point_without_paging_is_nothing_to_check(run, guest):
    ran = run("run", "--guest", guest(exiting()), *PORT)
    assert 2 == ran.status
    assert "verdict: nothing to check: paging is off: CR0 = 0x11 lacks PG or PE\n" in ran.out
    ran = run("run", "--guest", guest(exiting()), *PORT, "--json")
    (point,) = ran.document["points"]
    assert (2, None, 0) == (ran.status, point["levels"], ran.document["probes"])
    assert point["unread"].startswith("paging is off")


def test_a_guest_that_fails_without_paging_fails(run, guest):
    ran = run("run", "--guest", guest(exiting(5)), *PORT)
    assert 1 == ran.status
    assert "; the guest exited with 5\n" in ran.out


def test_a_point_without_paging_among_others_leaves_the_verdict_open(run, guest):
    path = guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--check-at", "instructions:2", "--json")
    assert 2 == ran.status
    assert [None, 3] == [each["levels"] for each in ran.document["points"]]
    assert ran.document["agreements"] > 20


def test_a_divergence_at_the_guests_exit_is_status_1(run, guest, tmp_path, monkeypatch):
    def predict(memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        outcomes.error_code[:] = without_code(2)(outcomes, accesses)["error_code"]
        return outcomes

    monkeypatch.setattr(pieces, "translate_many", predict)
    path = guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--cases", tmp_path / "cases")
    assert 1 == ran.status
    assert "verdict: FAILED" in ran.out
    case = load_case(tmp_path / "cases" / "exit" / "divergence-0000.json")
    assert case.probes[0].predicted.error_code | 2 == case.probes[0].observed.error_code


def test_expectations_have_the_names_of_the_guests_file(run, guest):
    source = PAE + PAGING + EXIT.format(code=0)
    data = with_header(multiboot_header(), source, symbols={"start": BASE})
    path = guest(data)
    good = run("run", "--guest", path, *PORT, "--expect", ".part0 is rwx")
    assert 0 == good.status, good.out + good.err
    bad = run("run", "--guest", path, *PORT, "--expect", "no wx in .part0")
    assert 1 == bad.status
    assert "no wx in .part0" in bad.out


# Two large pages in 4-level paging, mapped to themselves and to the last 2 GiB, the latter from
# where a kernel of 64 bits is linked to.
LONG = f"""
    mov edi, {TABLES}
    mov dword ptr [edi], {TABLES + 0x1003}
    mov dword ptr [edi + 0xff8], {TABLES + 0x1003}
    mov dword ptr [edi + 0x1000], {TABLES + 0x2003}
    mov dword ptr [edi + 0x1ff0], {TABLES + 0x2003}
    mov dword ptr [edi + 0x2000], 0x83
    mov dword ptr [edi + 0x2008], 0x200083
    mov eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    mov eax, 0x100
    xor edx, edx
    wrmsr
"""


def test_addresses_that_a_file_of_32_bits_cannot_have_are_remarked_once(run, guest, tmp_path):
    data = with_header(multiboot_header(), LONG + PAGING + EXIT.format(code=0), symbols={"x": BASE})
    path = guest(data)
    given = ("run", "--guest", path, *PORT, "--expect", ".part0 is rwx")
    ran = run(*given, "--check-at", "symbol:x", "instructions:40")
    remark = (
        "tiny.elf: an ELF file of 32 bits, and 0xffffff8000000000 is mapped as code: if its "
        "addresses were cut to 32 bits (objcopy -O elf32-i386), --system-map FILE takes those of "
        "the file of 64 bits\n"
    )
    assert 1 == ran.err.count(remark), ran.err
    symbols = tmp_path / "System.map"
    symbols.write_text(f"{0xFFFF_FFFF_8000_0000 + BASE:x} T x\n")
    ran = run(*given[:-1], "x is rwx", "--system-map", symbols)
    assert (0, False) == (ran.status, "an ELF file of 32 bits" in ran.err)


@pytest.mark.parametrize(
    "tables", [PAE, LONG.replace("edi + 0x1ff0", "edi + 0x1000").replace("edi + 0xff8", "edi")]
)
def test_a_file_of_32_bits_is_no_remark_where_all_code_is_below_4_gib(run, guest, tables):
    data = with_header(multiboot_header(), tables + PAGING + EXIT.format(code=0))
    ran = run("run", "--guest", guest(data), *PORT, "--expect", ".part0 is rwx")
    assert (0, False) == (ran.status, "an ELF file of 32 bits" in ran.err), ran.err


@pytest.mark.parametrize("others", [0, 2])
def test_frames_that_could_be_roots_and_are_left_out_are_said(run, guest, others):
    # Frames with an entry of a large page look like page directories of 32-bit paging.
    alike = "".join(
        f"mov dword ptr [edi + {0x1000 * (1 + each)}], {0x40_0083 + 0x40_0000 * each}\n"
        for each in range(others)
    )
    path = guest(exiting(0, LEGACY + alike + PAGING))
    ran = run(
        "run",
        "--guest",
        path,
        *PORT,
        "--expect",
        "frames of 0x200000-0x201000 never writable by user",
    )
    said = f"exit: {others} frames could be page directories or page tables"
    assert (others > 0) == (said in ran.err), ran.err


def test_points_have_the_symbols_of_the_guests_file(run, guest):
    source = "mov cr3, eax\nnop\n" + EXIT.format(code=0)
    data = with_header(multiboot_header(), source, symbols={"here": BASE + 0x13})
    path = guest(data)
    ran = run("run", "--guest", path, *PORT, "--check-at", "symbol:here", "cr3:1", "--json")
    assert ["cr3:1", "symbol:here", "exit"] == [each["point"] for each in ran.document["points"]]


@pytest.mark.parametrize("name", ["core", "case.json"])
def test_what_was_saved_is_checked_with_the_same_result(run, guest, tmp_path, name):
    saved = tmp_path / name
    path = guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--save", saved, "--json")
    again = run("check", saved, "--json").document
    assert ran.document["probes"] == again["probes"] == again["agreements"]


def test_a_guest_that_never_exits_is_said_to_have_ended_otherwise(run, guest):
    data = with_header(multiboot_header(), "mov dx, 0x1234\nin al, dx\ncli\nhlt")
    ran = run("run", "--guest", guest(data), *PORT)
    assert "the guest didn't reach exit: halted for good" in refused(ran)
    assert "port 0x1234, 1 byte, read once" in ran.err


def test_what_nobody_answered_is_in_the_document_and_said_of_a_guest_that_failed(run, guest):
    data = exiting(1, PAE + PAGING + "mov dx, 0x1234\nin al, dx\n")
    ran = run("run", "--guest", guest(data), *PORT, "--json")
    (asked,) = ran.document["unanswered"]
    assert ("port", "0x1234", "read", 1) == tuple(
        asked[name] for name in ("target", "address", "access", "count")
    )
    assert "port 0x1234, 1 byte, read once" in ran.err


def test_what_nobody_answered_is_a_line_where_the_guest_succeeds(run, guest):
    asking = "mov dx, 0x1234\nin al, dx\nin al, dx\nin ax, dx\n"
    ran = run("run", "--guest", guest(exiting(0, PAE + PAGING + asking)), *PORT)
    assert 0 == ran.status
    line = "asked of hardware that isn't there: 1 port; 3 times in all"
    assert f"the guest exited with 0\n{line}\nverdict: agreement\n" in ran.out
    assert "hardware" not in run("run", "--guest", guest(exiting(0, PAE + PAGING)), *PORT).out


def test_a_guest_that_exits_with_another_code_than_0_leaves_a_state_as_one_that_fails(run, guest):
    said = "mov dx, 0x3f8\nmov al, 0x21\nout dx, al\nmov dword ptr [0xb8000], 0x07690748\n"
    path = guest(exiting(3, PAE + PAGING + said))
    ran = run("run", "--guest", path, *PORT)
    assert 1 == ran.status
    assert "console, last lines of 1:\n  !\ntext display, 80 by 25 characters:\n  Hi\n" in ran.err
    assert "no exceptions\nregisters when it ended (the guest exited):\n" in ran.err
    document = run("run", "--guest", path, *PORT, "--json").document
    failure = document["failure"]
    assert ("exited", "the guest exited with 3", []) == tuple(
        failure[name] for name in ("kind", "message", "not_reached")
    )
    assert ({"lines": 1, "last": ["!"]}, ["Hi"]) == (failure["console"], failure["screen"])
    assert (3, "exit") == (document["guest_exit"], document["points"][0]["point"])
    assert "failure" not in run("run", "--guest", guest(exiting()), *PORT, "--json").document


def test_a_guest_that_fails_leaves_a_document_with_the_failure(run, guest):
    path = guest(failing_guest())
    ran = run("run", "--guest", path, "--ram", "16", "--check-at", "user", "--json")
    assert 2 == ran.status
    message = "the guest didn't reach idle: halted for good: no interrupt can wake the CPU"
    assert f"crosswalk: error: {message}\n" in ran.err
    document, failure = ran.document, ran.document["failure"]
    assert (0, [], message) == (document["probes"], document["points"], document["verdict"])
    assert ("halted", message, ["user", "idle"]) == tuple(
        failure[name] for name in ("kind", "message", "not_reached")
    )
    assert (hex(STOP + 2), "stop+0x2", 64) == tuple(
        failure[name] for name in ("rip", "symbol", "bits")
    )
    assert [{"address": hex(AFTER_CALL), "symbol": "start+0x7f"}] == failure["return_addresses"]
    assert ("0x1238", "0x0") == (failure["registers"]["rax"], failure["registers"]["cpl"])
    invalid = {"kind": "exception", "vector": 6, "name": "#UD", "cpl": 0}
    protected = {"kind": "exception", "vector": 13, "name": "#GP", "cpl": 0}
    assert {
        "count": 2,
        "last": [
            {**invalid, "rip": hex(UNDEFINED), "symbol": "work"},
            {
                **protected,
                "rip": hex(PROTECTED),
                "symbol": "work+0x20",
                "error_code": hex(SELECTOR),
            },
        ],
    } == failure["exceptions"]
    assert ({"lines": 0, "last": []}, ["", "Hi"]) == (failure["console"], failure["screen"])
    (asked,) = document["unanswered"]
    assert ("port", "0x1234", "work+0x10") == tuple(
        asked[name] for name in ("target", "address", "symbol")
    )
    assert document["reproduce"].endswith("--check-at user --json")


def test_what_was_found_before_a_failure_is_in_its_document(run, guest):
    path = guest(with_header(multiboot_header(), PAE + PAGING + "mov cr3, edi\ncli\nhlt"))
    options = ("run", "--guest", path, "--ram", "16", "--check-at", "cr3:2")
    ran = run(*options, "--json")
    assert 2 == ran.status
    (point,) = ran.document["points"]
    assert ("cr3:2", ["idle"]) == (point["point"], ran.document["failure"]["not_reached"])
    assert 0 < ran.document["probes"] == ran.document["agreements"] == point["probes"]
    broken = run(*options, "--expect", "no wx", "--json")
    assert 1 == broken.status
    assert broken.document["verdict"].endswith(
        "1 of 1 expectation broken; the guest didn't reach idle: halted for good: no interrupt can "
        "wake the CPU"
    )
    assert "crosswalk: error" not in broken.err
    ran = run(*options, "--expect", "no wx")
    assert 1 == ran.status
    assert f"verdict: {broken.document['verdict']}\nreproduce: " in ran.out


def test_points_that_the_end_came_before_are_a_failure_of_a_kind_of_its_own(run, guest):
    path = guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--check-at", "cr3:2", "--json")
    assert 2 == ran.status
    failure = ran.document["failure"]
    assert ("missed", "exit came before cr3:2", ["cr3:2"]) == tuple(
        failure[name] for name in ("kind", "message", "not_reached")
    )
    assert (0, ["exit"]) == (
        ran.document["guest_exit"],
        [each["point"] for each in ran.document["points"]],
    )


def test_a_guest_that_exits_before_its_last_point_did_not_get_there(run, guest):
    ran = run("run", "--guest", guest(exiting(3)), *PORT, "--until", "console:never", "--json")
    assert 2 == ran.status
    assert ("exited", ["console:never"]) == tuple(
        ran.document["failure"][name] for name in ("kind", "not_reached")
    )
    assert "the guest didn't reach console:never: the guest exited (with 3)" in ran.err


def test_symbols_of_a_system_map_name_what_a_failure_shows(run, guest, tmp_path):
    symbols = guest(f"{STOP:016x} T named_here\n".encode(), "System.map")
    ran = run(
        *("run", "--guest", guest(failing_guest()), "--ram", "16"),
        *("--system-map", symbols, "--json"),
    )
    assert "named_here+0x2" == ran.document["failure"]["symbol"]


def test_modules_and_arguments_reach_the_guest(run, guest, tmp_path):
    # The first byte of the first module's content, and of its text's last word.
    source = """
        mov esi, [ebx + 24]
        mov eax, [esi]
        mov al, [eax]
        mov dx, 0x3f8
        out dx, al
        mov eax, [esi + 8]
        mov al, [eax + 4]
        out dx, al
        mov eax, [ebx + 16]
        mov al, [eax + 9]
        out dx, al
        cli
        hlt
    """
    path = guest(with_header(multiboot_header(), source))
    module = guest(b"X...", "mod")
    ran = run(
        *("run", "--guest", path, "--ram", "16", "--module", f"{module},Yes"),
        *("--append", "Zero", "--until", "console:XYZ"),
    )
    assert 2 == ran.status
    assert "console:XYZ: " in ran.out


def test_raw_code_is_run_in_real_mode(run, guest):
    data = code("mov dx, 0x3f8\nmov al, 0x2e\nout dx, al\ncli\nhlt", bits=16, address=0x7C00)
    ran = run(
        *("run", "--guest", guest(data), "--as", "raw@0x7c00:16", "--ram", "16"),
        *("--until", "console:."),
    )
    assert "nothing to check: paging is off" in ran.out


@pytest.mark.parametrize(
    ("bits", "state"), [(16, ""), (32, ""), (64, "4-level paging, ")], ids=["16", "32", "64"]
)
def test_paging_is_named_of_raw_code_that_is_entered_with_it(run, guest, bits, state):
    path = guest(code("mov al, 0\nout 0xf4, al", bits=bits, address=0x7C00))
    entered = ("run", "--guest", path, "--as", f"raw@0x7c00:{bits}", *PORT)
    assert f"{path}: raw, entry 0x7c00, {state}16 MiB\n" in run(*entered).err
    five = run(*entered, "--paging", "5level")
    if state:
        assert "5-level paging" in five.err
    else:
        assert "--paging 5level: a guest of format raw is entered without paging" in refused(five)


def test_a_bare_elf_file_is_entered_with_the_paging_that_is_asked_for(run, guest):
    data = elf_file([Part(BASE, code(EXIT.format(code=0), bits=64))], bits=64)
    path = guest(data)
    document = run("run", "--guest", path, *PORT, "--paging", "5level", "--json").document
    assert [5] == [each["levels"] for each in document["points"]]
    assert document["probes"] == document["agreements"] > 0


def test_a_model_without_5_levels_says_so(run, guest):
    data = elf_file([Part(BASE, code(EXIT.format(code=0), bits=64))], bits=64)
    ran = run("run", "--guest", guest(data), *PORT, "--paging", "5level", "--model", "epyc")
    assert "--model epyc has no 5-level paging" in refused(ran)


def test_the_options_models_are_those_of_the_engine():
    assert set(MODELS) == set(engine.MODELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--as", "elf64"), "--as needs --guest"),
        (("--module", "x"), "--module needs --guest"),
        (("--exit-port", "0xf4"), "--exit-port needs --kernel or --guest"),
        (("--model", "epyc"), "--model needs --kernel or --guest"),
        (("--guest", "/nowhere"), "/nowhere: no such file or directory"),
        (("--guest", __file__), "test_run_guest.py: no guest of a known format; looked for: "),
        (("--guest", "TINY", "--kernel", "TINY"), "--guest and --kernel name one guest each"),
        (("--guest", "TINY", "--as", "x"), "--as: 'x' is no format of a guest (linux64, "),
        (("--guest", "TINY", "--as", "pvh"), "tiny.elf: no note XEN_ELFNOTE_PHYS32_ENTRY"),
        (("--guest", "TINY", "--module", "/nowhere,x"), "/nowhere: no such file or directory"),
        (("--guest", "TINY", "--initrd", "TINY"), "takes modules and no initial RAM disk"),
        (("--guest", "TINY", "--until", "exit"), "the point exit needs --exit-port"),
        (("--guest", "TINY", "--until", "symbol:x"), "has no symbols: --system-map"),
        (("--guest", "TINY", "--exit-port", "0x10000"), "0x10000 is more than 65,535"),
        (
            ("--guest", "TINY", "--exit-port", "0x3f8"),
            "port 0x3f8 can't be that of the guest's exit: the UART has it",
        ),
        (
            ("--guest", "TINY", "--paging", "5level"),
            "--paging 5level: a guest of format multiboot is entered without paging",
        ),
        (("--guest", "TINY", "--tick-every", "0"), "0 is less than 1"),
        (("--guest", "TINY", "--model", "386"), "invalid choice: '386'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, guest, arguments, message):
    path = guest(exiting())
    ran = run("run", *(path if each == "TINY" else each for each in arguments))
    assert message in refused(ran)


def test_a_module_is_not_overwritten(run, guest):
    module = guest(b"module", "mod.json")
    ran = run("run", "--guest", guest(exiting()), "--module", f"{module},x", "--save", module)
    assert "is read, and --save would overwrite it" in refused(ran)
    assert b"module" == module.read_bytes()


def test_a_module_whose_name_has_a_comma_is_found(run, guest):
    module = guest(b"module", "a,b")
    ran = run("run", "--guest", guest(exiting(0, PAE + PAGING)), *PORT, "--module", module)
    assert 0 == ran.status


def test_arguments_of_a_module_may_be_longer_than_any_name_of_a_file(run, guest):
    module, path = guest(b"module", "mod"), guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--module", f"{module},{'x' * 5000}")
    assert 0 == ran.status


def test_two_runs_save_the_same_bytes(run, guest, tmp_path):
    path, cores = guest(exiting(0, PAE + PAGING)), [tmp_path / "one", tmp_path / "two"]
    for core in cores:
        assert 0 == run("run", "--guest", path, *PORT, "--save", core).status
    assert np.array_equal(*(np.fromfile(core, np.uint8) for core in cores))


def test_a_limit_leaves_mappings_unchecked_and_says_so(run, guest):
    path = guest(exiting(0, PAE + PAGING))
    ran = run("run", "--guest", path, *PORT, "--limit", "1")
    assert "on 1 of 2 mappings" in ran.out
    whole = run("run", "--guest", path, *PORT, "--json").document["probes"]
    assert whole > run("run", "--guest", path, *PORT, "--limit", "1", "--json").document["probes"]
