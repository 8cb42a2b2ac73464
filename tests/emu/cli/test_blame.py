"""`--blame`: a planted bug's instruction is named, entry by entry."""

import pytest

from crosswalk.guest.sample import EXIT_PORT, Bug, sample_kernel
from tests.emu.cli.running import refused
from tests.emu.load.elf_files import BASE as ELF_BASE
from tests.emu.load.elf_files import Part, code, elf_file
from tests.emu.load.linux.distribution_kernels import CLOUD, INIT, fetched
from tests.emu.load.linux.kernels import BASE, TABLES, talking, vmlinux
from tests.emu.load.small_guests import SAY_DONE

CULPRIT = BASE + 0x100
LEAF = TABLES + 0x2000 + 11 * 8
VA = 11 << 21
# A function away from the rest makes a page writable that was read-only until then.
BUG = f"""
    jmp begin
    .balign 256
set_writable:
    or dword ptr [{LEAF}], 2
    ret
    .balign 256
begin:
    mov dword ptr [{LEAF}], {VA | 0x81}
    mov cr3, rbx
    call set_writable
    mov cr3, rbx
"""


@pytest.fixture
def buggy(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(f"{BUG}{talking('')}"))
    symbols = tmp_path / "System.map"
    symbols.write_text(
        f"{BASE:016x} T _text\n{CULPRIT:016x} T set_writable\n{BASE + 0x200:x} T begin\n"
    )
    return ("--kernel", path, "--system-map", symbols, "--ram", "32", "--until", "console:\n")


def test_the_function_that_planted_a_bug_is_named(run, buggy):
    ran = run("run", *buggy, "--blame", hex(VA))
    assert 0 == ran.status
    lines = ran.out.splitlines()
    begin = lines.index(f"blame {VA:#x}, by CR3 {TABLES:#x}:")
    leaf = next(at for at, line in enumerate(lines) if f"PDE[11] {LEAF:#x}" in line)
    assert begin < leaf
    assert lines[leaf].endswith("0000000001600083, leaf, 3 stores")
    filled, closed, opened, caller = lines[leaf + 1 : leaf + 5]
    assert f"{VA | 0x83:016x} by _text+" in filled
    assert f"{VA | 0x81:016x} by begin (" in closed
    assert f"{VA | 0x83:016x} by set_writable ({CULPRIT:#x}), CPL 0, CR3 {TABLES:#x}; " in opened
    assert "      return addresses on the stack: begin+0x12" == caller
    assert "verdict: agreement" in ran.out


def test_what_stores_left_out_had_made_is_no_change_without_a_store(run, tmp_path):
    path = tmp_path / "vmlinux"
    again = f"mov ecx, 20\nagain: mov dword ptr [{LEAF}], {VA | 0x83}\nloop again\n"
    path.write_bytes(vmlinux(f"{again}{talking('')}"))
    ran = run("run", "--kernel", path, "--ram", "32", "--until", "console:\n", "--blame", hex(VA))
    (_, leaf) = ran.out.split(f"PDE[11] {LEAF:#x}")
    assert "leaf, 21 stores\n    5 earlier stores left out\n" in leaf
    assert "changed by no store" not in leaf


FRAME = BASE + 0x40_0000
MIDDLE = FRAME + 0x1000
COPYING = f"""
    jmp begin
    .balign 256
clear:
    xor eax, eax
    mov ecx, 512
    rep stosq
    ret
    .balign 256
copy:
    mov ecx, 512
    rep movsq
    ret
    .balign 256
begin:
    mov edi, {FRAME}
    mov qword ptr [rdi], 0x1111
    mov qword ptr [rdi], 0x2222
    call clear
    mov esi, {TABLES}
    mov edi, {MIDDLE}
    call copy
    mov esi, {MIDDLE}
    mov edi, {FRAME}
    call copy
    mov eax, {FRAME}
    mov cr3, rax
"""


@pytest.fixture
def copying(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(f"{COPYING}{talking('')}"))
    symbols = tmp_path / "System.map"
    names = {"_text": 0, "clear": 0x100, "copy": 0x200, "begin": 0x300}
    symbols.write_text("".join(f"{BASE + at:016x} T {name}\n" for name, at in names.items()))
    return ("--kernel", path, "--system-map", symbols, "--ram", "32", "--until", "console:\n")


def test_a_copied_entry_is_followed_to_the_store_that_made_it(run, copying):
    ran = run("run", *copying, "--blame", hex(VA))
    lines = ran.out.splitlines()
    at = lines.index(next(line for line in lines if f"PML4E[0] {FRAME:#x}: " in line))
    earlier, cleared, _, copied, _, middle, _, first = lines[at + 1 : at + 9]
    assert earlier.startswith(
        "    2 stores to what the frame held before it was cleared to be a table, the last at "
    )
    assert "    0000000000000000 by clear+" in cleared
    assert " by copy+" in copied
    assert middle.startswith(f"      copied from PA {MIDDLE:#x}, put there by copy+")
    assert first.startswith(f"      copied from PA {TABLES:#x}, put there by _text+")
    # Below the root nothing was copied, nor had another use.
    rest = "\n".join(lines[at + 9 :])
    assert (False, False) == ("copied from" in rest, "what the frame held" in rest)
    (target,) = run("run", *copying, "--blame", hex(VA), "--json").records[0]["blame"]
    stores = target["walks"][0]["entries"][0]["stores"]
    assert [True, True, False, False] == [each["before_table"] for each in stores]
    assert [hex(MIDDLE), hex(TABLES)] == [each["pa"] for each in stores[-1]["copied"]]
    origins = [each["store"]["symbol"].partition("+")[0] for each in stores[-1]["copied"]]
    assert ["copy", "_text"] == origins


def test_what_the_loader_made_is_said_to_be_left_by_it(run, tmp_path):
    path = tmp_path / "tiny.elf"
    source = f"""
        mov rsi, cr3
        mov edi, {ELF_BASE + 0x10000}
        mov ecx, 512
        rep movsq
        mov eax, {ELF_BASE + 0x10000}
        mov cr3, rax
        {SAY_DONE}
    """
    path.write_bytes(elf_file([Part(ELF_BASE, code(source, bits=64), size=0x20000)], bits=64))
    ran = run("run", "--guest", path, "--ram", "16", "--until", "console:.", "--blame", "0x200000")
    (line,) = [each for each in ran.out.splitlines() if "copied from" in each]
    assert line.endswith(", where the loader left it")


def test_json_has_each_store(run, buggy):
    ran = run("run", *buggy, "--blame", hex(VA), "--json")
    (target,) = ran.records[0]["blame"]
    assert (hex(VA), hex(TABLES), 0) == (target["target"], target["cr3"], target["more_mappings"])
    (walk,) = target["walks"]
    assert ["PML4E[0]", "PDPTE[0]", "PDE[11]"] == [each["name"] for each in walk["entries"]]
    leaf = walk["entries"][-1]
    assert (3, "0x0", hex(VA | 0x83), hex(LEAF), "leaf") == tuple(
        leaf[key] for key in ("count", "loader", "last", "pa", "kind")
    )
    assert [("_text+0x21", []), ("begin", []), ("set_writable", ["begin+0x12"])] == [
        (each["symbol"], each["return_addresses"]) for each in leaf["stores"]
    ]
    assert [hex(VA | 0x81), hex(VA | 0x83)] == [each["after"] for each in leaf["stores"][1:]]


def test_each_mapping_of_a_frame_is_walked(run, buggy):
    ran = run("run", *buggy, "--blame", f"pa:{VA + 0x5123:#x}")
    assert f"blame pa:{VA + 0x5123:#x}, by CR3" in ran.out
    assert f"  mapped at {VA + 0x5000:#x}:" in ran.out
    assert "by set_writable" in ran.out


def test_entries_of_two_walks_are_told_once(run, buggy):
    ran = run("run", *buggy, "--blame", hex(VA), hex(VA + 0x1000), "0xffff800000000000")
    assert 1 == ran.out.count("by set_writable")
    assert 1 == ran.out.count(f"PDE[11] {LEAF:#x}: 0000000001600083, leaf, 3 stores, as above")
    assert "not present, 0 stores\n    zero from the start, never written" in ran.out


def test_an_address_that_is_not_canonical_has_no_entries(run, buggy):
    ran = run("run", *buggy, "--blame", "0x8000000000000000")
    assert "not canonical: no entries" in ran.out


def test_a_frame_that_nothing_maps_is_said_to_be_so(run, buggy):
    ran = run("run", *buggy, "--blame", "pa:0x40000000")
    assert "nothing maps this frame" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--blame", "x"), "'x' is not a number"),
        (("--blame", "pa:"), "an address, or pa: and one"),
        (("--blame", "pa:-1"), "-1 is negative"),
    ],
)
def test_what_is_no_address_is_refused(run, buggy, arguments, message):
    assert message in refused(run("run", *buggy, *arguments))


def test_blame_is_for_a_guest_that_is_booted(run):
    assert "--blame" in refused(run("run", "--blame", "0x1000"))


@pytest.mark.parametrize(
    ("bug", "va", "entry", "callers"),
    [
        (Bug.WRITABLE_MODULE, 0x11_0000, "0000000000110003", "load_module"),
        (None, 0x11_0000, "0000000000110001", "load_module"),
        (Bug.USER_RODATA, 0x10_2000, "8000000000102005", "start"),
        (Bug.STACK_GUARD, 0x10_D000, "800000000010d003", "start"),
    ],
)
def test_who_planted_the_bugs_of_the_sample_kernel_is_told(run, tmp_path, bug, va, entry, callers):
    path = tmp_path / "sample.elf"
    path.write_bytes(sample_kernel(bug))
    ran = run(
        "run", "--guest", path, "--ram", "16", "--exit-port", hex(EXIT_PORT), "--blame", hex(va)
    )
    assert 0 == ran.status
    leaf = ran.out.partition("  PTE[")[2]
    lines = leaf.splitlines()
    (at,) = [row for row, line in enumerate(lines) if line.startswith(f"    {entry} by ")]
    assert f" {callers}+0x" in lines[at + 1]


def test_the_stack_guards_page_is_mapped_by_nobody_without_the_bug(run, tmp_path):
    path = tmp_path / "sample.elf"
    path.write_bytes(sample_kernel())
    ran = run(
        *("run", "--guest", path, "--ram", "16", "--exit-port", hex(EXIT_PORT)),
        *("--blame", "0x10d000"),
    )
    (line,) = [line for line in ran.out.splitlines() if "  PTE[" in line]
    assert line.endswith("0000000000000000, not present, 2 stores")


@pytest.mark.parametrize("bug", [Bug.WRITABLE_MODULE, None])
def test_a_writable_and_executable_page_leads_to_the_question_who_made_it(run, tmp_path, bug):
    path = tmp_path / "sample.elf"
    path.write_bytes(sample_kernel(bug))
    ran = run("run", "--guest", path, "--ram", "16", "--exit-port", hex(EXIT_PORT))
    advice = "who made that writable and executable: --blame 0x110000\n"
    assert (bug is not None) == (advice in ran.err)


@pytest.mark.slow
def test_what_write_protects_the_kernels_text_is_named(run):
    ran = run(
        *("run", "--kernel", fetched(CLOUD), "--append", "nopti", "--until", INIT, "--json"),
        *("--blame", "0xffffffff81000000"),
    )
    assert 0 == ran.status
    (target,) = ran.records[0]["blame"]
    leaf = target["walks"][0]["entries"][-1]
    # Made by the image's own tables; read-only by the last store.
    first, last = leaf["stores"][0], leaf["stores"][-1]
    assert "pa:__startup_64" == first["symbol"].partition("+")[0]
    assert (2, 0) == (int(last["before"], 16) & 2, int(last["after"], 16) & 2)
    callers = {each.partition("+")[0] for each in last["return_addresses"]}
    assert {"set_memory_ro", "mark_rodata_ro", "kernel_init"} <= callers
    assert "Write protecting the kernel read-only data" in last["line"]
