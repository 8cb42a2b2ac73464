import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, Cs

from crosswalk.emu.probe.routines import (
    CODE,
    DONE,
    ENTER_USER,
    LANDED,
    LOAD_ROOT,
    SKIP,
    START,
)
from crosswalk.walker.access import AccessType


def instructions(start):
    found = []
    for each in Cs(CS_ARCH_X86, CS_MODE_32).disasm(CODE[32][start:], start):
        found.append(f"{each.mnemonic} {each.op_str}".strip())
        if each.mnemonic in ("hlt", "jmp", "iretd"):
            return found
    raise AssertionError(start)


SHOW = [
    "mov edi, 0x4b4f5f58",
    "mov edx, dword ptr [ecx]",
    "mov esi, dword ptr [ecx + 4]",
    "mov eax, dword ptr [ecx + 8]",
    "mov ecx, dword ptr [ecx + 0xc]",
    f"jmp {DONE:#x}",
]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (START[AccessType.READ], ["mov al, byte ptr [ebx]", *SHOW]),
        (START[AccessType.WRITE], ["mov byte ptr [ebx], al", *SHOW]),
        (START[AccessType.EXECUTE], ["jmp ebx"]),
        (LANDED, [SHOW[0], SHOW[-1]]),
        (DONE, ["hlt"]),
        (ENTER_USER, ["mov ss, ecx", "mov ds, edx", "mov es, edx", "iretd"]),
        (SKIP, [f"jmp {DONE:#x}"]),
        (LOAD_ROOT[0], ["mov cr3, ecx", "hlt"]),
        (LOAD_ROOT[1], ["hlt"]),
    ],
)
def test_each_routine_is_what_its_source_says(start, expected):
    assert expected == instructions(start)


def test_the_routines_fit_a_page():
    assert all(len(code) <= 4096 for code in CODE.values())
