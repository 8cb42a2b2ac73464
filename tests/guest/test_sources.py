"""What was assembled, read back by a disassembler that isn't the assembler's kin."""

import capstone
import pytest

from crosswalk.guest.builder import build_image

MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}

CR4_BOOT = {4: "0x20", 5: "0x1020"}
DIRECT_MAP = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}


def disassembled(levels, source):
    """Return the instructions of a source as text, up to the first byte that is none."""
    (code,) = (code for code in build_image(levels).code if code.source == source)
    engine = capstone.Cs(capstone.CS_ARCH_X86, MODES[code.bits])
    return [f"{i.mnemonic} {i.op_str}".rstrip() for i in engine.disasm(code.data, code.va)]


def holds(instructions, *wanted):
    """Return whether the wanted instructions occur in this order, others between them or not."""
    rest = iter(instructions)
    return all(instruction in rest for instruction in wanted)


levels = pytest.mark.parametrize("levels", [4, 5])


@levels
def test_real_mode_loads_the_gdt_and_enters_protected_mode(levels):
    assert holds(
        disassembled(levels, "real.s"),
        "cli",
        "lgdt [0x8040]",
        "mov eax, cr0",
        "or eax, 1",
        "mov cr0, eax",
        "ljmp 8:0x8200",
    )


@levels
def test_the_gdt_is_where_lgdt_looks(levels):
    (code,) = (code for code in build_image(levels).code if code.source == "real.s")
    limit, base = code.data[0x40:0x42], int.from_bytes(code.data[0x42:0x46], "little")
    assert b"\x1f\0" == limit
    gdt = code.data[base - code.va :][:32]
    assert [
        "0000000000000000",
        "ffff0000009bcf00",
        "ffff0000009baf00",
        "ffff00000093cf00",
    ] == [gdt[at : at + 8].hex() for at in range(0, 32, 8)]


@levels
def test_protected_mode_turns_paging_on_in_the_manuals_order(levels):
    assert holds(
        disassembled(levels, "protected.s"),
        "mov esp, 0x6000",
        "mov eax, cr4",
        f"or eax, {CR4_BOOT[levels]}",
        "mov cr4, eax",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x900",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80010000",
        "mov cr0, eax",
        "ljmp 0x10:0x8800",
    )


@levels
def test_long_mode_goes_to_the_higher_half(levels):
    assert holds(
        disassembled(levels, "long.s"),
        "movabs rsp, 0xffffffff8010f000",
        "movabs rax, 0xffffffff80100000",
        "jmp rax",
    )


@levels
def test_the_kernel_protects_itself_and_uses_its_world(levels):
    direct = DIRECT_MAP[levels]
    assert holds(
        disassembled(levels, "kernel.s"),
        f"movabs rbx, {direct + 0x2000:#x}",
        "or rax, 0x700080",
        "mov cr4, rax",
        "mov eax, 0xc0000024",
        "wrpkru",
        "movabs rsi, 0xffffffff80105000",
        "movabs rdi, 0xffffffff80108000",
        f"movabs rdx, {direct + 0x108000:#x}",
        "push rax",
        "stac",
        "mov qword ptr [r8], rax",
        "clac",
        "hlt",
    )


@levels
def test_the_kernel_loads_descriptors_of_its_own_and_goes_to_user_code(levels):
    assert holds(
        disassembled(levels, "traps.s"),
        "lgdt [rsp]",
        "lidt [rsp]",
        "mov eax, 0x30",
        "ltr ax",
        "movabs rsi, 0xffffffff80106000",
        "mov al, byte ptr [r8]",
        "mov byte ptr [r8], al",
        "jmp r8",
        "push 0x23",
        f"movabs rax, {(1 << (11 + 9 * levels)) - 0x1000:#x}",
        "push 2",
        "push 0x2b",
        "iretq",
        "mov rax, cr2",
        "iretq",
    )


@levels
def test_user_code_makes_one_access_and_leaves(levels):
    assert [
        "lea r15, [rip + 0x15]",
        "cmp r9, 1",
        "je 0x400014",
        "ja 0x400019",
        "mov al, byte ptr [r8]",
        "jmp 0x40001c",
        "mov byte ptr [r8], al",
        "jmp 0x40001c",
        "jmp r8",
        "int 0x20",
    ] == disassembled(levels, "user.s")


@levels
@pytest.mark.parametrize("source", ["protected.s", "long.s", "kernel.s", "traps.s", "user.s"])
def test_all_of_the_code_is_code(levels, source):
    (code,) = (code for code in build_image(levels).code if code.source == source)
    engine = capstone.Cs(capstone.CS_ARCH_X86, MODES[code.bits])
    assert len(code.data) == sum(i.size for i in engine.disasm(code.data, code.va))


def test_order_matters_to_the_check():
    assert not holds(["hlt", "cli"], "cli", "hlt")
