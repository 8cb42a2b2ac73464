"""A guest of 64-bit code that fails in a function of its own, with symbols or without.

It takes an invalid instruction that its handler skips, then a general protection fault whose
handler halts for good, reads a port that isn't there, and has written to the text display.
"""

from tests.emu.load.elf_files import BASE, Part, code, elf_file

WORK, SKIP, STOP, IDT = BASE + 0x100, BASE + 0x180, BASE + 0x1C0, BASE + 0x1000
AFTER_CALL = BASE + 0x7F
"""The last instruction before this one is the call of `work`."""

UNDEFINED, PROTECTED, ASKING = WORK, WORK + 0x20, WORK + 0x10
SELECTOR = 0x1238
PORT = 0x1234
SYMBOLS = {"start": BASE, "work": WORK, "skip": SKIP, "stop": STOP}

# Gates of 64-bit interrupts, by code selector 0x20; what is loaded into DS last selects beyond the
# descriptor table's limit.
_PIECES = {
    BASE: f"""
        mov edi, {IDT}
        mov eax, {0x20 << 16 | SKIP & 0xFFFF}
        mov [rdi + 16 * 6], eax
        mov dword ptr [rdi + 16 * 6 + 4], {SKIP & 0xFFFF0000 | 0x8E00}
        mov eax, {0x20 << 16 | STOP & 0xFFFF}
        mov [rdi + 16 * 13], eax
        mov dword ptr [rdi + 16 * 13 + 4], {STOP & 0xFFFF0000 | 0x8E00}
        push rdi
        sub rsp, 8
        mov word ptr [rsp + 6], 0xfff
        lidt [rsp + 6]
        mov dword ptr [0xb80a0], 0x07690748
    """,
    AFTER_CALL - 5: f"call {WORK}\ncli\nhlt",
    UNDEFINED: f"ud2\nmov edx, {PORT}",
    ASKING: f"in al, dx\nmov eax, {SELECTOR}",
    PROTECTED: "mov ds, eax",
    SKIP: "add qword ptr [rsp], 2\niretq",
    STOP: "cli\nhlt",
}
_NOP = b"\x90"


def failing_guest(symbols=SYMBOLS):
    """The guest's file, with these symbols, or none."""
    content = b""
    for address, source in _PIECES.items():
        content = content.ljust(address - BASE, _NOP) + code(source, bits=64, address=address)
    return elf_file([Part(BASE, content, size=0x2000)], bits=64, symbols=symbols)
